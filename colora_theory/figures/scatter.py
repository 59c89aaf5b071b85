"""Claimed against observed, trial by trial; on the diagonal a claim is exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from colora_theory.errors import InputError
from colora_theory.figures.panel import claim, empty, groups, quiet_log
from colora_theory.figures.style import COLOURS, MARKERS
from colora_theory.figures.tables import scatter_table
from colora_theory.studies.figure_kinds import FigureKind, register
from colora_theory.studies.study import guarantee_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from colora_theory.results.results import Results


@register
class Scatter(FigureKind):
    """One point per trial for every overlaid guarantee that is evaluated inside trials."""

    name: ClassVar[str] = "scatter"
    needs: ClassVar[tuple[str, ...]] = ("overlay",)
    claims: ClassVar[str] = "pairs"
    shows: ClassVar[str] = "One point per trial."

    def axis_names(self) -> tuple[str, str]:
        return "claimed", "observed"

    def check(self) -> None:
        super().check()
        stored = {spec.name for spec in self.study.guarantees if guarantee_of(spec).per_trial}
        for name in self.figure.overlay:
            if name not in stored:
                raise InputError(
                    f"a scatter shows claims that are evaluated inside trials, and {name!r} is none of this "
                    f"study's; stored are: {', '.join(sorted(stored)) or 'none'}. Add it as a [[guarantee]], or "
                    "leave it out."
                )

    def tables(self, results: Results) -> dict[str, pd.DataFrame]:
        return {
            f"pairs:{name}": scatter_table(results, name, self.study, self.figure) for name in self.figure.overlay
        }

    def draw(self, axes: Axes, tables: dict[str, pd.DataFrame]) -> None:
        figure = self.figure
        if all(tables[f"pairs:{name}"].empty for name in figure.overlay):
            empty(axes, "no trial had both a claim and an observation")
            return
        seen = []
        number = 0
        for name in figure.overlay:
            table = tables[f"pairs:{name}"]
            if table.empty:  # no trial had both a claim and an observation
                continue
            seen.append(table[["claim", "observed"]].to_numpy(float).ravel())
            for text, rows in groups(table) if "line" in table else [("", table)]:
                axes.plot(
                    rows["claim"],
                    rows["observed"],
                    MARKERS[number % len(MARKERS)],
                    color=COLOURS[number % len(COLOURS)],
                    alpha=0.6,
                    markeredgewidth=0.4,
                    label=claim(rows, name, f", {text}" if text else ""),
                )
                number += 1
        values = np.concatenate(seen) if seen else np.array([1.0, 2.0])
        if figure.log_x is not False:
            values = values[values > 0]
            axes.set_xscale("log", nonpositive="mask")
            axes.set_yscale("log", nonpositive="mask")
        values = values if len(values) else np.array([1.0, 2.0])
        ends = [values.min(), values.max()]
        axes.plot(ends, ends, color="#000000", linewidth=0.8, label="claimed = observed", zorder=1)
        if figure.log_x is not False:
            quiet_log(axes.xaxis)
            quiet_log(axes.yaxis)
