"""Is learning together worth it? Cross-validation against the usual models, with paired intervals."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from colora_theory.errors import InputError
from colora_theory.estimators.posterior import posterior_mean
from colora_theory.model.checks import check_real
from colora_theory.model.linalg import Array
from colora_theory.regression.evidence_ridge import evidence_ridge
from colora_theory.regression.labels import labels_of, numbered
from colora_theory.regression.regressor import CoLoRARegressor, UnknownUserWarning
from colora_theory.regression.splitters import WithinUserSplit
from colora_theory.regression.tables import response_of, table_of
from colora_theory.regression.units import Units, sufficient_rows

_log = logging.getLogger(__name__)

#: Most random slopes that MixedLM gets with their full covariance.
_SLOPES = 4


#: Predictions of rows and their users.
Rule: TypeAlias = Callable[[Array, NDArray[np.int64]], Array]


class Rival(Protocol):
    """A function of rows to learn from that returns one of rows to predict."""

    def __call__(self, x: Array, y: Array, which: NDArray[np.int64]) -> Rule: ...


def compare(
    model: CoLoRARegressor,
    X: Any,
    y: Any,
    groups: Any = None,
    *,
    split: Any = None,
    mixed: bool | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Prediction errors of `model` and of the usual models on rows that none of them has seen.

    Parameters
    ----------
    model : its settings are used, fitted anew in every fold. X, y, groups : as for `fit`, one output.
    split : a splitter of groups; None: `WithinUserSplit(5)`. `UserShotsSplit` holds users out.
    mixed : whether to fit statsmodels' MixedLM where it is installed; None: with at most 1 000 users.
    level : of the intervals.

    Returns a data frame, best first, with a row per model: "CoLoRA", "alone" (a ridge regression per user),
    "pooled" (one for all), "user intercepts" (one for all with an intercept per user) and "MixedLM" (random
    intercepts, and random slopes up to four features). Columns: rmse; difference, its mean squared error less
    CoLoRA's, with low and high, a paired interval (Student's t over users, who are the independent units);
    seconds. A model that cannot be fitted has NaN.
    """
    check_real("level", level, 1e-6, 1.0 - 1e-9)
    table = table_of(X, model.group_column)
    target = response_of(y, len(table.x))
    if target.ndim != 1:
        raise InputError(f"y must have one output to compare, got shape {target.shape}.")
    given = table.groups if groups is None else groups
    if given is None:
        raise InputError("groups must be given to compare, or group_column=… to the model.")
    _, which = numbered(labels_of("groups", given, len(target)))
    parameters = model.get_params() | {"group_column": None, "single_user": False}
    rivals: dict[str, Rival] = {
        "CoLoRA": _ours(parameters),
        "alone": _alone,
        "pooled": _pooled,
        "user intercepts": _intercepts,
    }
    if (mixed or (mixed is None and which.max() < 1000)) and _has_statsmodels():
        rivals["MixedLM"] = _mixed
    folds = list((split or WithinUserSplit(5)).split(table.x, target, which))
    errors = {name: np.full(len(target), np.nan) for name in rivals}
    seconds = dict.fromkeys(rivals, 0.0)
    for number, (train, test) in enumerate(folds, start=1):
        for name, rival in rivals.items():
            _log.info("comparison, part %d of %d: %s", number, len(folds), name)
            begun = time.perf_counter()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    predict = rival(table.x[train], target[train], which[train])
                    errors[name][test] = (target[test] - predict(table.x[test], which[test])) ** 2
            except (np.linalg.LinAlgError, ValueError) as error:
                if name == "CoLoRA":
                    raise
                del error  # a rival that cannot be fitted has no number
            seconds[name] += time.perf_counter() - begun
    tested = np.unique(np.concatenate([test for _, test in folds]))
    rows = {name: _paired(errors[name], errors["CoLoRA"], which, tested, level) for name in rivals}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["rmse", "difference", "low", "high"])
    frame["seconds"] = pd.Series(seconds)
    frame.index.name = "model"
    return frame.sort_values("rmse")


def _paired(
    mine: Array, ours: Array, which: NDArray[np.int64], tested: NDArray[np.int64], level: float
) -> tuple[float, float, float, float]:
    """Root mean squared error, and the mean difference of squared errors with its interval, users as clusters."""
    rmse = float(np.sqrt(mine[tested].mean()))
    if mine is ours or not np.isfinite(rmse):
        return rmse, 0.0 if mine is ours else np.nan, np.nan, np.nan
    difference = (mine - ours)[tested]
    mean = float(difference.mean())
    users, number = np.unique(which[tested], return_inverse=True)
    k = len(users)
    if k < 2:
        return rmse, mean, np.nan, np.nan
    sums = np.bincount(number, difference - mean, k)
    error = float(np.sqrt(k / (k - 1) * (sums**2).sum())) / len(tested)
    wide = float(stdtrit(k - 1, 0.5 + 0.5 * level)) * error
    return rmse, mean, mean - wide, mean + wide


def _ours(parameters: dict[str, Any]) -> Rival:
    def fit(x: Array, y: Array, which: NDArray[np.int64]) -> Rule:
        model = CoLoRARegressor(**parameters).fit(x, y, groups=which)

        def predict(new: Array, users: NDArray[np.int64]) -> Array:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnknownUserWarning)
                out = model.predict(new, groups=users)
            assert isinstance(out, np.ndarray)
            return out

        return predict

    return fit


def _ridge(x: Array, y: Array) -> Callable[[Array], Array]:
    units = Units.of(x, y[:, None], None, True)
    data = sufficient_rows(x, y[:, None], np.zeros(len(x), dtype=np.int64), 1, units)
    if not data.responses.any():
        return lambda new: np.full(len(new), float(y.mean()))
    coef, intercept = units.weights(posterior_mean(*evidence_ridge(data, True))[0])
    return lambda new: new @ coef[0, :, 0] + intercept[0, 0]


def _pooled(x: Array, y: Array, which: NDArray[np.int64]) -> Rule:
    rule = _ridge(x, y)
    return lambda new, users: rule(new)


def _alone(x: Array, y: Array, which: NDArray[np.int64]) -> Rule:
    rules = {int(user): _ridge(x[which == user], y[which == user]) for user in np.unique(which)}

    def predict(new: Array, users: NDArray[np.int64]) -> Array:
        out = np.full(len(new), float(y.mean()))
        for user in np.unique(users):
            if int(user) in rules:
                out[users == user] = rules[int(user)](new[users == user])
        return out

    return predict


def _intercepts(x: Array, y: Array, which: NDArray[np.int64]) -> Rule:
    k = int(which.max()) + 1
    counts = np.maximum(np.bincount(which, minlength=k), 1)
    means = np.stack([np.bincount(which, x[:, j], k) / counts for j in range(x.shape[1])], axis=1)
    levels = np.bincount(which, y, k) / counts
    rule = _ridge(x - means[which], y - levels[which])
    slope = rule(np.eye(x.shape[1])) - rule(np.zeros((1, x.shape[1])))
    own = levels - means @ slope
    seen = np.bincount(which, minlength=k) > 0

    def predict(new: Array, users: NDArray[np.int64]) -> Array:
        known = (users < k) & seen[np.minimum(users, k - 1)]
        return new @ slope + np.where(known, own[np.minimum(users, k - 1)], float(own[seen].mean()))

    return predict


def _mixed(x: Array, y: Array, which: NDArray[np.int64]) -> Rule:
    from statsmodels.regression.mixed_linear_model import MixedLM

    units = Units.of(x, y[:, None], None, True)
    design = np.roll(units.standard(x), 1, axis=1)  # the intercept first
    kept: list[int] = []
    for j in range(design.shape[1]):  # a singular design would end the fit
        if np.linalg.matrix_rank(design[:, [*kept, j]]) > len(kept):
            kept.append(j)
    own = slice(None) if x.shape[1] <= _SLOPES else slice(0, 1)
    answer = (y - units.y_centre[0]) / units.y_scale[0]
    found = MixedLM(answer, design[:, kept], which, exog_re=design[:, own]).fit()
    effects = {int(user): np.asarray(effect) for user, effect in found.random_effects.items()}

    def predict(new: Array, users: NDArray[np.int64]) -> Array:
        rows = np.roll(units.standard(new), 1, axis=1)
        out = rows[:, kept] @ np.asarray(found.fe_params)
        for user in np.unique(users):
            if int(user) in effects:
                out[users == user] += rows[users == user][:, own] @ effects[int(user)]
        return np.asarray(units.y_centre[0] + units.y_scale[0] * out)

    return predict


def _has_statsmodels() -> bool:
    try:  # imported here, not inside a fold: its import shows warnings that a fold hides
        import statsmodels.regression.mixed_linear_model  # noqa: F401
    except ImportError:
        return False
    return True
