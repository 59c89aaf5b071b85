"""Guarantees by name: `get("local_least_squares_risk").value(problem)`; one file per family of theorem."""

from colora_theory.guarantees.base import Guarantee, Hypothesis, get, names, register
from colora_theory.guarantees.base import all_guarantees as all

__all__ = ["Guarantee", "Hypothesis", "all", "get", "names", "register"]
