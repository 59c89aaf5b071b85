"""From stored results to the tables that figures draw: intervals, slopes, overlays. Draws nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import stats

from colora_theory import guarantees
from colora_theory.errors import InputError
from colora_theory.linalg import Array

if TYPE_CHECKING:
    import pandas as pd

    from colora_theory.problem import Problem
    from colora_theory.results import Results

#: Level of the Monte Carlo intervals in tables and figures.
LEVEL: Final = 0.95

#: What the kinds of guarantee are called in a legend.
STANDING: Final = {
    "identity": "proved",
    "certificate": "proved",
    "bound": "proved",
    "rate": "published up to a constant",
    "prediction": "prediction",
}


def mean_interval(mean: Any, mcse: Any, level: float = LEVEL) -> tuple[Array, Array]:
    """Normal interval of a Monte Carlo mean from its standard error.

    >>> low, high = mean_interval(1.0, 0.1)
    >>> round(float(low), 3), round(float(high), 3)
    (0.804, 1.196)
    """
    half = stats.norm.ppf(0.5 + level / 2) * np.asarray(mcse, float)
    return np.asarray(mean, float) - half, np.asarray(mean, float) + half


def wilson_interval(successes: Any, trials: Any, level: float = LEVEL) -> tuple[Array, Array]:
    """Wilson score interval of a success rate; stays inside [0, 1] and is honest at 0 and 1.

    >>> low, high = wilson_interval(0, 10)
    >>> round(float(low), 3), round(float(high), 3)
    (0.0, 0.278)
    """
    s, n = np.asarray(successes, float), np.asarray(trials, float)
    z2 = stats.norm.ppf(0.5 + level / 2) ** 2
    centre = (s + z2 / 2) / (n + z2)
    half = np.sqrt(z2) / (n + z2) * np.sqrt(s * (n - s) / n + z2 / 4)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def log_log_slope(x: Any, y: Any, y_error: Any, level: float = LEVEL) -> tuple[float, float, float]:
    """Slope of log y against log x by weighted least squares, with its interval (slope, low, high).

    Parameters
    ----------
    x, y : positive, shape (n,), n ≥ 2.
    y_error : standard errors of y, shape (n,).

    >>> slope, low, high = log_log_slope([1, 10, 100], [1, 0.1, 0.01], [0.1, 0.01, 0.001])
    >>> round(slope, 6), low < -1 < high
    (-1.0, True)
    """
    x, y, error = (np.asarray(a, float) for a in (x, y, y_error))
    if len(x) < 2 or (x <= 0).any() or (y <= 0).any():
        raise InputError(f"a log-log slope needs at least two positive points, got x = {x}, y = {y}.")
    weight = (y / np.maximum(error, 1e-300)) ** 2
    weight = np.minimum(weight, 1e30)
    centred = np.log(x) - np.average(np.log(x), weights=weight)
    spread = float(np.sum(weight * centred**2))
    slope = float(np.sum(weight * centred * np.log(y)) / spread)
    half = float(stats.norm.ppf(0.5 + level / 2) / math.sqrt(spread))
    return slope, slope - half, slope + half


def points(results: Results, metric: str) -> pd.DataFrame:
    """Summary rows of one metric with their Monte Carlo intervals: columns of `Results.summary`, low, high.

    A share (the metric "success") gets a Wilson interval, everything else a normal one.
    """
    table = results.summary()
    table = table[table["metric"] == metric].copy()
    if metric == "success":
        table["low"], table["high"] = wilson_interval(table["mean"] * table["n"], table["n"])
    else:
        table["low"], table["high"] = mean_interval(table["mean"], table["mcse"])
    return table


def per_metric(metric: str, claimed: str, problem: Problem) -> float | None:
    """Factor that turns a claim about `claimed` into one about `metric`; None when there is none.

    The sum of the users' errors and their mean differ by the number of users.
    """
    if metric == claimed:
        return 1.0
    if (metric, claimed) == ("mean_user_error", "parameter_error"):
        return 1.0 / problem.num_users
    if (metric, claimed) == ("parameter_error", "mean_user_error"):
        return float(problem.num_users)
    return None


def overlay(results: Results, name: str, metric: str) -> pd.DataFrame:
    """What guarantee `name` claims about `metric` in every cell: varied fields, cell, value, standing, title.

    A claim evaluated inside the trials is averaged over them. Cells outside the hypotheses are left out.
    """
    import pandas as pd

    guarantee = guarantees.get(name)
    stored = None
    if guarantee.per_trial:
        frame = results.guarantee_values(name)
        stored = frame.groupby("cell")["claim"].mean()
    rows = []
    for cell in results.study.cells:
        factor = per_metric(metric, guarantee.metric, cell.problem)
        if factor is None:
            raise InputError(
                f"guarantee {name!r} speaks about {guarantee.metric!r}, the figure shows {metric!r}; "
                "choose another overlay or another y."
            )
        value = guarantee.value(cell.problem) if stored is None else stored.get(cell.id, math.nan)
        if math.isfinite(value):
            rows.append({"cell": cell.id, **cell.varied, "value": factor * value})
    columns = ["cell", *results.study.cells[0].varied, "value"]
    table = pd.DataFrame(rows, columns=columns)
    table["standing"] = STANDING[guarantee.kind]
    table["name"] = name
    return table
