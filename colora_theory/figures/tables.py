"""From stored results to the tables that figures draw. Every table can be written to CSV and read back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from colora_theory import guarantees
from colora_theory.errors import InputError
from colora_theory.figures.style import label_of
from colora_theory.guarantees.base import ENDLESS
from colora_theory.studies import figure_kinds
from colora_theory.verdicts.statistics import mean_interval, phase_boundary, wilson_interval

if TYPE_CHECKING:
    import pandas as pd

    from colora_theory.model.problem import Problem
    from colora_theory.results.results import Results
    from colora_theory.studies.study import Study

# --- which rows, and what the legend calls them ------------------------------------------------------------


def chosen(
    table: pd.DataFrame, study: Study, figure: Any, x: str | None, along: Iterable[str] = ()
) -> pd.DataFrame:
    """The rows that a figure shows, with a column "line": what the legend calls the line (or bar) of a row.

    By default there is a line for everything that differs and is neither the x axis nor a row or column of panels;
    a figure's `lines` choose some by estimator and varied fields, and may give them a label. With a hue the
    columns "hue" and "rest" split a line into what colours it and what else it differs in. `along` : fields that
    a formula on the x axis uses.
    """
    import pandas as pd

    if figure.estimators:
        table = table[table["estimator"].isin(figure.estimators)]
    faceted = {figure.row, figure.col} - {None}
    if not figure.lines:
        shown_elsewhere = {x, *faceted, *along}
        fields = tuple(f for f in _varied(study) if f not in shown_elsewhere)
        fields = fields if figure_kinds.get(figure.kind).lines_name_fields else ()
        several = table["estimator"].nunique() > 1 and "estimator" not in faceted
        several = several or not fields or figure.hue == "estimator"
        if not figure.hue:
            return table.assign(line=_words(table, fields, several))
        rest = tuple(f for f in fields if f != figure.hue)
        by_estimator = figure.hue == "estimator"
        hues = _words(table, () if by_estimator else (figure.hue,), by_estimator)
        rests = _words(table, rest, several and not by_estimator)
        lines = [", ".join(filter(None, pair)) for pair in zip(hues, rests, strict=True)]
        return table.assign(line=lines, hue=hues, rest=rests)
    pieces = []
    for line in figure.lines:
        rows = table[_matches(table, line)]
        fields = tuple(f for f in line if f not in ("estimator", "label"))
        texts = [line["label"]] * len(rows) if line.get("label") else _words(rows, fields)
        pieces.append(rows.assign(line=texts))
    return pd.concat(pieces, ignore_index=True)


def _words(table: pd.DataFrame, fields: tuple[str, ...], estimator: bool = True) -> list[str]:
    """What the line of every row differs in, in words."""
    names = [*["estimator"] * estimator, *fields]
    if not names:
        return [""] * len(table)
    rows = list(zip(*(table[name].tolist() for name in names), strict=True))
    said = {row: _said(dict(zip(names, row, strict=True))) for row in dict.fromkeys(rows)}
    return [said[row] for row in rows]


def _said(row: dict[str, Any]) -> str:
    parts = {name: f"{label_of(name)} = {shown(value)}" for name, value in row.items()}
    if "estimator" in row:
        parts["estimator"] = str(row["estimator"]).replace("_", " ")
    return ", ".join(parts.values())


def shown(value: Any) -> str:
    """A field's value as a legend writes it."""
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)


def _varied(study: Study) -> tuple[str, ...]:
    return tuple(study.cells[0].varied)


def facets(table: pd.DataFrame, field: str | None) -> list[Any]:
    """Values of a field in the table's order, one for each row (or column) of panels; [None] without a field."""
    return [None] if field is None or field not in table else list(dict.fromkeys(table[field])) or [None]


def part_of(table: pd.DataFrame, field: str | None, value: Any) -> pd.DataFrame:
    """The rows of one row or column of panels; a table without the field belongs to all of them."""
    if field is None or value is None or field not in table:
        return table
    return table[table[field].map(lambda entry: entry == value).to_numpy(bool)]


def _matches(table: pd.DataFrame, line: dict[str, Any]) -> Any:
    keep = np.ones(len(table), bool)
    for name, value in line.items():
        if name != "label" and name in table:
            keep &= table[name].map(lambda entry, value=value: entry == value).to_numpy(bool)
    return keep


def cells_of(table: pd.DataFrame, study: Study, figure: Any, along: Iterable[str] = ()) -> pd.DataFrame:
    """Rows of an overlay that belong to the figure's lines, with their "line": what differs besides x."""
    if figure.lines:
        keep = [_matches(table, {k: v for k, v in line.items() if k != "estimator"}) for line in figure.lines]
        table = table[np.any(keep, axis=0)] if len(table) else table
    shown_elsewhere = {figure.x, figure.row, figure.col, *along}
    fields = tuple(f for f in _varied(study) if f not in shown_elsewhere and table[f].astype(str).nunique() > 1)
    table = table.assign(line=_words(table, fields, False))
    if figure.hue and figure.hue in fields:
        table = table.assign(hue=_words(table, (figure.hue,), False))
    return table


# --- means and claims --------------------------------------------------------------------------------------


def points(results: Results, metric: str) -> pd.DataFrame:
    """Summary rows of one metric with their Monte Carlo intervals: columns of `Results.summary`, low, high.

    A share (the metric "success") gets a Wilson interval, everything else a normal one.
    """
    table = results.summary() if metric in results.study.metrics else observations(results, metric)
    table = table[table["metric"] == metric].copy()
    if metric == "success":
        table["low"], table["high"] = wilson_interval(table["mean"] * table["n"], table["n"])
    else:
        table["low"], table["high"] = mean_interval(table["mean"], table["mcse"])
    return table


def observations(results: Results, metric: str) -> pd.DataFrame:
    """What the study's guarantees about `metric` observed in the trials, summarised as `Results.summary` does."""
    names = [spec.name for spec in results.study.guarantees if guarantees.get(spec.name).metric == metric]
    table = results.guarantee_values(names[0]).dropna(subset=["observed"])
    keys = ["cell", *_varied(results.study), "estimator"]
    seen = table.groupby(keys, sort=False)["observed"]
    out = seen.agg(n="count", mean="mean", std="std").reset_index().assign(metric=metric)
    return out.assign(mcse=out["std"] / np.sqrt(out["n"]))


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
    """What guarantee `name` claims about `metric` in every cell: varied fields, cell, value, standing, name.

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
        if abs(value) < ENDLESS:  # also False for NaN
            rows.append({"cell": cell.id, **cell.varied, "value": factor * value})
    table = pd.DataFrame(rows, columns=["cell", *_varied(results.study), "value"])
    return table.assign(standing=guarantee.standing, name=name)


def pairs(results: Results, name: str) -> pd.DataFrame:
    """Claimed against observed of one guarantee, trial by trial: varied fields, estimator, claim, observed.

    Where the guarantee compares with a metric, having no observation of its own, that metric is the observed one.
    """
    table, guarantee = results.guarantee_values(name), guarantees.get(name)
    if not hasattr(guarantee, "observed"):
        frame = results.frame(cell_id=True)
        frame = frame[frame["metric"] == guarantee.metric][["cell", "trial", "estimator", "value"]]
        table = table.drop(columns="observed").merge(frame, on=["cell", "trial", "estimator"])
        table = table.rename(columns={"value": "observed"})
    table = table.dropna(subset=["claim", "observed"])
    return table[table["claim"].abs() < ENDLESS]


def scatter_table(results: Results, name: str, study: Study, figure: Any) -> pd.DataFrame:
    """`pairs` of the figure's lines with the standing and the name of the guarantee."""
    table = pairs(results, name)
    if figure.lines or figure.estimators:
        table = chosen(table, study, figure, None)
    return table.assign(standing=guarantees.get(name).standing, name=name)


# --- phase diagrams ----------------------------------------------------------------------------------------


def threshold_line(results: Results, name: str, figure: Any) -> pd.DataFrame:
    """Where a claim begins along the fields x and y of a heatmap: columns x, value, standing, name, level.

    For a threshold in y its value; for any other claim that falls with y, the least y at which its value is below
    the figure's `levels` entry for it.
    """
    import pandas as pd

    guarantee, x, y = guarantees.get(name), figure.x, figure.y
    level = figure.levels.get(name)
    threshold = guarantee.side == "threshold" and getattr(guarantee, "against", None) == y
    if not threshold and level is None:
        raise InputError(
            f"guarantee {name!r} is no threshold in {y!r}; choose another overlay, another y, or give it a level."
        )
    cells, rows = results.study.cells, []
    ys = np.unique(np.geomspace(*_ends(cells, y), 200).round().astype(int))
    for value in np.unique(np.geomspace(*_ends(cells, x), 60).round().astype(int)):
        near = min(cells, key=lambda cell, value=value: abs(cell.varied[x] - value))  # type: ignore[misc]
        problem = near.problem.replace(**{x: int(value)})
        begins = guarantee.value(problem) if threshold else _first_below(guarantee, problem, y, ys, float(level))
        rows.append({x: int(value), "value": begins})
    table = pd.DataFrame(rows, columns=[x, "value"]).dropna()
    return table.assign(standing=guarantee.standing, name=name, level=level)


def _first_below(guarantee: Any, problem: Problem, y: str, ys: Any, level: float) -> float:
    values = guarantee.value(problem, **{y: ys})
    below = np.flatnonzero(values < level)
    return float(ys[below[0]]) if len(below) else math.nan


def _ends(cells: Any, field: str) -> tuple[float, float]:
    values = [cell.varied[field] for cell in cells]
    return min(values), max(values)


def boundary_line(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The contour of a success rate of one half over a grid: columns x, value. Empty when nothing changes."""
    import pandas as pd

    if table["mean"].min() > 0.5 or table["mean"].max() < 0.5:
        return pd.DataFrame(columns=[x, "value"])
    a, b, c = phase_boundary(table[x], table[y], table["mean"] * table["n"], table["n"])
    line = np.geomspace(table[x].min(), table[x].max(), 60)
    return pd.DataFrame({x: line, "value": np.exp(-(a + b * np.log(line)) / c)})
