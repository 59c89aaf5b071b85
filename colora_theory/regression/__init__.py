"""Regression on a person's own table: rows, users, features with names; scikit-learn's conventions.

May import estimators and what lies below them.
"""
