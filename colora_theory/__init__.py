"""A theory lab for collaborative low-rank adaptation: generate problems, recover them, check the guarantees.

The public names are loaded on first use, so that the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colora_theory import estimators, guarantees, metrics, testing
    from colora_theory.data import Dataset, sample_data
    from colora_theory.errors import InputError
    from colora_theory.linalg import subspace_distance
    from colora_theory.problem import Problem
    from colora_theory.regressor import CoLoRARegressor
    from colora_theory.results import Results
    from colora_theory.study import Study
    from colora_theory.sweep import run
    from colora_theory.truth import Truth, sample_truth
    from colora_theory.verdicts import Verdict, check

__version__ = "0.1.0"

_MODULES = ("estimators", "guarantees", "metrics", "testing")
_HOMES = {
    "CoLoRARegressor": "regressor",
    "Dataset": "data",
    "InputError": "errors",
    "Problem": "problem",
    "Results": "results",
    "Study": "study",
    "Truth": "truth",
    "Verdict": "verdicts",
    "check": "verdicts",
    "run": "sweep",
    "sample_data": "data",
    "sample_truth": "truth",
    "subspace_distance": "linalg",
}

__all__ = [  # noqa: RUF022 (grouped: modules, then names)
    "estimators",
    "guarantees",
    "metrics",
    "testing",
    "CoLoRARegressor",
    "Dataset",
    "InputError",
    "Problem",
    "Results",
    "Study",
    "Truth",
    "Verdict",
    "check",
    "run",
    "sample_data",
    "sample_truth",
    "subspace_distance",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"colora_theory.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"colora_theory.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'colora_theory' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
