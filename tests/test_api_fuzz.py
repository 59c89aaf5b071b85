"""Random hostile calls of every public function and class: each ends in a value or in one clear sentence.

`pytest -m slow tests/test_api_fuzz.py` makes 60 000 calls; the ordinary suite some hundred.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import fractions
import inspect
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.exceptions import NotFittedError

import colora_theory as ct

#: What a caller may be told: a refusal, or that the object is not fitted yet (scikit-learn's own word).
TOLD = (ct.InputError, NotFittedError)
LONGEST_MESSAGE = 2000

HOSTILE: list[Callable[[], Any]] = [
    *(
        lambda v=value: v
        for value in [
            None, True, False, -1, 0, 1, 2, 2**70, 10**400, 1.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"),
            1 + 2j, "", "x", "altmin", "\0", b"x", (), (1, 2), (0,), {}, {"a": 1}, {"rank": None}, [], [[]],
            [1, 2], [None], ["a", 1], [[1, 2], [3]], range(3), object, len, Path("/dev/null"), pd.NA,
            np.float32(3), np.int8(3), np.bool_(True), np.datetime64("2020-01-01"), fractions.Fraction(1, 3),
            decimal.Decimal("1.5"), datetime.date(2020, 1, 1),
        ]
    ),
    object,
    lambda: iter([1, 2]),
    lambda: np.empty(0),
    lambda: np.empty((0, 4)),
    lambda: np.zeros((2, 3, 4)),
    lambda: np.zeros((1, 1, 1, 1, 1)),
    lambda: np.full((12, 4), np.nan),
    lambda: np.full((4, 2), np.inf),
    lambda: np.full((12, 4), 1e200),
    lambda: np.array(["a", "b"]),
    lambda: np.array([None, {}], dtype=object),
    lambda: np.ones((12, 4), dtype=complex),
    lambda: np.ma.masked_array(np.ones(12), mask=[True] + [False] * 11),
    lambda: np.arange(12).astype("datetime64[D]"),
    lambda: scipy.sparse.eye(12, 4, format="csr"),
    lambda: pd.DataFrame({"a": [1.0, np.nan], "b": ["x", "y"]}),
    lambda: pd.Series(range(12)),
    lambda: pd.Series([pd.NA] * 12),
    lambda: pd.Categorical(["u", "v"] * 6),
    lambda: np.random.RandomState(1),
]  # fmt: skip


class World:
    """Small valid objects to call everything with."""

    def __init__(self, folder: Path) -> None:
        self.rng = np.random.default_rng(1)
        common = {"num_users": 3, "rank": 1, "noise_std": 0.1, "pretrained_norm": 1.0}
        self.problem = ct.Problem(num_samples=6, dim_in=4, **common)
        self.sensing = ct.Problem(num_samples=9, dim_in=3, dim_out=2, design="sensing", **common)
        matrices = ct.Problem(num_samples=8, dim_in=4, dim_out=3, **common)
        problems = (self.problem, self.sensing, matrices)
        self.drawn = {p: ct.testing.replay(p, 0, estimator="altmin") for p in problems}
        table = {
            "schema": 1,
            "name": "calls",
            "seed": 1,
            "problem": {"num_samples": 6, "dim_in": 4, "rank": 1, "noise_std": 0.1},
            "grid": {"num_users": [2, 3]},
            "estimator": [{"name": "altmin"}],
            "metrics": {"use": ["parameter_error", "subspace_distance"]},
            "guarantee": [{"name": "oracle_inequality"}],
            "run": {"trials": 2},
        }
        self.study = ct.Study.from_dict(table)
        self.folder = folder
        self.results = ct.run(self.study, folder / "run", backend="inline")
        self.x, self.y = self.rng.standard_normal((12, 4)), self.rng.standard_normal(12)
        self.groups = np.repeat(["a", "b", "c"], 4)
        self.fitted = ct.CoLoRARegressor(rank=1).fit(self.x, self.y, self.groups)


def calls(world: World) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Every entrance: what is called, and arguments that are right."""
    p = world.problem
    truth, data, fit = world.drawn[p]
    new = lambda: np.random.default_rng(3)  # noqa: E731
    arrays = {"covariates": data.covariates, "responses": data.responses, "counts": data.counts}
    frame = world.results.frame
    alone = ct.estimators.get("full_finetuning")()
    out: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "Problem": (ct.Problem, dict(p.content())),
        "sample_truth": (ct.sample_truth, {"problem": p, "rng": new()}),
        "sample_data": (ct.sample_data, {"problem": p, "truth": truth, "rng": new()}),
        "subspace_distance": (
            ct.subspace_distance,
            {"estimate": truth.input_subspace, "target": truth.input_subspace},
        ),
        "Dataset": (ct.Dataset, {**arrays, "pretrained": None, "sufficient": False}),
        "Dataset.split": (data.split, {"parts": 2, "rng": new()}),
        "Dataset.take": (data.take, {"users": [0, 1]}),
        "Dataset.with_responses": (
            lambda responses: data.with_responses(responses),
            {"responses": data.responses},
        ),
        "Truth": (
            ct.Truth,
            {
                "input_subspace": truth.input_subspace,
                "output_subspace": truth.output_subspace,
                "cores": truth.cores,
                "pretrained": None,
                "deviations": None,
                "intercepts": None,
            },
        ),
        "certify": (ct.certify, {"fit": fit, "held_out": data, "eta": 0.05, "noise_std": None}),
        "cross_certify": (
            ct.cross_certify,
            {"estimator": alone, "data": data, "folds": 2, "eta": 0.1, "rng": new()},
        ),
        "split_certify": (
            ct.split_certify,
            {
                "estimator": ct.estimators.get("altmin")(rank=1),
                "data": data,
                "eta": 0.1,
                "noise_std": 0.1,
                "by": "rows",
                "parts": 2,
                "rng": new(),
                "fit": fit,
            },
        ),
        "Study.from_dict": (ct.Study.from_dict, {"raw": {}, "overrides": (), "quick": False}),
        "Study.from_toml": (ct.Study.from_toml, {"path": "nowhere.toml", "overrides": (), "quick": False}),
        "Results.open": (ct.Results.open, {"path": world.results.path}),
        "Results.frame": (frame, dict.fromkeys(inspect.signature(frame).parameters, False)),
        "check": (ct.check, {"results": world.results}),
        "draw": (ct.draw, {"results": world.results, "kind": "curve", "x": "num_users", "y": "parameter_error"}),
        "run": (
            ct.run,
            {
                "study": world.study,
                "out": world.folder / "run",
                "n_jobs": 1,
                "shard": None,
                "backend": "inline",
                "retry_failed": None,
                "accept_version": False,
            },
        ),
        "attack": (
            ct.attack,
            {
                "claim": "oracle_inequality",
                "bounds": {"dim_in": 4, "num_users": 3, "num_samples": [4, 8], "rank": 1},
                "trials": 150,
                "alpha": 0.05,
                "seed": 0,
            },
        ),
        "WithinUserSplit": (
            lambda x, groups, **kw: list(ct.WithinUserSplit(**kw).split(x, groups=groups)),
            {"x": world.x, "groups": world.groups, "n_splits": 2, "random_state": 0},
        ),
        "UserShotsSplit": (
            lambda x, groups, **kw: list(ct.UserShotsSplit(**kw).split(x, groups=groups)),
            {"x": world.x, "groups": world.groups, "n_splits": 2, "shots": 1, "random_state": 0},
        ),
        "testing.replay": (ct.testing.replay, {"problem": p, "trial": 1, "seed": 0, "estimator": "altmin"}),
        "testing.assert_guarantee": (
            ct.testing.assert_guarantee,
            {"name": "cramer_rao", "problem": p, "trials": 8, "alpha": 1e-6, "seed": 1, "sequential": False},
        ),
        "testing.assert_holds": (
            ct.testing.assert_holds,
            {
                "claim": lambda problem: 1e9,
                "problem": p,
                "metric": "parameter_error",
                "estimator": "altmin",
                "params": {},
                "side": "upper",
                "delta": None,
                "trials": 8,
                "alpha": 1e-3,
                "seed": 0,
            },
        ),
        "testing.assert_rate": (
            ct.testing.assert_rate,
            {
                "metric": "parameter_error",
                "problem": p,
                "against": "num_samples",
                "values": [6, 12, 24],
                "slope": -1.0,
                "estimator": "full_finetuning",
                "trials": 8,
            },
        ),
    }
    for name in ct.estimators.names():
        for p_, (truth_, data_, _) in world.drawn.items():
            sensing, vector = p_.design == "sensing", p_.dim_out == 1
            if name in ("federated", "first_order", "gradient_multitask") and not vector:
                continue  # they repeat runs of papers, which have one output
            if (name == "bitfit" and sensing) or (name == "shared_plus_personal" and vector):  # not defined there
                continue
            out[f"estimator {name} {p_.design} {p_.dim_out}"] = estimator_call(name, p_, truth_, data_)
    for name in ct.guarantees.names():
        given = {"problem": p, "truth": truth, "data": data, "fit": fit}
        out[f"guarantee {name}"] = (lambda name=name, **kw: ct.guarantees.get(name).value(**kw), given)
    for name in ("parameter_error", "prediction_risk", "relative_error", "success", "coverage"):
        if hasattr(ct.metrics, name):
            out[f"metric {name}"] = (getattr(ct.metrics, name), {"problem": p, "truth": truth, "fit": fit})
    return out | regressor_calls(world)


def estimator_call(name: str, problem: Any, truth: Any, data: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """An estimator with its parameters; those that come from the truth are the right ones."""
    cls = ct.estimators.get(name)
    right: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.name in cls.side_information:
            right[field.name] = getattr(truth, field.name)
        elif field.name == "rank":
            right[field.name] = problem.rank
        elif field.name in ("max_sweeps", "steps"):
            right[field.name] = 4
        else:
            right[field.name] = field.default

    def call(data: Any, rng: Any, **params: Any) -> Any:
        return cls(**params).fit(data, rng)

    return call, {**right, "data": data, "rng": np.random.default_rng(5)}


def regressor_calls(world: World) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """The regressor: settings, fitting, predicting."""
    rows = {"X": world.x, "y": world.y, "groups": world.groups}

    def fit(X: Any, y: Any, groups: Any, sample_weight: Any, **settings: Any) -> Any:
        return ct.CoLoRARegressor(**settings).fit(X, y, groups, sample_weight)

    settings = {**ct.CoLoRARegressor().get_params(deep=False), "estimator": "altmin", "rank": 1}
    model = world.fitted
    return {
        "regressor fit": (fit, {**rows, "sample_weight": None, **settings}),
        "regressor predict": (model.predict, {"X": world.x, "groups": world.groups, "return_std": False}),
        "regressor predict_interval": (
            model.predict_interval,
            {"X": world.x, "groups": world.groups, "level": 0.9},
        ),
        "regressor score": (model.score, {**rows, "sample_weight": None}),
        "regressor knows": (model.knows, {"groups": world.groups}),
        "regressor partial_user": (
            model.partial_user,
            {"X_new": world.x[:3], "y_new": world.y[:3], "user": "new"},
        ),
        "regressor certify": (model.certify, {**rows, "eta": 0.05, "noise_std": None}),
    }


def told(name: str, function: Callable[..., Any], given: dict[str, Any], hostile: dict[str, Any]) -> None:
    """Make one call; anything but a value or one sentence is a failure that says what was called."""
    message = "…"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(**{**given, **hostile})
    except TOLD as error:
        message = str(error).strip()
    except Exception as error:
        false = name.startswith("testing.assert") and type(error) is AssertionError
        own = hostile.get("claim") in (object, len)  # what the caller's function raises is raised as it is
        if not false and not own:
            raise AssertionError(f"{name}({hostile!r:.300}): {type(error).__name__}: {error}") from error
    assert 0 < len(message) <= LONGEST_MESSAGE, (name, hostile)


def hostile_calls(folder: Path, times: int, seed: int) -> None:
    """Make random calls in a folder of their own: "x" is also the name of a folder to write to."""
    rng = random.Random(seed)
    world = World(folder)
    entrances = calls(world)
    names = sorted(entrances)
    for _ in range(times):
        name = rng.choice(names)
        function, given = entrances[name]
        keys = rng.sample(sorted(given), k=min(len(given), rng.choice([1, 1, 1, 2])))
        told(name, function, given, {key: rng.choice(HOSTILE)() for key in keys})
        plt.close("all")


def test_the_right_arguments_are_right(tmp_path: Path) -> None:
    """Otherwise every hostile call would be refused for another reason than the hostile value."""
    for name, (function, given) in calls(World(tmp_path)).items():
        if name.startswith(("Study.from", "guarantee ")):  # nothing to read; claims that are not about this case
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(**given)


def test_hostile_calls_are_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile_calls(tmp_path, 400, seed=1)


@pytest.mark.slow
def test_many_hostile_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile_calls(tmp_path, 60_000, seed=2)
