"""Estimators that misbehave, and one guarantee; importable by worker processes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from colora_theory.estimators import Estimator, Fit
from colora_theory.guarantees import Guarantee, Hypothesis


def zero(data: Any, **fields: Any) -> Fit:
    """An estimate of all zeros."""
    return Fit(dense=np.zeros((data.num_users, data.dim_in, data.dim_out)), **{"status": "converged", **fields})


@dataclass(frozen=True, kw_only=True)
class Noise(Estimator):
    """Cheap, random and healthy."""

    name = "fake_noise"
    scale: float = 1.0

    def fit(self, data, rng=None):
        weights = self.scale * rng.standard_normal((data.num_users, data.dim_in, data.dim_out))
        return Fit(status="converged", dense=weights, sweeps=3)


@dataclass(frozen=True, kw_only=True)
class Raises(Estimator):
    """Fails for odd draws."""

    name = "fake_raises"

    def fit(self, data, rng=None):
        if rng.random() < 0.5:
            raise ZeroDivisionError("no\nluck")
        return zero(data)


@dataclass(frozen=True, kw_only=True)
class NotFinite(Estimator):
    """Returns NaN, or numbers whose squares overflow."""

    name = "fake_not_finite"
    value: float = 1e200

    def fit(self, data, rng=None):
        fit = zero(data)
        fit.dense[0, 0, 0] = float("nan") if self.value == 0 else self.value
        return fit


@dataclass(frozen=True, kw_only=True)
class Loops(Estimator):
    """Never ends, and swallows exceptions while at it."""

    name = "fake_loops"

    def fit(self, data, rng=None):
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)


@dataclass(frozen=True, kw_only=True)
class Hangs(Estimator):
    """Never returns from native code that holds the interpreter's lock."""

    name = "fake_hangs"

    def fit(self, data, rng=None):
        deque(repeat(None), maxlen=0)


@dataclass(frozen=True, kw_only=True)
class Kills(Estimator):
    """Kills its process; only while `marker` does not exist, when one is given."""

    name = "fake_kills"
    marker: str = ""

    def fit(self, data, rng=None):
        if not self.marker or not Path(self.marker).exists():
            if self.marker:
                Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return zero(data)


@dataclass(frozen=True, kw_only=True)
class Odd(Estimator):
    """Returns what it should not."""

    name = "fake_odd"
    what: str = "status"

    def fit(self, data, rng=None):
        if self.what == "exit":
            raise SystemExit(3)
        if self.what == "shape":
            return Fit(status="converged", dense=np.zeros((1, 1)))
        if self.what == "write":
            data.responses[...] = 0.0
        return zero(data, status="splendid") if self.what == "status" else None


@dataclass(frozen=True, kw_only=True)
class Sleeps(Estimator):
    """Takes its time."""

    name = "fake_sleeps"
    seconds: float = 0.05

    def fit(self, data, rng=None):
        time.sleep(self.seconds)
        return zero(data)


@dataclass(frozen=True, kw_only=True)
class Oracle(Estimator):
    """Wants something of the truth."""

    name = "fake_oracle"
    side_information = ("input_subspace",)
    input_subspace: Any = None
    rank: Any = None

    def fit(self, data, rng=None):
        return zero(data, message=f"{self.input_subspace.shape} {self.rank}")


class PerTrial(Guarantee):
    """The sum of squared responses is what it is.

    A certificate about nothing.
    """

    name = "fake_per_trial"
    kind = "certificate"
    side = "upper"
    source = "nowhere"
    per_trial = True

    def conditions(self, problem):
        return [Hypothesis("few users", problem.num_users < 8, "num_users must be below 8")]

    def realised(self, problem, truth, data, fit=None):
        return float((data.responses**2).sum())

    def observed(self, problem, truth, data, fit):
        return 1.0


ESTIMATORS = (Noise, Raises, NotFinite, Loops, Hangs, Kills, Odd, Sleeps, Oracle)
GUARANTEES = (PerTrial,)


def register() -> None:
    """Add everything to the registries (also in a process of its own)."""
    from colora_theory.estimators import base as estimators
    from colora_theory.guarantees import base as guarantees

    for cls in ESTIMATORS:
        estimators._registry.register(cls.name, cls)
    for guarantee in GUARANTEES:
        if guarantee.name not in guarantees._registry._items:
            guarantees._registry.register(guarantee.name, guarantee())


def unregister() -> None:
    """Take everything out again: other tests go through the registries."""
    from colora_theory.estimators import base as estimators
    from colora_theory.guarantees import base as guarantees

    for cls in ESTIMATORS:
        estimators._registry._items.pop(cls.name, None)
    for guarantee in GUARANTEES:
        guarantees._registry._items.pop(guarantee.name, None)


def study(**changes: Any) -> dict[str, Any]:
    """A small study as nested tables; `changes` replace whole sections."""
    tables: dict[str, Any] = {
        "schema": 1,
        "name": "small",
        "seed": 7,
        "problem": {"num_samples": 6, "dim_in": 5, "rank": 2, "noise_std": 0.1},
        "grid": {"num_users": [3, 5]},
        "estimator": [{"name": "fake_noise"}, {"name": "full_finetuning"}],
        "metrics": {"use": ["parameter_error", "subspace_distance"]},
        "run": {"trials": 12, "batch": 5},
    }
    return {**tables, **changes}
