"""Means with their Monte Carlo intervals along one field of the problem, with claims as lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from colora_theory import guarantees
from colora_theory.errors import known
from colora_theory.figures.annotations import crossing, guide_lines, label_lines, mark_crossing
from colora_theory.figures.measures import check_formulas, measured, metric_of, named, with_axes
from colora_theory.figures.panel import (
    GREYS,
    claim,
    dash,
    empty,
    ends,
    groups,
    hue_colour,
    looks,
    reaching,
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
    takes: ClassVar[tuple[str, ...]] = (
        "hue",
        "baseline",
        "slopes",
        "x_limits",
        "y_limits",
        "labels",
        "break_even",
        "beside",
    )

    def __init__(self, study: Any, figure: Any) -> None:
        super().__init__(study, arranged(study, figure))

    def axis_names(self) -> tuple[str, str]:
        return self.figure.x or "", self.figure.y or ""

    def check(self) -> None:
        super().check()
        check_formulas(self.study, self.figure)
        if self.figure.baseline is not None:
            known("baseline", self.figure.baseline, [spec.label for spec in self.study.estimators])
        for name in self.figure.break_even or ():
            known("break_even", name, [spec.label for spec in self.study.estimators])

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
        direct = figure.labels == "lines" and numeric
        places = {value: place for place, value in enumerate(dict.fromkeys(table[x]))}
        missing = tables["points"][tables["points"]["mean"].isna()]
        for index, (text, rows) in enumerate(lines):
            rows = rows.sort_values(x) if numeric else rows
            beside = 0.12 * (index - 0.5 * (len(lines) - 1))  # names have room beside each other, numbers a place
            at = rows[x] if numeric else rows[x].map(places) + beside
            lengths = spread(rows, figure.log_y is not False)
            with reaching(axes, at, ends(rows["mean"], lengths)):
                axes.errorbar(
                    at,
                    rows["mean"],
                    lengths,
                    fmt=look[text][1],
                    color=look[text][0],
                    markerfacecolor="none",  # two lines at one value: both are seen
                    capsize=2,
                    label="_" if direct else text + without(missing[missing["line"].astype(str) == text][x]),
                    zorder=3,
                )
        self._claims(axes, tables, table, look, places if not numeric else None)
        scales(axes, figure, table[x], numeric)
        if numeric:
            guide_lines(axes, figure.slopes, table[x], table["mean"])
        if figure.x_limits is not None:
            axes.set_xlim(*figure.x_limits)
        if figure.y_limits is not None:
            axes.set_ylim(*figure.y_limits)
        if figure.break_even and numeric:
            self._break_even(axes, dict(lines), x)

    def _claims(
        self,
        axes: Axes,
        tables: dict[str, pd.DataFrame],
        points: pd.DataFrame,
        look: dict[str, tuple[str, str]],
        places: dict[Any, int] | None,
    ) -> None:
        """Draw the overlaid claims as lines (short ones at the `places` of categories).

        The first claim about one line alone has its colour; the others take greys in turn, then thicker ones.
        """
        figure, x = self.figure, self.figure.x or ""
        number, taken = 0, set[str]()
        for name in figure.overlay:
            claimed = tables.get(f"overlay:{name}")
            everywhere = self.whole.get(f"overlay:{name}", claimed)
            if claimed is None or everywhere is None:
                continue
            if not len(claimed):
                axes.plot([], [], linestyle="none", label="_" if len(everywhere) else claim(everywhere, name))
                continue
            partly = bool(self.whole) and not set(self.whole["points"]["cell"]) <= set(everywhere["cell"])
            several = groups(claimed)
            coloured = bool(figure.hue) and "hue" in claimed and bool((claimed["line"] == claimed["hue"]).all())
            # lines named by the study, or told by their colour: one entry a claim
            together = len(several) > 1 and (bool(figure.lines) or coloured)
            own = None if figure.hue or len(several) > 1 else self._colour_of(name, points, look)
            own = None if own in taken else own
            for index, (text, rows) in enumerate(several):
                rows = rows.sort_values(x) if places is None else rows
                text = (
                    "_" if together and index else claim(rows, name, f", {text}" if text and not together else "")
                )
                text = f"{text[:-1]}; where it applies)" if partly and text != "_" else text
                grey, width = GREYS[number % len(GREYS)], (1.2, 2.4)[number // len(GREYS) % 2]
                if together and coloured and not index:  # the entry speaks of all colours
                    axes.plot([], [], linestyle=dash(rows), color=GREYS[1], linewidth=1.2, label=text)
                    text = "_"
                style: Any = dict(
                    linestyle=dash(rows),
                    color=own or hue_colour(rows, points, grey),
                    linewidth=1.2 if own else width,
                    label=text,
                    zorder=2,
                )
                if places is None:
                    axes.plot(rows[x], rows["value"], **style)
                else:
                    at = rows[x].map(places)
                    with reaching(axes, [at - 0.3, at + 0.3], rows["value"]):
                        axes.hlines(rows["value"], at - 0.3, at + 0.3, **style)
                number += not together and own is None
            number += together
            taken |= {own} if own else set()

    def annotate(self, axes: Axes, tables: dict[str, pd.DataFrame]) -> None:
        x, table = self.figure.x or "", tables["points"].dropna(subset=["mean"])
        if self.figure.labels == "lines" and len(table) and np.issubdtype(np.asarray(table[x]).dtype, np.number):
            last = [(text, rows.sort_values(x).iloc[-1]) for text, rows in groups(table)]
            label_lines(axes, [(row[x], row["mean"], text, self.looks[text][0]) for text, row in last])

    def _colour_of(self, claimed: str, table: pd.DataFrame, look: dict[str, tuple[str, str]]) -> str | None:
        """The colour of the one line that a claim speaks about; None where it speaks about several, or none."""
        told = {spec.estimator for spec in self.study.guarantees if spec.name == claimed and spec.estimator}
        about = guarantees.get(claimed).estimators
        mine = told or {spec.label for spec in self.study.estimators if spec.name in about}
        texts = set(table.loc[table["estimator"].isin(mine), "line"].astype(str))
        return look[texts.pop()][0] if len(texts) == 1 else None

    def _break_even(self, axes: Axes, lines: dict[str, pd.DataFrame], x: str) -> None:
        """Mark where the first of two named lines gets above the second."""
        first, second = (
            next((rows for rows in lines.values() if set(rows["estimator"]) == {name}), None)
            for name in self.figure.break_even or ()
        )
        if first is None or second is None:
            return
        both = first.merge(second, on=x, suffixes=("", "_of_second")).sort_values(x)
        at = crossing(both[x], both["mean"], both["mean_of_second"])
        if at is not None:
            height = float(np.exp(np.interp(at, both[x], np.log(both["mean_of_second"]))))
            mark_crossing(axes, at, height, "break-even at")

    def said(self, tables: dict[str, pd.DataFrame]) -> list[str]:
        out, x = [], self.figure.x or ""
        for text, rows in groups(tables["points"]):
            at, mean = rows[x].to_list(), rows["mean"].to_list()
            out.append(
                f"{plain(text)}: {mean[0]:.3g} at {plain(label_of(x))} = {at[0]}, {mean[-1]:.3g} at {at[-1]}."
            )
        return out


#: Lines that a panel tells apart when the study does not say how to arrange them.
MOST_LINES: Final = 8


def arranged(study: Any, figure: Any) -> Any:
    """The figure, or where it would have more lines than anybody tells apart one with colours and panels.

    Only where the study leaves the arrangement open. Methods, or else the first field, become colours, the next
    fields of at most six values columns and rows of panels.
    """
    cells = getattr(study, "cells", ())
    if not cells or figure.hue or figure.row or figure.col or figure.lines or figure.beside or figure.x is None:
        return figure
    labels = figure.estimators or [spec.label for spec in study.estimators]
    count = {name: len({str(cell.varied[name]) for cell in cells}) for name in cells[0].varied}
    along = {figure.x} if figure.x in count or figure.x == "estimator" else named(study, figure.x)
    count = {name: number for name, number in count.items() if number > 1 and name not in along}
    lines = len({str([cell.varied[name] for name in count]) for cell in cells})  # zipped fields vary together
    if len(labels) > 1 and "estimator" not in along:
        count, lines = {"estimator": len(labels)} | count, lines * len(labels)
    if lines <= MOST_LINES or len(count) < 2:
        return figure
    hue = next(iter(count))
    panels = [name for name, number in count.items() if name != hue and number <= 6][:2]
    return figure.model_copy(update={"hue": hue, **dict(zip(("col", "row"), panels, strict=False))})


def without(places: Any) -> str:
    """What a legend adds to a line that has no finite mean at some places of its axis."""
    told = ", ".join(f"{value:g}" if isinstance(value, float | int) else str(value) for value in places)
    return f" (no finite mean at {told})" if told else ""
