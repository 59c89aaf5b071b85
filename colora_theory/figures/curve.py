"""Means with their Monte Carlo intervals along one field of the problem, with claims as lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from colora_theory.errors import known
from colora_theory.figures.measures import check_formulas, measured, metric_of, named, with_axes
from colora_theory.figures.panel import (
    GREYS,
    claim,
    dash,
    empty,
    groups,
    guide_lines,
    hue_colour,
    looks,
    scales,
    spread,
)
from colora_theory.figures.style import label_of, plain
from colora_theory.figures.tables import cells_of, chosen, overlay
from colora_theory.studies.figure_kinds import FigureKind, register

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from colora_theory.results.results import Results


@register
class Curve(FigureKind):
    """Lines of means against x; categories stand beside each other."""

    name: ClassVar[str] = "curve"
    needs: ClassVar[tuple[str, ...]] = ("x", "y")
    takes: ClassVar[tuple[str, ...]] = ("hue", "baseline", "slopes", "x_limits", "y_limits")

    def axis_names(self) -> tuple[str, str]:
        return self.figure.x or "", self.figure.y or ""

    def check(self) -> None:
        super().check()
        check_formulas(self.study, self.figure)
        if self.figure.baseline is not None:
            known("baseline", self.figure.baseline, [spec.label for spec in self.study.estimators])

    def tables(self, results: Results) -> dict[str, pd.DataFrame]:
        figure, text = self.figure, self.figure.y or ""
        along = named(self.study, figure.x)
        table, factors = measured(results, figure, text)
        tables = {"points": chosen(table, self.study, figure, figure.x, along)}
        metric = metric_of(self.study, text)[0]
        for name in figure.overlay if figure.baseline is None else ():
            claims = overlay(results, name, metric)
            claims = claims.assign(value=claims["value"] * claims["cell"].map(factors))
            tables[f"overlay:{name}"] = cells_of(with_axes(claims, self.study, figure), self.study, figure, along)
        return tables

    def draw(self, axes: Axes, tables: dict[str, pd.DataFrame]) -> None:
        figure, x, table = self.figure, self.figure.x or "", tables["points"].dropna(subset=["mean"])
        if table.empty:
            empty(axes, "no trial gave a number here")
            return
        numeric = np.issubdtype(np.asarray(table[x].tolist()).dtype, np.number)
        lines, look = groups(table), self.looks or looks(table)
        places = {value: place for place, value in enumerate(dict.fromkeys(table[x]))}
        for index, (text, rows) in enumerate(lines):
            rows = rows.sort_values(x) if numeric else rows
            beside = 0.12 * (index - 0.5 * (len(lines) - 1))  # names have room beside each other, numbers a place
            axes.errorbar(
                rows[x] if numeric else rows[x].map(places) + beside,
                rows["mean"],
                spread(rows),
                fmt=look[text][1],
                color=look[text][0],
                markerfacecolor="none",  # two lines at one value: both are seen
                capsize=2,
                label=text,
                zorder=3,
            )
        number = 0
        for name in figure.overlay:
            claimed = tables.get(f"overlay:{name}")
            if claimed is None or not len(claimed):
                continue
            several = groups(claimed)
            together = len(several) > 1 and bool(figure.lines)  # lines named by the study: one entry a claim
            for index, (text, rows) in enumerate(several):
                rows = rows.sort_values(x) if numeric else rows
                text = (
                    "_" if together and index else claim(rows, name, f", {text}" if text and not together else "")
                )
                grey, width = GREYS[number % len(GREYS)], (1.2, 2.4)[number // len(GREYS) % 2]
                style: Any = dict(
                    linestyle=dash(rows),
                    color=hue_colour(rows, table, grey),
                    linewidth=width,
                    label=text,
                    zorder=2,
                )
                if numeric:
                    axes.plot(rows[x], rows["value"], **style)
                else:
                    at = rows[x].map(places)
                    axes.hlines(rows["value"], at - 0.3, at + 0.3, **style)
                number += not together
            number += together
        scales(axes, figure, table[x], numeric)
        if numeric:
            guide_lines(axes, figure.slopes, table[x], table["mean"])
        if figure.x_limits is not None:
            axes.set_xlim(*figure.x_limits)
        if figure.y_limits is not None:
            axes.set_ylim(*figure.y_limits)

    def said(self, tables: dict[str, pd.DataFrame]) -> list[str]:
        out, x = [], self.figure.x or ""
        for text, rows in groups(tables["points"]):
            at, mean = rows[x].to_list(), rows["mean"].to_list()
            out.append(
                f"{plain(text)}: {mean[0]:.3g} at {plain(label_of(x))} = {at[0]}, {mean[-1]:.3g} at {at[-1]}."
            )
        return out
