"""Figures asked for after a run: other axes of stored results, and several studies in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from colora_theory.errors import InputError, expect
from colora_theory.figures.draw import draw_one, tables_of, together
from colora_theory.results.results import Results
from colora_theory.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(results: Results, kind: str = "curve", *, style: str = "paper", **keys: Any) -> Figure:
    """Return a Matplotlib figure of stored results, without running anything but a trajectory's trials.

    Parameters
    ----------
    results : of a finished or running study (`ct.Results.open(path)`).
    kind : a kind of figure: curve, heatmap, trajectory, scatter, bars, …
    style : "paper", "talk", or the name or path of a Matplotlib style.
    keys : what a `[[figure]]` of a study file takes: x, y, value, hue, row, col, lines, overlay, baseline, …

    Raises InputError for what cannot be drawn from these results.
    """
    expect("results", results, Results, "open them with ct.Results.open(path)")
    study = with_figure(results.study, {"kind": kind, **keys})
    figure = study.figures[0]
    shown = Results.open(results.file)
    shown.__dict__["study"] = study  # the same store, asked for another figure
    return draw_one(study, figure, tables_of(shown, figure), style)


def with_figure(study: Study, figure: dict[str, Any]) -> Study:
    """The study with this figure as its only one, checked as in a study file."""
    table = {**study.resolved(), "figure": [figure]}
    return Study.from_dict(table, source_text=study.source_text)


def compare(runs: Sequence[Results], *, style: str = "paper") -> Figure:
    """The first figure of several studies in one picture: a curve with the lines of all of them.

    Raises InputError unless all first figures are curves of the same y along the same x.
    """
    if len(runs) < 2:
        raise InputError(f"a comparison needs at least two runs, got {len(runs)}.")
    figures = [results.study.figures[:1] for results in runs]
    wanted = {(f[0].kind, f[0].x, f[0].y) if f else None for f in figures}
    if len(wanted) != 1 or None in wanted or figures[0][0].kind != "curve":
        told = ", ".join(sorted(str(each) for each in wanted))
        raise InputError(
            f"runs are compared by their first figures, which must be curves of the same x and y: {told}."
        )
    tables = together(
        [
            (results.study.name, tables_of(results, figure))
            for results, (figure,) in zip(runs, figures, strict=True)
        ]
    )
    first = figures[0][0]
    title = " and ".join(results.study.title or results.study.name for results in runs)
    shown = first.model_copy(
        update={
            "title": title,
            "hue": None,
            "beside": [results.study.name for results in runs[1:]],
            "overlay": list(dict.fromkeys(name for (figure,) in figures for name in figure.overlay)),
        }
    )
    return draw_one(runs[0].study, shown, tables, style)
