"""Quantities that figures derive: axes that are formulas, metrics scaled by theory, ratios to a method."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from colora_theory import guarantees
from colora_theory.errors import InputError
from colora_theory.figures.tables import overlay, points
from colora_theory.model import metrics
from colora_theory.studies import figure_kinds
from colora_theory.studies.expressions import DERIVED, Expression, derived
from colora_theory.studies.grid import NUMERIC, formula

if TYPE_CHECKING:
    import pandas as pd

    from colora_theory.results.results import Results
    from colora_theory.studies.cells import Cell
    from colora_theory.studies.study import Study


def is_formula(study: Study, text: str | None) -> bool:
    """Whether a name of a figure is a formula, not a field, a metric or "estimator"."""
    about = {*study.cells[0].varied, *study.metrics, *metrics.NAMES, "estimator", "sweep", "objective", "claim"}
    return text is not None and text not in about and text not in NUMERIC and not text.isidentifier()


def check_formulas(study: Study, figure: Any) -> None:
    """Refuse formulas that cannot be read, before any trial is run."""
    for key in (*figure_kinds.get(figure.kind).axes, "hue", "row", "col"):
        if is_formula(study, text := getattr(figure, key)):
            of_fields(study.cells[0], text)
    if is_formula(study, text := getattr(figure, figure_kinds.get(figure.kind).measure)):
        metric_of(study, text)


def of_fields(cell: Cell, text: str) -> float:
    """A formula over the numeric fields of a cell's problem and the derived quantities."""
    return formula(text).value(_numbers(cell))


def _numbers(cell: Cell) -> dict[str, Any]:
    fields = {name: getattr(cell.setting, name) for name in NUMERIC if hasattr(cell.setting, name)}
    return {**{n: v for n, v in fields.items() if isinstance(v, int | float)}, **derived(fields)}


def named(study: Study, text: str | None) -> set[str]:
    """Varied fields that an axis names, and so runs along (a dimension inside dof makes lines of its own)."""
    if text is None:
        return set()
    if not is_formula(study, text):
        return {text}
    return set(formula(text).names) & set(study.cells[0].varied)


def with_axes(table: pd.DataFrame, study: Study, figure: Any) -> pd.DataFrame:
    """The table with a column for every axis, hue, row or col that is a formula."""
    cells = {cell.id: cell for cell in study.cells}
    for key in (*figure_kinds.get(figure.kind).axes, "hue", "row", "col"):
        text = getattr(figure, key)
        if is_formula(study, text) and text not in table:
            values = {number: of_fields(cell, text) for number, cell in cells.items()}
            table = table.assign(**{text: [values[number] for number in table["cell"]]})
    return table


def metric_of(study: Study, text: str) -> tuple[str, Expression | None]:
    """The metric of a y, and the formula around it (None for a bare metric); it must be linear in the metric."""
    if not is_formula(study, text):
        return text, None
    formula = Expression.parse(text, {*NUMERIC, *DERIVED, *study.metrics, *guarantees.names()})
    used = [name for name in formula.names if name in study.metrics]
    if len(used) != 1:
        told = ", ".join(used) or "none"
        raise InputError(f"{text!r} must name exactly one metric of the study, got {told}.")
    return used[0], formula


def measured(results: Results, figure: Any, text: str) -> tuple[pd.DataFrame, dict[str, float]]:
    """`tables.points` of a metric or a formula around one, and the factor of every cell (1 without a formula)."""
    study = results.study
    metric, formula = metric_of(study, text)
    table = points(results, metric)
    factors = dict.fromkeys((cell.id for cell in study.cells), 1.0)
    if formula is not None:
        factors = _factors(results, formula, metric)
        scale = np.array([factors[number] for number in table["cell"]])
        for column in ("mean", "std", "mcse", "low", "high"):
            if column in table:
                table[column] = table[column] * scale
    if figure.baseline is not None:
        table = _relative(table, figure.baseline)
    return with_axes(table, study, figure), factors


def _factors(results: Results, formula: Expression, metric: str) -> dict[str, float]:
    claims: dict[str, dict[str, float]] = {}
    for name in formula.names & set(guarantees.names()):
        rows = overlay(results, name, metric)
        claims[name] = dict(zip(rows["cell"], rows["value"], strict=True))
    out = {}
    for cell in results.study.cells:
        numbers = {**_numbers(cell), **{name: of.get(cell.id, math.nan) for name, of in claims.items()}}
        if any(math.isnan(of) for name, of in numbers.items() if name in claims):
            out[cell.id] = math.nan  # outside the hypotheses of the claim
            continue
        zero, one, two = (formula.value({**numbers, metric: value}) for value in (0.0, 1.0, 2.0))
        if abs(zero) > 1e-12 * abs(one) or abs(two - 2.0 * one) > 1e-9 * abs(one) or one < 0:
            raise InputError(f"{formula.text!r} must be a positive factor times {metric}, and nothing else of it.")
        out[cell.id] = one
    return out


def _relative(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Means as ratios to those of one method in the same cell, with the interval of a ratio of independent means.

    All methods of a trial see the same data, so that the interval is wider than need be.
    """
    base = table[table["estimator"] == baseline].set_index("cell")
    rows = table[table["estimator"] != baseline].copy()
    mean, mcse = (rows["cell"].map(base[column]) for column in ("mean", "mcse"))
    ratio = rows["mean"] / mean
    error = ratio * np.sqrt((rows["mcse"] / rows["mean"]) ** 2 + (mcse / mean) ** 2)
    factor = np.exp(1.959964 * error / ratio)  # the interval of the logarithm: a ratio is never negative
    return rows.assign(mean=ratio, mcse=error, low=ratio / factor, high=ratio * factor)
