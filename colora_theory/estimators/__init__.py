"""Estimators by name: `get("altmin")(rank=5).fit(data, rng)`; one file per family."""

from colora_theory.estimators.base import Estimator, Fit, all, get, names, register
from colora_theory.estimators.trace import Trace

__all__ = ["Estimator", "Fit", "Trace", "all", "get", "names", "register"]
