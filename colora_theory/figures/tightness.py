"""Where in the space of problems a claim is tight: what a counterexample search has looked at, field by field."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np

from colora_theory.errors import InputError
from colora_theory.figures.panel import quiet_log
from colora_theory.figures.style import COLOURS, WIDTHS, context, label_of, name_of, pyplot, scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Panels in a row, and values of a field up to which each has a place of its own.
ACROSS: Final = 4
CATEGORIES: Final = 6


def draw_search(verdict: Any, *, style: str = "paper") -> Figure:
    """Return a Matplotlib figure of an `AttackVerdict`: tightness against every field that the search varied.

    A point is a problem; larger ones had more trials. 1 is tight (claim/observed of upper bounds and identities,
    observed/claim of lower bounds); a violation lies below. The problem that the verdict names is marked.
    Raises InputError where no problem had a tightness.
    """
    seen = [each for each in verdict.explored if math.isfinite(each.tightness) and each.tightness > 0]
    if not seen:
        raise InputError("no problem of this search had a claim and an observation; there is nothing to draw.")
    known = [field.name for field in dataclasses.fields(seen[0].problem)]
    columns_of = {name: [getattr(each.problem, name) for each in seen] for name in known}
    fields = [name for name, values in columns_of.items() if len(set(map(str, values))) > 1] or known[:1]
    with context(style):
        rows, columns = math.ceil(len(fields) / ACROSS), min(ACROSS, len(fields))
        width = WIDTHS["page"] * scale()
        size = (width, 0.32 * width * rows)
        picture, axes = pyplot().subplots(
            rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained"
        )
        tightness = np.array([each.tightness for each in seen])
        areas = 4.0 + 2.0 * np.log2([each.trials for each in seen])
        named = [each.problem == verdict.problem for each in seen]
        for panel, name in zip(axes.flat, fields, strict=False):
            _panel(panel, name, columns_of[name], tightness, areas, np.array(named))
        for panel in axes.flat[len(fields) :]:
            panel.remove()
        for row in axes:
            row[0].set_ylabel("observed / claim" if verdict.side == "lower" else "claim / observed")
        low, high = np.quantile(tightness, [0.02, 0.98])
        axes[0, 0].set_ylim(0.5 * min(low, 1.0), 2.0 * max(high, 1.0))
        small = 0.8 * float(mpl.rcParams["font.size"])
        found = "violated" if verdict.status == "violated" else "no counterexample found"
        picture.suptitle(f"{name_of(verdict.guarantee)}: {found}")
        trials = sum(each.trials for each in seen)
        picture.supxlabel(
            f"{len(seen)} problems, {trials} trials; 1 is tight, points below it exceed the claim, "
            "means of few trials also by chance; square: the problem named",
            fontsize=small,
            color="#555555",
        )
    return picture


def _panel(axes: Axes, name: str, values: list[Any], tightness: Any, areas: Any, named: Any) -> None:
    """One field: its values along x, on a logarithmic axis where they span more than a factor of ten."""
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if numeric and len(set(values)) > CATEGORIES:
        x = np.array(values, float)
        if x.min() > 0 and x.max() > 30 * x.min():
            axes.set_xscale("log")
    else:
        words = [str(value) for value in (sorted(set(values)) if numeric else sorted({str(v) for v in values}))]
        spread = np.random.default_rng(0).uniform(
            -0.25, 0.25, len(values)
        )  # so that points do not hide each other
        x = np.array([words.index(str(value)) for value in values]) + spread
        axes.set_xticks(range(len(words)), [word.replace("_", " ") for word in words], rotation=30, ha="right")
    axes.set_yscale("log")
    axes.axhline(1.0, color="#000000", linewidth=0.8)
    axes.scatter(x, tightness, s=areas, color=COLOURS[0], alpha=0.5, linewidths=0)
    axes.scatter(x[named], tightness[named], s=30, marker="s", facecolors="none", edgecolors=COLOURS[1])
    axes.set_xlabel(label_of(name))
    quiet_log(axes.yaxis)
