"""Figures of a study, fit for a paper: each beside its data, from which it can be drawn again, and manifest."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from colora_theory.figures import panels
from colora_theory.figures.style import WIDTHS, context, label_of, scale, wrapped
from colora_theory.figures.tables import (
    boundary_line,
    cells_of,
    chosen,
    overlay,
    points,
    scatter_table,
    shown,
    threshold_line,
)
from colora_theory.figures.trajectory import courses

if TYPE_CHECKING:
    import pandas as pd

    from colora_theory.results.results import Results
    from colora_theory.studies.study import Study

FORMATS = ("svg", "pdf", "png")


def stems(study: Study) -> list[str]:
    """File names of the study's figures, without suffix."""
    return [
        figure.file or (study.name if index == 0 else f"{study.name}_{index + 1}")
        for index, figure in enumerate(study.figures)
    ]


def tables_of(results: Results, figure: Any) -> dict[str, pd.DataFrame]:
    """The tables that one figure draws: "points", and one table for every claim in it."""
    study = results.study
    if figure.kind == "trajectory":
        return courses(results, figure)
    if figure.kind == "scatter":
        return {f"pairs:{name}": scatter_table(results, name, study, figure) for name in figure.overlay}
    metric = figure.value if figure.kind == "heatmap" else figure.y
    x = figure.x if figure.kind == "curve" else None
    table = chosen(points(results, metric), study, figure, x)
    tables = {"points": table}
    if figure.kind == "heatmap":
        if metric == "success":
            tables["boundary"] = boundary_line(table, figure.x, figure.y)
        for name in figure.overlay:
            tables[f"overlay:{name}"] = threshold_line(results, name, figure)
    if figure.kind == "curve":
        for name in figure.overlay:
            tables[f"overlay:{name}"] = cells_of(overlay(results, name, metric), study, figure)
    return tables


def draw_one(study: Study, figure: Any, tables: dict[str, pd.DataFrame], style: str = "paper") -> Figure:
    """Return one figure as a Matplotlib figure (not shown, not saved)."""
    with context(style):
        width = WIDTHS["page" if figure.kind == "bars" else figure.width] * scale()
        title = wrapped(figure.title or study.title, width, float(mpl.rcParams["font.size"]) * 1.12)
        if figure.kind == "bars":
            return _page(study, figure, tables, title, width)
        picture, axes = plt.subplots(figsize=(width, 1.0))
        panels.KINDS[figure.kind](axes, figure, tables)
        names = ("claimed", "observed") if figure.kind == "scatter" else (figure.x or "sweep", figure.y or "")
        height = (0.66 if figure.width == "column" else 0.42) * width
        size = float(mpl.rcParams["font.size"])
        axes.set_xlabel(figure.x_label or label_of(names[0]))
        axes.set_ylabel(wrapped(figure.y_label or label_of(names[1]), 0.7 * height, size))
        picture.suptitle(title, fontsize=mpl.rcParams["axes.titlesize"])
        finish(picture, width, height)
    return picture


def finish(picture: Figure, width: float, height: float) -> None:
    """Legend below the axes, where it covers nothing, in as many columns as fit; the page grows by its rows."""
    handles: dict[str, Any] = {}
    for axes in picture.axes:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
    em = float(mpl.rcParams["font.size"]) * 0.875 / 72
    rows = 0
    if handles:
        longest = max(len(text.replace("$", "")) for text in handles)
        columns = max(1, min(len(handles), int(width / ((0.52 * longest + 4.0) * em))))
        texts = [wrapped(text, width - 4.5 * em, em * 72) for text in handles] if columns == 1 else list(handles)
        rows = sum(1 + text.count("\n") for text in texts) if columns == 1 else math.ceil(len(texts) / columns)
        picture.legend(handles.values(), texts, loc="outside lower center", ncols=columns)
    titles = picture.get_suptitle().count("\n") + max(axes.get_title().count("\n") for axes in picture.axes)
    picture.set_size_inches(width, height + rows * 1.55 * em + titles * 1.5 * em)


def _page(study: Study, figure: Any, tables: dict[str, pd.DataFrame], title: str, width: float) -> Figure:
    table = tables["points"]
    cells = {cell.id: cell for cell in study.cells}
    ids = list(dict.fromkeys(table["cell"]))
    titles = [
        ", ".join(f"{label_of(name)} = {shown(value)}" for name, value in cells[i].varied.items()) for i in ids
    ]
    if len(figure.panels) == len(ids):
        titles = list(figure.panels)
    page = plt.figure(figsize=(width, 1.0))
    panels.bars(page, figure, tables, titles, 0.8 * width)
    page.suptitle(title, fontsize=mpl.rcParams["axes.titlesize"])
    line = float(mpl.rcParams["font.size"]) / 72
    rows = -(-len(ids) // panels.PANELS_ACROSS)
    finish(page, width, rows * (8.0 + 1.75 * table["line"].nunique()) * line)
    return page


def draw(results: Results, folder: Path, style: str = "paper", formats: tuple[str, ...] = FORMATS) -> list[Path]:
    """Draw every figure of a study into `folder`, each beside its data (CSV) and its manifest (JSON)."""
    with context(style):  # an unknown style is refused before any work
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    study = results.study
    for stem, figure in zip(stems(study), study.figures, strict=True):
        tables = tables_of(results, figure)
        written += save(study, figure, tables, folder / stem, style, formats)
        store(folder / stem, results, tables)
    return written


def save(
    study: Study,
    figure: Any,
    tables: dict[str, pd.DataFrame],
    stem: Path,
    style: str = "paper",
    formats: tuple[str, ...] = FORMATS,
) -> list[Path]:
    """Draw one figure from its tables into `stem`.svg, .pdf, .png. The same tables give the same files."""
    return write(draw_one(study, figure, tables, style), figure.title or study.title, stem, style, formats)


def write(
    picture: Figure, title: str, stem: Path, style: str = "paper", formats: tuple[str, ...] = FORMATS
) -> list[Path]:
    """Write a figure into `stem`.svg, .pdf, .png and close it."""
    written = []
    with context(style):
        for suffix in formats:
            path = stem.with_name(f"{stem.name}.{suffix}")
            picture.savefig(path, metadata=_metadata(suffix, title))
            written.append(path)
    plt.close(picture)
    return written


def svg(study: Study, figure: Any, tables: dict[str, pd.DataFrame], style: str = "paper") -> str:
    """One figure as the text of an SVG file."""
    return svg_of(draw_one(study, figure, tables, style), figure.title or study.title, style)


def svg_of(picture: Figure, title: str, style: str = "paper") -> str:
    """A figure as the text of an SVG file; closes it."""
    file = io.StringIO()
    with context(style):
        picture.savefig(file, format="svg", metadata=_metadata("svg", title))
    plt.close(picture)
    return file.getvalue()


def _metadata(suffix: str, title: str) -> dict[str, Any]:
    """No dates: the same results give the same file."""
    if suffix == "svg":
        return {"Date": None, "Title": title, "Creator": None}
    return {"CreationDate": None, "Title": title} if suffix == "pdf" else {"Title": title}


def store(stem: Path, results: Results, tables: dict[str, pd.DataFrame]) -> None:
    """Write the tables of a study's figure as one CSV, and what produced them as JSON."""
    note = {**results.manifest, "study": results.study.name, "claim": results.study.claim}
    put_beside(stem, tables, note)


def put_beside(stem: Path, tables: dict[str, pd.DataFrame], manifest: dict[str, Any]) -> None:
    """Write tables into `stem`.csv and a manifest into `stem`.json."""
    import pandas as pd

    rows = [table.assign(table=name) for name, table in tables.items() if len(table)]
    joined = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame({"table": []})
    joined.to_csv(stem.with_name(f"{stem.name}.csv"), index=False, lineterminator="\n")
    entries = {**manifest, "matplotlib": mpl.__version__}
    text = json.dumps(entries, indent=2, sort_keys=True, default=str, ensure_ascii=False)
    stem.with_name(f"{stem.name}.json").write_text(text + "\n", encoding="utf-8")


def stored(file: Path, study: Study, figure: Any) -> dict[str, pd.DataFrame]:
    """The tables of a figure, read back from the CSV beside it."""
    import pandas as pd

    # Before 3.1 pandas rounds the last digit unless asked not to; since then the option is deprecated.
    old = tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1)
    exact: dict[str, Any] = {"float_precision": "round_trip"} if old else {}
    joined = pd.read_csv(file, dtype={"cell": str, "line": str}, **exact)
    prefix = {"trajectory": "path", "scatter": "pairs"}.get(figure.kind, "overlay")
    names = ["points", *(f"{prefix}:{name}" for name in figure.overlay)]
    names += ["boundary"] if figure.kind == "heatmap" else []
    tables = {}
    for name in names:
        rows = joined[joined["table"] == name].drop(columns="table")
        kept = rows.dropna(axis="columns", how="all")
        if "line" in rows:  # an empty text is a line without a name of its own, not a missing one
            kept = kept.assign(line=rows["line"].fillna(""))
        tables[name] = kept.reset_index(drop=True)
    return tables
