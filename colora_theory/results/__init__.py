"""What is stored of a study, and read back: the store, its tables, progress, merging and exporting.

May import studies and what lies below them; no trial is run and nothing is judged here.
"""
