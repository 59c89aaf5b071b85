"""A theory lab for collaborative low-rank adaptation: generate problems, recover them, check the guarantees.

The public names are loaded on first use, so that the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colora_theory import estimators, guarantees, testing
    from colora_theory.counterexample import attack
    from colora_theory.engine.run import run
    from colora_theory.errors import InputError
    from colora_theory.figures.again import draw
    from colora_theory.guarantees.held_out import certify, cross_certify
    from colora_theory.guarantees.split_certificate import split_certify
    from colora_theory.model import metrics
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.linalg import subspace_distance
    from colora_theory.model.problem import Problem
    from colora_theory.model.sampling import sample_data
    from colora_theory.model.truth import Truth, sample_truth
    from colora_theory.regression.compare import compare
    from colora_theory.regression.regressor import CoLoRARegressor
    from colora_theory.regression.splitters import UserShotsSplit, WithinUserSplit
    from colora_theory.results.results import Results
    from colora_theory.studies.study import Study
    from colora_theory.verdicts.check import Verdict, check

__version__ = "0.1.0"

_MODULES = {
    "estimators": "estimators",
    "guarantees": "guarantees",
    "metrics": "model.metrics",
    "sources": "sources",
    "testing": "testing",
}
_HOMES = {
    "CoLoRARegressor": "regression.regressor",
    "Dataset": "model.dataset",
    "InputError": "errors",
    "Problem": "model.problem",
    "Results": "results.results",
    "Study": "studies.study",
    "Truth": "model.truth",
    "UserShotsSplit": "regression.splitters",
    "Verdict": "verdicts.verdict",
    "attack": "counterexample",
    "certify": "guarantees.held_out",
    "check": "verdicts.check",
    "draw": "figures.again",
    "cross_certify": "guarantees.held_out",
    "split_certify": "guarantees.split_certificate",
    "WithinUserSplit": "regression.splitters",
    "compare": "regression.compare",
    "run": "engine.run",
    "sample_data": "model.sampling",
    "sample_truth": "model.truth",
    "subspace_distance": "model.linalg",
}

__all__ = [  # noqa: RUF022 (grouped: modules, then names)
    "estimators",
    "guarantees",
    "metrics",
    "sources",
    "testing",
    "CoLoRARegressor",
    "Dataset",
    "InputError",
    "Problem",
    "Results",
    "Study",
    "Truth",
    "UserShotsSplit",
    "Verdict",
    "attack",
    "certify",
    "check",
    "draw",
    "cross_certify",
    "split_certify",
    "WithinUserSplit",
    "compare",
    "run",
    "sample_data",
    "sample_truth",
    "subspace_distance",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"colora_theory.{_MODULES[name]}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"colora_theory.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'colora_theory' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
