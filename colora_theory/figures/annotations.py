"""What is written into a panel beside its lines: slopes, names at the ends of lines, where two lines cross."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from colora_theory.figures.style import safe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#666666"


def guide_lines(axes: Axes, slopes: Any, x: Any, y: Any) -> None:
    """Lines of given log-log slopes below the points, each labelled below its middle."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    seen = (x > 0) & (y > 0)
    if not seen.any():
        return
    low, high = float(x[seen].min()), float(x[seen].max())
    for slope in slopes:
        height = float(np.min(y[seen] / x[seen] ** slope)) * 0.6
        ends = [height * low**slope, height * high**slope]
        axes.plot([low, high], ends, color="#999999", linewidth=0.8, zorder=1)
        middle = (math.sqrt(low * high), math.sqrt(ends[0] * ends[1]))
        side = "left" if slope > 0 else "right"  # below the line, not on it
        axes.annotate(f"slope {slope:g}", middle, fontsize="small", color=GREY, ha=side, va="top")


def label_lines(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the name of every line at its right end, in its colour, moved apart where names would touch.

    ends : (x, y, text, colour) of every line's last point. Call it when size and limits of the axes are final.
    """
    root = axes.get_figure(root=True)
    assert root is not None
    root.draw_without_rendering()  # places the axes
    step = 1.25 * 0.83 * float(mpl.rcParams["font.size"]) * root.dpi / 72 / axes.get_window_extent().height
    to_axes = axes.transData + axes.transAxes.inverted()
    order = sorted(ends, key=lambda end: float(to_axes.transform((end[0], end[1]))[1]))
    heights = [float(to_axes.transform((x, y))[1]) for x, y, *_ in order]
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + step) if placed else height)
    over = max(0.0, placed[-1] - 1.0) if placed else 0.0
    right = max((float(to_axes.transform((x, y))[0]) for x, y, *_ in order), default=1.0)
    for (x, y, text, colour), height in zip(order, placed, strict=True):
        axes.annotate(
            safe(text),
            (x, y),
            xytext=(right + 0.03, height - over),
            textcoords=axes.transAxes,
            fontsize="small",
            color=colour,
            va="center",
            ha="left",
            annotation_clip=False,
        )


def crossing(x: Any, first: Any, second: Any) -> float | None:
    """Where the first of two lines gets above the second, log(first/second) interpolated; None if nowhere."""
    x = np.asarray(x, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.log(np.asarray(first, float) / np.asarray(second, float))
    for i in range(len(x) - 1):
        if math.isfinite(gap[i]) and math.isfinite(gap[i + 1]) and gap[i] < 0 <= gap[i + 1]:
            return float(x[i] + (x[i + 1] - x[i]) * -gap[i] / (gap[i + 1] - gap[i]))
    return None


def mark_crossing(axes: Axes, at: float, height: float, text: str) -> None:
    """A thin line down to the axis where two lines cross, and what it says."""
    low = axes.get_ylim()[0]
    axes.plot([at, at], [low, height], color=GREY, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    axes.plot([at], [height], "o", color="#000000", markersize=3, zorder=4)
    axes.set_ylim(bottom=low)
    axes.annotate(
        f"{text} {at:.3g}", (at, low), xytext=(3, 3), textcoords="offset points", fontsize="small", color=GREY
    )
