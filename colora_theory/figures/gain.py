"""Errors as ratios to those of a method, against the similarity of tasks: below one collaboration helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import matplotlib as mpl
import numpy as np

from colora_theory.errors import InputError, known
from colora_theory.figures.curve import Curve
from colora_theory.figures.measures import measured
from colora_theory.figures.panel import groups, looks
from colora_theory.figures.style import label_of, plain
from colora_theory.figures.tables import chosen, points
from colora_theory.studies.figure_kinds import register

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from colora_theory.results.results import Results

#: Ratios that a logarithmic axis is labelled with.
_RATIOS: Final = [digit * 10.0**power for power in range(-6, 7) for digit in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)]


@register
class Gain(Curve):
    """Lines of means against another metric's mean, in ratio to a method: gain below one, harm above.

    x is a metric, of which every cell has one value; the cells with one value of hue are a line.
    """

    name: ClassVar[str] = "gain"
    needs: ClassVar[tuple[str, ...]] = ("x", "y", "hue", "baseline")
    takes: ClassVar[tuple[str, ...]] = ("x_limits", "y_limits")
    shows: ClassVar[str] = "Ratios of means with 95\u00a0% Monte Carlo intervals."

    def check(self) -> None:
        super().check()
        known("x", self.figure.x, self.study.metrics)
        known("y", self.figure.y, self.study.metrics)
        if self.figure.overlay:
            raise InputError("overlay has no meaning for a gain; leave it out.")

    def tables(self, results: Results) -> dict[str, pd.DataFrame]:
        figure, study = self.figure, self.study
        table, _ = measured(results, figure, figure.y or "")
        places = points(results, figure.x or "").groupby("cell")["mean"].mean()
        table = table.assign(**{str(figure.x): table["cell"].map(places)})
        along = set(study.cells[0].varied) - {figure.hue, figure.row, figure.col}
        return {"points": chosen(table, study, figure, figure.x, along)}

    def draw(self, axes: Axes, tables: dict[str, pd.DataFrame]) -> None:
        super().draw(axes, tables)
        table, x = tables["points"].dropna(subset=["mean"]), self.figure.x or ""
        if table.empty:
            return
        look = self.looks or looks(table)
        for text, rows in groups(table):
            rows = rows.sort_values(x)
            axes.plot(rows[x], rows["mean"], color=look[text][0], linewidth=0.8, zorder=2)
        axes.set_xscale("linear")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        axes.xaxis.set_major_formatter(mpl.ticker.ScalarFormatter())
        room = 0.05 * float(np.ptp(table[x])) or 0.05
        axes.set_xlim(*(self.figure.x_limits or (table[x].min() - room, table[x].max() + room)))
        if self.figure.log_y is not False:
            axes.yaxis.set_major_locator(mpl.ticker.FixedLocator(_RATIOS))
            axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.axhline(1.0, color="#000000", linewidth=0.8, zorder=1)
        for text, above in (("hurts", True), ("helps", False)):
            axes.annotate(
                text,
                (0.99, 1.0),
                xycoords=("axes fraction", "data"),
                xytext=(0, 2 if above else -2),
                textcoords="offset points",
                ha="right",
                va="bottom" if above else "top",
                fontsize="small",
                color="#555555",
            )

    def said(self, tables: dict[str, pd.DataFrame]) -> list[str]:
        out, table, x = [], tables["points"].dropna(subset=["mean"]), self.figure.x or ""
        for (who, text), rows in table.groupby(["estimator", "line"], sort=False):
            rows = rows.sort_values(x)
            at, ratio = rows[x].to_list(), rows["mean"].to_list()
            out.append(
                f"{plain(str(who))}, {plain(str(text))}: {ratio[0]:.3g} times {self.figure.baseline} at "
                f"{plain(label_of(x))} {at[0]:.2g}, {ratio[-1]:.3g} times at {at[-1]:.2g}."
            )
        return out
