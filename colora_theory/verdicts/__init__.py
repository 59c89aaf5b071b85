"""Claims against numbers: the statistics of one claim, of claims over a grid, and of a whole study.

May import results and what lies below them.
"""
