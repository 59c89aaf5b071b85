"""Runs trials: one trial, where and in which order trials run, and everything that a run needs of the machine.

May import results and what lies below them, never verdicts, figures or reports.
"""
