"""One panel a cell, one row a method: means with intervals; the least and what cannot be told from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import matplotlib as mpl
import numpy as np

from colora_theory.figures.measures import measured
from colora_theory.figures.panel import empty, ends, quiet_log, reaching, spread
from colora_theory.figures.style import COLOURS, plain
from colora_theory.figures.tables import chosen
from colora_theory.studies.figure_kinds import FigureKind, register

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from colora_theory.results.results import Results


@register
class Bars(FigureKind):
    """Methods side by side in every cell, in the study's order.

    A point on a leader instead of a bar: on a logarithmic axis a bar has no foot to stand on.
    """

    name: ClassVar[str] = "bars"
    needs: ClassVar[tuple[str, ...]] = ("y",)
    takes: ClassVar[tuple[str, ...]] = ("panels", "baseline")
    page_wide: ClassVar[bool] = True
    measured_along: ClassVar[Literal["x", "y"]] = "x"
    lines_name_fields: ClassVar[bool] = False
    cell_panels: ClassVar[bool] = True

    def axis_names(self) -> tuple[str, str]:
        return self.figure.y or "", ""

    def panel_height(self, tables: dict[str, pd.DataFrame]) -> float:
        return 8.0 + 1.75 * tables["points"]["line"].nunique()

    def tables(self, results: Results) -> dict[str, pd.DataFrame]:
        table, _ = measured(results, self.figure, self.figure.y or "")
        return {"points": chosen(table, self.study, self.figure, None)}

    def draw(self, axes: Axes, tables: dict[str, pd.DataFrame]) -> None:
        figure, table = self.figure, tables["points"]
        labels = list(dict.fromkeys(table["line"]))
        rows = table.set_index("line").reindex(labels)
        if rows["mean"].isna().all():
            empty(axes, "no trial gave a number here")
            return
        place, best = np.arange(len(labels))[::-1], rows["mean"].idxmin()
        best_high = float(rows["high"].to_numpy()[int(np.nanargmin(rows["mean"]))])
        for y, text in zip(place, labels, strict=True):
            one = rows.loc[[text]]
            tied = bool((one["low"] <= best_high).iloc[0])
            with reaching(axes, ends(one["mean"], spread(one)), y):
                axes.errorbar(
                    one["mean"],
                    [y],
                    xerr=spread(one),
                    fmt="D" if tied else "o",
                    markerfacecolor=None if text == best or not tied else "none",
                    color=COLOURS[1] if tied else COLOURS[0],
                    capsize=2,
                    label="least in the panel"
                    if text == best
                    else "not told apart from it"
                    if tied
                    else "mean and 95 % interval",
                )
        positive = bool((rows["mean"].dropna() > 0).all())
        axes.set_xscale("log" if figure.log_x is not False and positive else "linear")
        if figure.log_x is not False and positive:
            quiet_log(axes.xaxis)
            low, high = axes.get_xlim()
            if high / low > 50:
                axes.xaxis.set_major_locator(mpl.ticker.LogLocator(numticks=4))
                axes.xaxis.set_major_formatter(mpl.ticker.LogFormatterSciNotation())
        axes.set_yticks(place, labels)
        axes.set_ylim(-0.7, len(labels) - 0.3)

    def said(self, tables: dict[str, pd.DataFrame]) -> list[str]:
        out = []
        for _, rows in tables["points"].groupby("cell", sort=False):
            known = rows.dropna(subset=["mean"])
            if len(known):
                least, text = min(zip(known["mean"], known["line"], strict=True))
                out.append(f"Least in its panel: {plain(str(text))} with {least:.3g}.")
        return out
