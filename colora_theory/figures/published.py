"""A curve with the numbers of a paper beside the study's own, each marked by its verdict."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from colora_theory.errors import InputError
from colora_theory.figures.curve import Curve
from colora_theory.figures.measures import metric_of, named, with_axes
from colora_theory.figures.panel import ends, looks, reaching, spread
from colora_theory.figures.tables import chosen
from colora_theory.studies.figure_kinds import register
from colora_theory.verdicts.published import STATUSES, compare_published
from colora_theory.verdicts.statistics import mean_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from colora_theory.results.results import Results

#: Marker of every verdict; all are filled in the colour of the line they belong to, with a black edge.
SHAPES: Final = dict(zip(STATUSES, ("o", "X", "v", "s", "D", "D"), strict=True))


@register
class Published(Curve):
    """A curve, and what a paper published for the same lines: filled markers, whose shape is the verdict."""

    name: ClassVar[str] = "published"
    takes: ClassVar[tuple[str, ...]] = ("hue", "slopes", "x_limits", "y_limits")
    shows: ClassVar[str] = "Means with 95\u00a0% Monte Carlo intervals; filled markers are the published numbers."
    more_tables: ClassVar[tuple[str, ...]] = ("published",)

    def check(self) -> None:
        super().check()
        if not self.study.table.published:
            raise InputError("a figure of kind published needs a published table in the study; add [[published]].")
        metric, formula = metric_of(self.study, self.figure.y or "")
        if formula is not None:
            raise InputError(f"y of a published figure must be a metric, got the formula {self.figure.y!r}.")
        if metric not in self.study.metrics:
            raise InputError(f"y of a published figure must be a metric of the study, got {metric!r}.")

    def tables(self, results: Results) -> dict[str, pd.DataFrame]:
        """The tables of a curve, and "published": varied fields, line, mean, low, high, verdict."""
        import pandas as pd

        out = super().tables(results)
        cells = {cell.id: cell for cell in self.study.cells}
        rows = []
        for one in compare_published(results):
            point = one.point
            if point.metric == self.figure.y and one.cell in cells:
                values = np.array([y for _, y in point.paired])
                std, reps = (values.std(ddof=1), len(values)) if len(values) > 1 else (point.std, point.reps)
                error = std / math.sqrt(reps) if reps > 1 else math.nan
                low, high = mean_interval(point.y, error)
                entry = {"cell": one.cell, **cells[one.cell].varied, "estimator": point.series}
                rows.append({**entry, "mean": point.y, "low": low, "high": high, "verdict": one.status})
        columns = ["cell", *self.study.cells[0].varied, "estimator", "mean", "low", "high", "verdict"]
        table = pd.DataFrame(rows, columns=columns).astype({"low": float, "high": float})
        table = with_axes(table, self.study, self.figure)
        out["published"] = chosen(table, self.study, self.figure, self.figure.x, named(self.study, self.figure.x))
        return out

    def draw(self, axes: Axes, tables: dict[str, pd.DataFrame]) -> None:
        super().draw(axes, tables)
        table, x = tables["published"], self.figure.x or ""
        if table.empty or tables["points"].empty:
            return
        look = self.looks or looks(tables["points"])
        for (text, verdict), rows in table.groupby(["line", "verdict"], sort=False):
            colour = look[str(text)][0] if str(text) in look else "#666666"
            known = rows.fillna({"low": rows["mean"], "high": rows["mean"]})
            lengths = spread(known, self.figure.log_y is not False)
            with reaching(axes, rows[x], ends(rows["mean"], lengths)):
                axes.errorbar(
                    rows[x],
                    rows["mean"],
                    lengths,
                    fmt=SHAPES[str(verdict)],
                    color="black",
                    markerfacecolor=colour,
                    markeredgecolor="black",
                    markeredgewidth=0.6,
                    elinewidth=0.6,
                    zorder=4,
                )
        for verdict in dict.fromkeys(table["verdict"]):
            marker = SHAPES[str(verdict)]
            axes.plot([], [], marker, color="#bbbbbb", markeredgecolor="black", label=f"published: {verdict}")

    def said(self, tables: dict[str, pd.DataFrame]) -> list[str]:
        count = tables["published"]["verdict"].value_counts()
        told = ", ".join(f"{number} {verdict}" for verdict, number in count.items())
        return [*super().said(tables), f"Published points: {told or 'none'}."]
