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


_KINDS: Final[dict[str, Callable[[Axes, Any, Any, dict[str, Any]], None]]] = {"curve": _curve}


def tables_of(results: Results, figure: Any) -> dict[str, pd.DataFrame]:
    """The tables that one figure draws: "points", and "overlay:NAME" for every claim in it."""
    table = analysis.points(results, figure.y)
    if figure.estimators:
        table = table[table["estimator"].isin(figure.estimators)]
    tables = {"points": table}
    for name in figure.overlay:
        tables[f"overlay:{name}"] = analysis.overlay(results, name, figure.y)
    return tables


def draw_one(results: Results, figure: Any, tables: dict[str, pd.DataFrame], style: str = "paper") -> Figure:
    """Return one figure as a Matplotlib figure (not shown, not saved)."""
    with plt.style.context([STYLES.get(style, style)]):
        width = PAGE if figure.kind == "heatmap" else COLUMN * 1.4
        picture, axes = plt.subplots(figsize=(width, width * 0.72))
        _KINDS[figure.kind](axes, results, figure, tables)
        axes.set_xlabel(figure.x_label or label_of(figure.x))
        axes.set_ylabel(figure.y_label or label_of(figure.y or ""))
        axes.set_title(figure.title or results.study.title, wrap=True)
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
