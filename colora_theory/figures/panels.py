"""The kinds of figure: each draws its tables into axes (or a page) and computes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import matplotlib.patheffects
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from colora_theory.figures.style import COLOURS, DASHES, MARKERS, label_of, name_of, wrapped

if TYPE_CHECKING:
    import pandas as pd

#: Panels side by side on a page of bars.
PANELS_ACROSS: Final = 5
GREYS: Final = ("#000000", "#666666", "#999999")


def groups(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of every line, in the table's order."""
    return [(str(text), rows) for text, rows in table.groupby("line", sort=False)]


def spread(rows: pd.DataFrame) -> Any:
    """Lengths of the error bars, shape (2, n)."""
    return np.maximum(np.vstack([rows["mean"] - rows["low"], rows["high"] - rows["mean"]]), 0.0)


def claim(table: pd.DataFrame, name: str, more: str = "") -> str:
    """What a legend says about a guarantee: its name and whether it is proved, published or predicted."""
    standing = table["standing"].iloc[0] if len(table) else "outside its hypotheses here"
    return f"{name_of(name)}{more} ({standing})"


def dash(table: pd.DataFrame) -> str:
    """The dash of a claim's standing."""
    return DASHES[table["standing"].iloc[0]] if len(table) else "-"


def curve(axes: Axes, figure: Any, tables: dict[str, pd.DataFrame]) -> None:
    """Means with Monte Carlo intervals against a problem field, claims as lines."""
    x, table = figure.x, tables["points"]
    numeric = np.issubdtype(np.asarray(table[x]).dtype, np.number)
    lines = groups(table)
    places = {value: place for place, value in enumerate(dict.fromkeys(table[x]))}
    for index, (text, rows) in enumerate(lines):
        rows = rows.sort_values(x) if numeric else rows
        beside = 0.12 * (index - 0.5 * (len(lines) - 1))  # names have room beside each other, numbers a place
        axes.errorbar(
            rows[x] if numeric else rows[x].map(places) + beside,
            rows["mean"],
            spread(rows),
            fmt=MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            markerfacecolor="none",  # two lines at one value: both are seen
            capsize=2,
            label=text,
            zorder=3,
        )
    number = 0
    for name in figure.overlay:
        table_of_claim = tables.get(f"overlay:{name}")
        if table_of_claim is None or not len(table_of_claim):
            continue
        several = groups(table_of_claim)
        together = len(several) > 1 and bool(figure.lines)  # lines named by the study: one entry a claim
        for index, (text, rows) in enumerate(several):
            rows = rows.sort_values(x) if numeric else rows
            text = "_" if together and index else claim(rows, name, f", {text}" if text and not together else "")
            colour, width = GREYS[number % len(GREYS)], (1.2, 2.4)[number // len(GREYS) % 2]
            if numeric:
                axes.plot(rows[x], rows["value"], dash(rows), color=colour, linewidth=width, label=text, zorder=2)
            else:
                at = rows[x].map(places)
                axes.hlines(
                    rows["value"],
                    at - 0.3,
                    at + 0.3,
                    linestyle=dash(rows),
                    color=colour,
                    linewidth=width,
                    label=text,
                    zorder=2,
                )
            number += not together
        number += together
    _scales(axes, figure, table[x], numeric)


def short(value: float) -> str:
    """A tick's number; many zeros become a power of ten, so that neighbours do not touch."""
    digits, _, power = f"{value:e}".partition("e")
    if value < 10_000 or float(digits) != round(float(digits)):
        return f"{value:g}"
    return f"${float(digits):g}\\cdot 10^{{{int(power)}}}$".replace("1\\cdot ", "")


def _scales(axes: Axes, figure: Any, x: Any, numeric: bool) -> None:
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
    if figure.log_y is not False:
        axes.set_yscale("log")
        quiet_log(axes.yaxis)


def quiet_log(axis: Any) -> None:
    """Few ticks on a logarithmic axis: more than decades only where there are hardly two of them."""
    low, high = axis.get_view_interval()
    if high / low < 300:
        axis.set_major_locator(mpl.ticker.LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 50 else (1.0, 3.0)))
        axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(mpl.ticker.LogLocator(subs=[float(i) for i in range(1, 10)]))
    axis.set_minor_formatter(mpl.ticker.NullFormatter())


def trajectory(axes: Axes, figure: Any, tables: dict[str, pd.DataFrame]) -> None:
    """Courses over the sweeps: geometric mean over trials, band from the least to the largest; claims dashed."""
    for index, (text, rows) in enumerate(groups(tables["points"])):
        rows = rows[rows["sweep"] > 0] if figure.log_x else rows  # a logarithmic axis has no place for the start
        colour = COLOURS[index % len(COLOURS)]
        every: Any = max(1, len(rows) // 12)
        if figure.log_x:
            every = np.unique(np.geomspace(1, len(rows), 10).astype(int) - 1).tolist()
        axes.plot(
            rows["sweep"],
            rows["mean"],
            color=colour,
            marker=MARKERS[index % len(MARKERS)],
            markevery=every,
            label=text,
        )
        axes.fill_between(rows["sweep"], rows["low"], rows["high"], color=colour, alpha=0.18, linewidth=0)
    widths = (1.2, 2.4, 0.8)
    for number, name in enumerate(figure.overlay):
        table = tables[f"path:{name}"]
        for index, (_, rows) in enumerate(groups(table)):
            rows = rows[rows["sweep"] > 0] if figure.log_x else rows
            label = claim(rows, name) if not index else "_nolegend_"
            axes.plot(
                rows["sweep"],
                rows["mean"],
                dash(rows),
                color=GREYS[number % len(GREYS)],
                linewidth=widths[number % 3],
                label=label,
                zorder=4 - number % 3,
            )
    axes.set_yscale("log" if figure.log_y is not False else "linear")
    axes.set_xscale("log" if figure.log_x else "linear")
    if figure.log_y is not False:
        quiet_log(axes.yaxis)
    if not figure.log_x:
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))


def scatter(axes: Axes, figure: Any, tables: dict[str, pd.DataFrame]) -> None:
    """Claimed against observed, trial by trial; on the diagonal a claim is exact."""
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
        axes.set_xscale("log")
        axes.set_yscale("log")
    values = values if len(values) else np.array([1.0, 2.0])
    ends = [values.min(), values.max()]
    axes.plot(ends, ends, color="#000000", linewidth=0.8, label="claimed = observed", zorder=1)
    if figure.log_x is not False:
        quiet_log(axes.xaxis)
        quiet_log(axes.yaxis)


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


def heatmap(axes: Axes, figure: Any, tables: dict[str, pd.DataFrame]) -> None:
    """Means over a grid of two fields; for a success rate the 50 % contour and threshold lines."""
    table = tables["points"].pivot_table(index=figure.y, columns=figure.x, values="mean", sort=True)
    share = figure.value == "success"
    image = axes.pcolormesh(
        edges(table.columns),
        edges(table.index),
        table.to_numpy(float),
        cmap="Blues" if share else "cividis",
        norm=None if share else mpl.colors.LogNorm(),
        vmin=0.0 if share else None,
        vmax=1.0 if share else None,
        rasterized=True,
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(edges(table.columns)[[0, -1]])
    axes.set_ylim(edges(table.index)[[0, -1]])
    for axis, values in ((axes.xaxis, table.columns), (axes.yaxis, table.index)):
        ticks = apart([float(value) for value in values])
        axis.set_major_locator(mpl.ticker.FixedLocator(ticks))
        axis.set_major_formatter(mpl.ticker.FixedFormatter([f"{value:g}" for value in ticks]))
        axis.set_minor_locator(mpl.ticker.NullLocator())
    axes.grid(visible=False)
    bar = axes.figure.colorbar(image, ax=axes)
    bar.set_label(label_of(figure.value))
    bar.outline.set_visible(False)

    def line(rows: pd.DataFrame, style: Any, colour: str, width: float, text: str) -> None:
        halo = [mpl.patheffects.withStroke(linewidth=width + 1.6, foreground="#ffffff")]
        axes.plot(
            rows[figure.x],
            rows["value"],
            linestyle=style,
            color=colour,
            linewidth=width,
            label=text,
            path_effects=halo,
        )

    dashes = ("-", (0, (4, 1.6)), (0, (1, 1)), (0, (5, 1, 1, 1)))
    colours = ("#000000", "#E69F00", "#009E73", "#CC79A7")
    for index, name in enumerate(figure.overlay):
        rows = tables[f"overlay:{name}"]
        if len(rows):
            at = f" = {figure.levels[name]:g}" if name in figure.levels else ""
            width = 2.2 if not index else 1.2
            line(rows, dashes[index % 4], colours[index % 4], width, claim(rows, name, at))
    if len(tables.get("boundary", ())):
        line(tables["boundary"], "-", "#D55E00", 1.2, "half of the trials succeed (logistic fit)")


def bars(page: Figure, figure: Any, tables: dict[str, pd.DataFrame], titles: list[str], inches: float) -> None:
    """One panel a cell, one row a method, in the study's order: mean and interval; the best is marked.

    A point on a leader instead of a bar: on a logarithmic axis a bar has no foot to stand on.
    """
    table = tables["points"]
    cells = list(dict.fromkeys(table["cell"]))
    across = min(len(cells), PANELS_ACROSS)
    grid = page.subplots(-(-len(cells) // across), across, sharey=True, squeeze=False).ravel()
    for spare in grid[len(cells) :]:
        spare.remove()
    panels, inches = grid[: len(cells)], inches / across
    labels = list(dict.fromkeys(table["line"]))
    size = float(mpl.rcParams["font.size"])
    for axes, cell, title in zip(panels, cells, titles, strict=True):
        rows = table[table["cell"] == cell].set_index("line").reindex(labels)
        place, best = np.arange(len(labels))[::-1], rows["mean"].idxmin()
        for y, text in zip(place, labels, strict=True):
            one = rows.loc[[text]]
            win = text == best
            axes.errorbar(
                one["mean"],
                [y],
                xerr=spread(one),
                fmt="D" if win else "o",
                color=COLOURS[1] if win else COLOURS[0],
                capsize=2,
                label=("least in the panel" if win else "mean and 95 % interval"),
            )
        axes.set_xscale("log" if figure.log_x is not False else "linear")
        if figure.log_x is not False:
            quiet_log(axes.xaxis)
            low, high = axes.get_xlim()
            if high / low > 50:
                axes.xaxis.set_major_locator(mpl.ticker.LogLocator(numticks=4))
                axes.xaxis.set_major_formatter(mpl.ticker.LogFormatterSciNotation())
        axes.set_yticks(place, labels)
        axes.set_ylim(-0.7, len(labels) - 0.3)
        axes.set_title(wrapped(title, inches, size), fontsize=size)
        axes.set_xlabel(wrapped(figure.y_label or label_of(figure.y), inches, size))


KINDS: Final[dict[str, Callable[[Axes, Any, dict[str, Any]], None]]] = {
    "curve": curve,
    "trajectory": trajectory,
    "scatter": scatter,
    "heatmap": heatmap,
}
