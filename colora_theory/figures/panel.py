"""What the kinds of figure share when they draw: lines and their looks, names of claims, readable ticks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import matplotlib.ticker
import numpy as np

from colora_theory.figures.style import COLOURS, DASHES, MARKERS, name_of, wrapped

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

GREYS: Final = ("#000000", "#666666", "#999999")


def groups(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of every line, in the table's order."""
    return [(str(text), rows) for text, rows in table.groupby("line", sort=False)]


def looks(table: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Colour and marker of every line: its colour tells its hue, its marker what else it differs in.

    Without a hue, and where a hue is all that differs, both number the lines.
    """
    lines = list(dict.fromkeys(table["line"].astype(str)))
    if "hue" not in table:
        return {text: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, text in enumerate(lines)}
    first = table.drop_duplicates("line").set_index("line")
    hues, rest = list(dict.fromkeys(table["hue"].astype(str))), list(dict.fromkeys(table["rest"].astype(str)))
    marked, by = (rest, "rest") if len(rest) > 1 else (hues, "hue")
    return {
        text: (
            COLOURS[hues.index(str(first.loc[text, "hue"])) % len(COLOURS)],
            MARKERS[marked.index(str(first.loc[text, by])) % len(MARKERS)],
        )
        for text in lines
    }


def hue_colour(rows: pd.DataFrame, points: pd.DataFrame, otherwise: str) -> str:
    """The colour of a claim: that of its hue among the points, or another where it belongs to no hue."""
    if "hue" not in rows or "hue" not in points or not len(rows):
        return otherwise
    hues = list(dict.fromkeys(points["hue"].astype(str)))
    mine = str(rows["hue"].iloc[0])
    return COLOURS[hues.index(mine) % len(COLOURS)] if mine in hues else otherwise


def empty(axes: Axes, why: str) -> None:
    """An empty panel that says why."""
    axes.text(
        0.5, 0.5, wrapped(why, 2.2, 8.0), ha="center", va="center", transform=axes.transAxes, color="#555555"
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)


def spread(rows: pd.DataFrame, logarithmic: bool = False) -> Any:
    """Lengths of the error bars, shape (2, n).

    On a logarithmic axis an interval of a positive mean that reaches zero is that of the mean's logarithm: as long
    as the plain one above, by the same factor below.
    """
    mean, low, high = (rows[name].to_numpy(float) for name in ("mean", "low", "high"))
    if logarithmic:
        positive = mean > 0
        below = mean**2 / np.maximum(high, np.where(positive, mean, 1.0))
        low = np.where(positive & (low <= 0), below, low)
    return np.maximum(np.vstack([mean - low, high - mean]), 0.0)


def ends(mean: Any, lengths: Any) -> Any:
    """Where error bars of `lengths`, shape (2, n), end: shape (2, n); at the mean of one trial, which has none."""
    return np.asarray(mean, float) + np.array([[-1.0], [1.0]]) * np.nan_to_num(lengths, nan=0.0)


@contextmanager
def reaching(axes: Axes, x: Any, y: Any) -> Iterator[None]:
    """Let what is drawn in the body reach these points, shapes that broadcast, and no others.

    Before version 3.11 Matplotlib takes the lines of a collection (bars of errors, `hlines`) for their logarithms
    on an axis that is logarithmic already, as that of the second of panels that share one is.
    """
    limits = axes.dataLim.frozen()
    yield
    axes.dataLim = limits
    axes.update_datalim(np.column_stack([value.ravel() for value in np.broadcast_arrays(x, y)]))


def claim(table: pd.DataFrame, name: str, more: str = "") -> str:
    """What a legend says about a guarantee: its name and whether it is proved, published or predicted."""
    standing = table["standing"].iloc[0] if len(table) else "outside its hypotheses here"
    return f"{name_of(name)}{more} ({standing})"


def dash(table: pd.DataFrame) -> str:
    """The dash of a claim's standing."""
    return DASHES[table["standing"].iloc[0]] if len(table) else "-"


def short(value: float) -> str:
    """A tick's number; many zeros become a power of ten, so that neighbours do not touch."""
    digits, _, power = f"{value:e}".partition("e")
    if value < 10_000 or float(digits) != round(float(digits)):
        return f"{value:g}"
    return f"${float(digits):g}\\cdot 10^{{{int(power)}}}$".replace("1\\cdot ", "")


def scales(axes: Axes, figure: Any, x: Any, numeric: bool) -> None:
    """Logarithmic axes unless the figure says otherwise; ticks at the values that were run when they are few."""
    if numeric:
        values = sorted(set(x))
        positive = np.min(x) > 0
        if figure.log_x is not False and positive:
            axes.set_xscale("log")
        if len(values) <= 7:
            axes.set_xticks(values, [short(value) for value in values])
            axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    else:
        names = [str(value).replace("_", " ") for value in dict.fromkeys(x)]
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right", rotation_mode="anchor")
    if figure.log_y is not False and has_positive(axes):
        axes.set_yscale("log", nonpositive="clip")
        quiet_log(axes.yaxis)


def has_positive(axes: Axes) -> bool:
    """Whether anything drawn has a positive height, which a logarithmic axis needs."""
    return any(np.nanmax(np.asarray(line.get_ydata(), float), initial=0.0) > 0 for line in axes.lines)


def quiet_log(axis: Any) -> None:
    """Few ticks on a logarithmic axis: more than decades only where there are hardly two of them."""
    low, high = axis.get_view_interval()
    if high / low < 300:
        axis.set_major_locator(mpl.ticker.LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 50 else (1.0, 3.0)))
        if sum(low <= tick <= high for tick in axis.get_major_locator().tick_values(low, high)) < 2:
            axis.set_major_locator(mpl.ticker.MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(mpl.ticker.LogLocator(subs=[float(i) for i in range(1, 10)]))
    axis.set_minor_formatter(mpl.ticker.NullFormatter())


def edges(values: Any) -> Any:
    """Boundaries of cells centred (geometrically) at sorted positive values."""
    logs = np.log(np.asarray(values, float))
    if len(logs) == 1:
        return np.exp([logs[0] - 0.5, logs[0] + 0.5])
    middle = 0.5 * (logs[1:] + logs[:-1])
    return np.exp([2 * logs[0] - middle[0], *middle, 2 * logs[-1] - middle[-1]])


def apart(values: list[float], least: float = 0.08) -> list[float]:
    """The values that are far enough from each other on a logarithmic axis for their labels, in sorted order."""
    kept = values[:1]
    for value in values[1:]:
        if math.log(value / kept[-1]) >= least * math.log(values[-1] / values[0]):
            kept.append(value)
    return kept
