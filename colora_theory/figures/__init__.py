"""Draws tables: what a figure shows, computed from stored results, and how each kind of figure looks.

May import verdicts, the engine (a trajectory runs its trials again) and what lies below them.
"""
