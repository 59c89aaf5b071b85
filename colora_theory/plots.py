"""Figures of a study: draws the tables of `analysis` and computes nothing itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from colora_theory import analysis

if TYPE_CHECKING:
    import pandas as pd

    from colora_theory.results import Results

#: Okabe & Ito's colours, told apart by colour-blind readers; markers and dashes tell them apart in grey.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
DASHES: Final = {"proved": "-", "published up to a constant": ":", "prediction": "--"}

#: Widths in inches of a journal's column and page.
COLUMN, PAGE = 3.3, 6.9

LABELS: Final = {
    "num_users": "users $k$",
    "num_samples": "samples per user $n$",
    "dim_in": "inputs $d$",
    "dim_out": "outputs $p$",
    "rank": "rank $r$",
    "noise_std": "noise standard deviation $\\sigma$",
    "similarity_angle": "angle between users' subspaces (rad)",
    "parameter_error": "squared error, all users",
    "mean_user_error": "squared error per user",
    "max_user_error": "largest squared error of a user",
    "prediction_risk": "excess prediction risk",
    "subspace_distance": "subspace distance",
    "subspace_distance_fro": "subspace distance (Frobenius)",
    "output_subspace_distance": "output subspace distance",
    "relative_error": "relative error",
    "success": "share of exact recoveries",
    "sweeps": "sweeps",
    "seconds": "seconds per fit",
    "estimator": "",
    "sweep": "sweep",
    "objective": "sum of squared residuals",
    "claimed": "claimed",
    "observed": "observed",
}

_STYLE: Final = {
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "svg.fonttype": "path",
    "svg.hashsalt": "colora_theory",
    "pdf.fonttype": 42,
}
STYLES: Final = {
    "paper": {**_STYLE, "font.size": 8, "axes.titlesize": 9, "legend.fontsize": 7, "lines.markersize": 4},
    "talk": {**_STYLE, "font.size": 13, "axes.titlesize": 15, "legend.fontsize": 11, "lines.markersize": 7},
}


def label_of(name: str) -> str:
    """Axis label of a field or metric."""
    return LABELS.get(name, name.replace("_", " "))


def _lines(table: pd.DataFrame, apart: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """Rows of one line each: everything that differs and is not the x axis."""
    if not apart:
        return [("", table)]
    out = []
    for key, rows in table.groupby(apart, sort=False):
        keys = key if isinstance(key, tuple) else (key,)
        words = [
            str(value) if name in ("estimator", "name") else f"{label_of(name)} = {value}"
            for name, value in zip(apart, keys, strict=True)
        ]
        out.append((", ".join(words), rows))
    return out


def _curve(axes: Axes, results: Results, figure: Any, tables: dict[str, pd.DataFrame]) -> None:
    """Means with Monte Carlo intervals against a problem field, claims as lines."""
    x, varied = figure.x, list(results.study.cells[0].varied)
    apart = [name for name in varied if name != x]
    table = tables["points"]
    for index, (text, rows) in enumerate(_lines(table, ["estimator", *apart])):
        rows = rows.sort_values(x)
        errors = np.vstack([rows["mean"] - rows["low"], rows["high"] - rows["mean"]])
        axes.errorbar(
            rows[x],
            rows["mean"],
            yerr=np.maximum(errors, 0.0),
            fmt=MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            capsize=2,
            label=text.replace("_", " "),
            zorder=3,
        )
    greys = ("#000000", "#666666", "#999999", "#333333")
    number = 0
    for name in figure.overlay:
        for text, rows in _lines(tables[f"overlay:{name}"], apart):
            rows = rows.sort_values(x)
            standing = rows["standing"].iloc[0] if len(rows) else "proved"
            suffix = f", {text}" if text else ""
            axes.plot(
                rows[x],
                rows["value"],
                DASHES[standing],
                color=greys[number % len(greys)],
                linewidth=(1.2, 2.2)[number // len(greys) % 2],
                label=f"{name.replace('_', ' ')}{suffix} ({standing})",
                zorder=2,
            )
            number += 1
    _scales(axes, figure, table[x])
    axes.legend()


def _scales(axes: Axes, figure: Any, x: Any) -> None:
    """Logarithmic axes unless the figure says otherwise; ticks at the values that were run when they are few."""
    numeric = np.issubdtype(np.asarray(x).dtype, np.number)
    if figure.log_x is not False and numeric and np.min(x) > 0:
        axes.set_xscale("log")
        values = sorted(set(x))
        if len(values) <= 8:
            axes.set_xticks(values, [f"{value:g}" for value in values])
            axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    if figure.log_y is not False:
        axes.set_yscale("log")


def _trajectory(axes: Axes, results: Results, figure: Any, tables: dict[str, pd.DataFrame]) -> None:
    """Courses over the sweeps: geometric mean over trials, band from the least to the largest."""
    apart = ["estimator", *results.study.cells[0].varied]
    for index, (text, rows) in enumerate(_lines(tables["points"], apart)):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        every = max(1, len(rows) // 12)
        axes.plot(
            rows["sweep"], rows["mean"], color=colour, marker=marker, markevery=every, label=text.replace("_", " ")
        )
        axes.fill_between(rows["sweep"], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
    axes.set_yscale("log" if figure.log_y is not False else "linear")
    axes.set_xscale("log" if figure.log_x else "linear")
    axes.legend()


def _scatter(axes: Axes, results: Results, figure: Any, tables: dict[str, pd.DataFrame]) -> None:
    """Claimed against observed, trial by trial; on the diagonal a claim is exact."""
    for index, name in enumerate(figure.overlay):
        table = tables[f"pairs:{name}"]
        axes.plot(
            table["claim"],
            table["observed"],
            MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            alpha=0.5,
            label=f"{name.replace('_', ' ')} ({table['standing'].iloc[0] if len(table) else 'proved'})",
        )
    ends = np.array([*axes.get_xlim(), *axes.get_ylim()])
    if figure.log_x is not False:
        positive = np.concatenate(
            [tables[f"pairs:{n}"][["claim", "observed"]].to_numpy().ravel() for n in figure.overlay]
        )
        positive = positive[positive > 0]
        axes.set_xscale("log")
        axes.set_yscale("log")
        ends = np.array([positive.min(), positive.max()]) if len(positive) else np.array([1.0, 2.0])
    axes.plot(
        [ends.min(), ends.max()],
        [ends.min(), ends.max()],
        color="#000000",
        linewidth=0.8,
        label="claim = observed",
    )
    axes.legend()


def _heatmap(axes: Axes, results: Results, figure: Any, tables: dict[str, pd.DataFrame]) -> None:
    """Means over a grid of two fields; for a success rate the 50 % contour and threshold lines."""
    table = tables["points"].pivot_table(index=figure.y, columns=figure.x, values="mean", sort=True)
    columns, rows = np.arange(len(table.columns)), np.arange(len(table.index))
    share = figure.value == "success"
    image = axes.pcolormesh(
        columns,
        rows,
        table.to_numpy(float),
        cmap="cividis",
        norm=None if share else mpl.colors.LogNorm(),
        vmin=0.0 if share else None,
        vmax=1.0 if share else None,
        shading="nearest",
        rasterized=True,
    )
    axes.set_xticks(columns, [f"{value:g}" for value in table.columns])
    axes.set_yticks(rows, [f"{value:g}" for value in table.index])
    axes.grid(visible=False)
    bar = axes.figure.colorbar(image, ax=axes)
    bar.set_label(label_of(figure.value))

    def place(values: Any, ticks: Any) -> Any:
        """Positions on the evenly spaced grid of values that lie between its (geometrically spaced) ticks."""
        marks = np.log(np.asarray(ticks, dtype=float))
        return np.interp(np.log(np.asarray(values, dtype=float)), marks, np.arange(len(marks)), np.nan, np.nan)

    if "boundary" in tables and len(tables["boundary"]):
        line = tables["boundary"]
        axes.plot(
            place(line[figure.x], table.columns), place(line["value"], table.index), color="#ffffff", linewidth=2.5
        )
        axes.plot(
            place(line[figure.x], table.columns),
            place(line["value"], table.index),
            color="#D55E00",
            label="half of the trials succeed",
        )
    styles = ("-", "--", ":", "-.")
    for index, name in enumerate(figure.overlay):
        line = tables[f"overlay:{name}"]
        text = f"{name.replace('_', ' ')} ({line['standing'].iloc[0] if len(line) else 'proved'})"
        axes.plot(
            place(line[figure.x], table.columns), place(line["value"], table.index), color="#ffffff", linewidth=2.8
        )
        axes.plot(
            place(line[figure.x], table.columns),
            place(line["value"], table.index),
            styles[index % 4],
            color="#000000",
            label=text,
        )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _bars(picture: Figure, results: Results, figure: Any, tables: dict[str, pd.DataFrame]) -> None:
    """One panel a cell, one bar a method, in the study's order; the best of each panel is hatched."""
    varied = list(results.study.cells[0].varied)
    panels = _lines(tables["points"], varied) if varied else [("", tables["points"])]
    axes = picture.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    labels = list(dict.fromkeys(tables["points"]["estimator"]))
    for one, (text, rows) in zip(axes, panels, strict=True):
        rows = rows.set_index("estimator").reindex(labels)
        place = np.arange(len(labels))[::-1]
        best = rows["mean"].idxmin()
        errors = np.maximum(np.vstack([rows["mean"] - rows["low"], rows["high"] - rows["mean"]]), 0.0)
        colours = [COLOURS[1] if label == best else COLOURS[0] for label in labels]
        bars = one.barh(
            place, rows["mean"], xerr=errors, color=colours, height=0.7, capsize=1.5, error_kw={"lw": 0.7}
        )
        bars[labels.index(best)].set_hatch("//")
        one.set_yticks(place, [label.replace("_", " ") for label in labels])
        one.set_xscale("log" if figure.log_x is not False else "linear")
        one.grid(axis="y", visible=False)
        one.set_title(
            figure.panel_titles.get(text, text) if figure.panel_titles else text.replace(", ", "\n"),
            fontsize="medium",
        )
    picture.supxlabel(figure.y_label or label_of(figure.y), fontsize="medium")


_KINDS: Final[dict[str, Callable[[Axes, Any, Any, dict[str, Any]], None]]] = {
    "curve": _curve,
    "trajectory": _trajectory,
    "scatter": _scatter,
    "heatmap": _heatmap,
}


def tables_of(results: Results, figure: Any) -> dict[str, pd.DataFrame]:
    """The tables that one figure draws: "points", and one table for every claim in it."""
    if figure.kind == "trajectory":
        return {"points": analysis.trajectories(results, figure.y, figure.trials, figure.estimators)}
    if figure.kind == "scatter":
        return {f"pairs:{name}": analysis.scatter_table(results, name) for name in figure.overlay}
    metric = figure.value if figure.kind == "heatmap" else figure.y
    table = analysis.points(results, metric)
    if figure.estimators:
        table = table[table["estimator"].isin(figure.estimators)]
    tables = {"points": table}
    if figure.kind == "heatmap" and metric == "success":
        tables["boundary"] = analysis.boundary_line(table, figure.x, figure.y)
    for name in figure.overlay:
        if figure.kind == "heatmap":
            tables[f"overlay:{name}"] = analysis.threshold_line(results, name, figure.x, figure.y)
        else:
            tables[f"overlay:{name}"] = analysis.overlay(results, name, metric)
    return tables


def draw_one(results: Results, figure: Any, tables: dict[str, pd.DataFrame], style: str = "paper") -> Figure:
    """Return one figure as a Matplotlib figure (not shown, not saved)."""
    title = figure.title or results.study.title
    width = PAGE if figure.width == "page" else COLUMN
    with plt.style.context([STYLES.get(style, style)]):
        if figure.kind == "bars":
            rows = tables["points"]["estimator"].nunique()
            picture = plt.figure(figsize=(PAGE, 1.1 + 0.17 * rows))
            _bars(picture, results, figure, tables)
            picture.suptitle(title)
            return picture
        picture, axes = plt.subplots(figsize=(width, 0.78 * width if width < PAGE else 0.5 * width))
        _KINDS[figure.kind](axes, results, figure, tables)
        names = ("claimed", "observed") if figure.kind == "scatter" else (figure.x or "sweep", figure.y or "")
        axes.set_xlabel(figure.x_label or label_of(names[0]))
        axes.set_ylabel(figure.y_label or label_of(names[1]))
        axes.set_title(title, wrap=True)
    return picture


def draw(
    results: Results, folder: Path, style: str = "paper", formats: tuple[str, ...] = ("svg", "pdf", "png")
) -> list[Path]:
    """Draw every figure of a study into `folder`, each beside its data (CSV) and its manifest (JSON)."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    study = results.study
    for index, figure in enumerate(study.figures):
        stem = figure.file or (study.name if index == 0 else f"{study.name}_{index + 1}")
        tables = tables_of(results, figure)
        picture = draw_one(results, figure, tables, style)
        with plt.style.context([STYLES.get(style, style)]):
            for suffix in formats:
                path = folder / f"{stem}.{suffix}"
                picture.savefig(path, metadata=_metadata(suffix, figure.title or study.title))
                written.append(path)
        plt.close(picture)
        _store(folder / stem, results, tables)
    return written


def _metadata(suffix: str, title: str) -> dict[str, Any]:
    """No dates: the same results give the same file."""
    if suffix == "svg":
        return {"Date": None, "Title": title, "Creator": None}
    return {"CreationDate": None, "Title": title} if suffix == "pdf" else {"Title": title}


def _store(stem: Path, results: Results, tables: dict[str, pd.DataFrame]) -> None:
    import pandas as pd

    rows = [table.assign(table=name) for name, table in tables.items() if len(table)]
    pd.concat(rows, ignore_index=True).to_csv(stem.with_suffix(".csv"), index=False, lineterminator="\n")
    manifest = {**results.manifest, "study": results.study.name, "claim": results.study.claim}
    stem.with_suffix(".json").write_text(json.dumps(manifest, indent=2, sort_keys=True, default=str) + "\n")
