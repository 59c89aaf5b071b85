"""From stored results to the tables that figures draw: intervals, slopes, overlays. Draws nothing."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import optimize, special, stats

from colora_theory import guarantees
from colora_theory.errors import InputError
from colora_theory.linalg import Array, subspace_distance
from colora_theory.trial import ESTIMATOR, Recipe, draw, stream

if TYPE_CHECKING:
    import pandas as pd

    from colora_theory.estimators import Fit
    from colora_theory.problem import Problem
    from colora_theory.results import Results
    from colora_theory.truth import Truth

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
    if guarantee.side == "threshold":
        raise InputError(f"guarantee {name!r} is a threshold; overlay it on a heatmap of {guarantee.metric!r}.")
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
        value = guarantee.value(cell.problem) if stored is None else float(stored.get(cell.id, math.nan))
        if math.isfinite(value):
            rows.append({"cell": cell.id, **cell.varied, "value": factor * value})
    columns = ["cell", *results.study.cells[0].varied, "value"]
    table = pd.DataFrame(rows, columns=columns)
    table["standing"] = STANDING[guarantee.kind]
    table["name"] = name
    return table


def threshold_line(results: Results, name: str, x: str, y: str) -> pd.DataFrame:
    """Where a threshold in the field `y` lies along the field `x`: columns x, value, standing, name."""
    import pandas as pd

    guarantee = guarantees.get(name)
    if guarantee.side != "threshold" or getattr(guarantee, "against", None) != y:
        raise InputError(f"guarantee {name!r} is no threshold in {y!r}; choose another overlay or another y.")
    rows = []
    for value in sorted({cell.varied[x] for cell in results.study.cells}):
        problem = next(cell.problem for cell in results.study.cells if cell.varied[x] == value)
        rows.append({x: value, "value": guarantee.value(problem)})
    table = pd.DataFrame(rows, columns=[x, "value"]).dropna()
    return table.assign(standing=STANDING[guarantee.kind], name=name)


def phase_boundary(x: Any, y: Any, successes: Any, trials: Any, level: float = 0.5) -> tuple[float, float, float]:
    """Logistic regression of success on log x and log y: (intercept, slope of log x, slope of log y).

    The success rate is `level` where log y = (logit(level) − intercept − slope_x log x)/slope_y. A weak ridge penalty
    keeps the coefficients finite when the two phases separate perfectly.

    >>> x, y = np.meshgrid([10.0, 20, 40, 80], [2.0, 4, 8, 16])
    >>> a, b, c = phase_boundary(x, y, np.where(x * y > 150, 20, 0), 20)
    >>> bool(abs(b / c - 1) < 0.2)
    True
    """
    columns = np.column_stack([np.ones(np.size(x)), np.log(np.ravel(x)), np.log(np.ravel(y))])
    s, n = (np.broadcast_to(np.ravel(a), len(columns)).astype(float) for a in (successes, trials))

    def loss(beta: Array) -> tuple[float, Array]:
        eta = columns @ beta
        value = np.logaddexp(0.0, eta) @ n - eta @ s + 1e-3 * float(beta @ beta)
        return float(value), columns.T @ (n * special.expit(eta) - s) + 2e-3 * beta

    found = optimize.minimize(loss, np.zeros(3), jac=True, method="BFGS").x
    found[0] -= special.logit(level)
    return float(found[0]), float(found[1]), float(found[2])


def pairs(results: Results, name: str) -> pd.DataFrame:
    """Claimed against observed of one guarantee, trial by trial: varied fields, estimator, claim, observed.

    Where the guarantee compares with a metric, having no observation of its own, that metric is the observed one.
    """
    table = results.guarantee_values(name)
    if table["observed"].isna().all():
        metric = guarantees.get(name).metric
        frame = results.frame(cell_id=True)
        frame = frame[frame["metric"] == metric][["cell", "trial", "estimator", "value"]]
        table = table.drop(columns="observed").merge(frame, on=["cell", "trial", "estimator"])
        table = table.rename(columns={"value": "observed"})
    return table.dropna(subset=["claim", "observed"])


def scatter_table(results: Results, name: str) -> pd.DataFrame:
    """`pairs` with the standing and the name of the guarantee."""
    return pairs(results, name).assign(standing=STANDING[guarantees.get(name).kind], name=name)


def boundary_line(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The contour of a success rate of one half over a grid: columns x, value. Empty when nothing changes."""
    import pandas as pd

    if table["mean"].min() > 0.5 or table["mean"].max() < 0.5:
        return pd.DataFrame(columns=[x, "value"])
    a, b, c = phase_boundary(table[x], table[y], table["mean"] * table["n"], table["n"])
    line = np.geomspace(table[x].min(), table[x].max(), 60)
    return pd.DataFrame({x: line, "value": np.exp(-(a + b * np.log(line)) / c)})


def trajectories(results: Results, metric: str, trials: int, labels: list[str] | None = None) -> pd.DataFrame:
    """Sweep by sweep course of the first trials of every cell, run again from their seeds.

    Columns: cell, varied fields, estimator, sweep, mean (geometric), low, high (extremes over the trials), n.
    `metric` is "subspace_distance", "parameter_error" (methods that record their weights), or "objective".
    """
    import pandas as pd

    study, recipe = results.study, Recipe.of(results.study)
    rows: list[dict[str, Any]] = []
    for cell in study.cells:
        courses: dict[str, list[Array]] = {}
        for trial in range(trials):
            truth, data = draw(recipe, cell.words, cell.problem, trial)
            for spec in study.estimators:
                if labels and spec.label not in labels:
                    continue
                rng = stream(study.seed, ESTIMATOR, *cell.words, *spec.words, trial)
                estimator = dataclasses.replace(spec.build(cell.problem, truth), keep_history=True)  # type: ignore[call-arg]
                courses.setdefault(spec.label, []).append(_course(metric, truth, estimator.fit(data, rng)))
        for label, paths in courses.items():
            longest = max(len(path) for path in paths)
            for sweep in range(longest):
                values = np.array([path[sweep] for path in paths if sweep < len(path)])
                values = np.maximum(values, np.finfo(float).tiny)
                row = {"cell": cell.id, **cell.varied, "estimator": label, "sweep": sweep, "n": len(values)}
                mean = float(np.exp(np.log(values).mean()))
                rows.append({**row, "mean": mean, "low": float(values.min()), "high": float(values.max())})
    return pd.DataFrame(rows)


def _course(metric: str, truth: Truth, fit: Fit) -> Array:
    """One metric along the sweeps of one fit."""
    if metric == "subspace_distance" and "input_subspaces" in fit.history:
        return np.array([subspace_distance(u, truth.input_subspace) for u in fit.history["input_subspaces"]])
    if metric == "parameter_error" and "changes" in fit.history:
        return np.array([float(((w - truth.changes) ** 2).sum()) for w in fit.history["changes"]])
    if metric == "objective":
        return np.asarray(fit.history["objective"], dtype=float)
    raise InputError(
        f"a trajectory of {metric!r} needs an estimator that records it; shared-subspace methods record "
        "subspace_distance and objective, gradient methods for adapters parameter_error."
    )
