"""Pages about finished studies: a self-contained HTML report, and the gallery of a folder of studies.

May import every other room; only the command line stands above.
"""
