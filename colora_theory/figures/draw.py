"""Figures of a study, fit for a paper: each beside its data, from which it can be drawn again, and manifest."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from colora_theory.errors import InputError
from colora_theory.figures.panel import looks
from colora_theory.figures.style import WIDTHS, context, label_of, pyplot, safe, scale, symbol_of, wrapped
from colora_theory.figures.tables import facets, part_of, shown
from colora_theory.results.text import whole_file, write_text
from colora_theory.studies.figure_kinds import FigureKind, kind_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from colora_theory.results.results import Results
    from colora_theory.studies.study import Study

FORMATS = ("svg", "pdf", "png")
#: Panels side by side on a page of bars.
PANELS_ACROSS = 5


def stems(study: Study) -> list[str]:
    """File names of the study's figures, without suffix."""
    return [
        figure.file or (study.name if index == 0 else f"{study.name}_{index + 1}")
        for index, figure in enumerate(study.figures)
    ]


def tables_of(results: Results, figure: Any) -> dict[str, pd.DataFrame]:
    """The tables that one figure draws: "points", and one table for every claim in it."""
    kind = kind_of(results.study, figure)
    kind.check()
    tables = kind.tables(results)
    if not figure.beside:
        return tables
    parts = [(results.study.name, tables)]
    for name in figure.beside:
        other = _run_beside(results, name)
        parts.append((name, tables_of(other, figure.model_copy(update={"beside": [], "hue": None}))))
    return together(parts)


def _run_beside(results: Results, name: str) -> Results:
    folder = results.path.parent / name
    if not (folder / "results.sqlite").exists():
        raise InputError(
            f"beside names runs in the folder {results.path.parent}, which has no {name!r}; run it first."
        )
    return type(results).open(folder)


def together(parts: Sequence[tuple[str, dict[str, pd.DataFrame]]]) -> dict[str, pd.DataFrame]:
    """The tables of one figure of several studies, joined: every line is told by the name of its study."""
    import pandas as pd

    joined: dict[str, list[pd.DataFrame]] = {}
    for name, tables in parts:
        for key, table in tables.items():
            lines = [f"{name}: {text}" if text else name for text in table["line"]]
            joined.setdefault(key, []).append(
                table.assign(line=lines).drop(columns=["hue", "rest"], errors="ignore")
            )
    return {key: pd.concat(tables, ignore_index=True) for key, tables in joined.items()}


def draw_one(study: Study, figure: Any, tables: dict[str, pd.DataFrame], style: str = "paper") -> Figure:
    """Return one figure as a Matplotlib figure (not shown, not saved)."""
    kind = kind_of(study, figure)
    with context(style):
        grid = panels_of(kind, tables)
        rows, columns = len(grid), max(len(row) for row in grid)
        page_wide = kind.page_wide or (figure.width == "column" and columns > 1)
        width = WIDTHS["page" if page_wide else figure.width] * scale()
        size = float(mpl.rcParams["font.size"])
        picture, axes = pyplot().subplots(
            rows, columns, figsize=(width, 1.0), squeeze=False, sharex=not kind.cell_panels, sharey=True
        )
        kind.whole = tables
        if "line" in tables.get("points", ()):
            kind.looks = looks(tables["points"])
        inches = 0.8 * width / columns
        single = rows == columns == 1
        names = kind.axis_names()
        drawn = []
        wide = (0.66 if not page_wide and figure.width == "column" else 0.42) * width
        height = wide if single else rows * min(wide, 0.8 * width / columns)
        if lines := kind.panel_height(tables):
            height = rows * lines * size / 72
        for i, row in enumerate(grid):
            for j in range(columns):
                panel = axes[i, j]
                if j >= len(row):
                    panel.remove()
                    continue
                title, part = row[j]
                kind.draw(panel, part)
                drawn.append((panel, part))
                if title:
                    panel.set_title(wrapped(title, inches, size), fontsize=size)
                last = i == rows - 1 or kind.cell_panels
                if last:
                    label = figure.y_label if kind.measured_along == "x" else figure.x_label
                    panel.set_xlabel(wrapped(label or label_of(names[0]), inches if not single else width, size))
                if j == 0 and names[1]:
                    panel.set_ylabel(wrapped(figure.y_label or label_of(names[1]), 0.7 * height / rows, size))
        title = wrapped(figure.title or study.title or study.name, width, size * 1.12)
        picture.suptitle(title, fontsize=mpl.rcParams["axes.titlesize"])
        caption(
            picture,
            wrapped(settings(study, figure, tables), (0.85 if single else 1.0) * width, 0.8 * size),
            single,
        )
        finish(picture, width, height)
        for panel, part in drawn:
            kind.annotate(panel, part)
    return picture


def panels_of(
    kind: FigureKind, tables: dict[str, pd.DataFrame]
) -> list[list[tuple[str, dict[str, pd.DataFrame]]]]:
    """Rows of panels, each with its title and its part of the tables."""
    figure = kind.figure
    first = next(iter(tables.values()))
    if kind.cell_panels and figure.row is None and figure.col is None:
        cells = {cell.id: cell for cell in kind.study.cells}
        ids = list(dict.fromkeys(first["cell"]))
        varying = [n for n in kind.study.cells[0].varied if len({str(cells[i].varied[n]) for i in ids}) > 1]
        titles = [", ".join(f"{label_of(n)} = {shown(cells[i].varied[n])}" for n in varying) for i in ids]
        titles = list(figure.panels) if len(figure.panels) == len(ids) else titles
        flat = [
            (t, {n: part_of(x, "cell", i) for n, x in tables.items()}) for t, i in zip(titles, ids, strict=True)
        ]
        return [flat[k : k + PANELS_ACROSS] for k in range(0, len(flat), PANELS_ACROSS)]

    def words(field: str | None, value: Any) -> str:
        if field is None or value is None:
            return ""
        text = shown(value).replace("_", " ")
        return text if field == "estimator" else f"{label_of(field)} = {text}"

    grid = []
    for down in facets(first, figure.row):
        row = []
        for across in facets(first, figure.col):
            parts = {n: part_of(part_of(t, figure.row, down), figure.col, across) for n, t in tables.items()}
            row.append((", ".join(filter(None, [words(figure.row, down), words(figure.col, across)])), parts))
        grid.append(row)
    return grid


def settings(study: Study, figure: Any, tables: dict[str, pd.DataFrame]) -> str:
    """What a figure must state to be read alone: the parameters that it does not vary, and the trials."""
    varied = study.cells[0].varied
    content = {n: v for n, v in study.cells[0].setting.content().items() if n not in varied}
    parts = [f"{symbol_of(name)} = {_brief(value)}" for name, value in content.items()]
    trials = ""
    table = tables.get("points")
    if table is not None and "n" in table and len(table):
        low, high = int(table["n"].min()), int(table["n"].max())
        trials = f"{low} trials" if low == high else f"{low} to {high} trials"
    name = f"{study.name}: " * bool(figure.beside)  # others may have other settings
    return name + "; ".join(filter(None, [", ".join(parts), trials]))


def _brief(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else shown(value).replace("_", " ")


def caption(picture: Figure, text: str, single: bool) -> None:
    """The settings in small print: above the axes of a single panel, below several."""
    small, grey = 0.8 * float(mpl.rcParams["font.size"]), "#555555"
    if single:
        picture.axes[0].set_title(text, fontsize=small, color=grey)
    else:
        picture.supxlabel(text, fontsize=small, color=grey)


def finish(picture: Figure, width: float, height: float) -> None:
    """Legend below the axes, where it covers nothing, in as many columns as fit; the page grows by its rows."""
    from matplotlib.font_manager import FontProperties

    handles: dict[str, Any] = {}
    for axes in picture.axes:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(safe(text), handle)
    em = float(mpl.rcParams["font.size"]) * 0.875 / 72
    rows, note = 0, ""
    if handles:
        columns = columns_of([width_of(text, em) / em + 4.8 for text in handles], width / em)
        texts = [wrapped(text, width - 4.5 * em, em * 72) for text in handles] if columns == 1 else list(handles)
        rows = sum(1 + text.count("\n") for text in texts) if columns == 1 else math.ceil(len(texts) / columns)
        note = picture.get_supxlabel()  # small print goes above the entries, where nothing covers it
        picture.supxlabel("")
        small = 0.8 * float(mpl.rcParams["font.size"])
        legend = picture.legend(handles.values(), texts, loc="outside lower center", ncols=columns)
        if note:
            legend.set_title(note, prop=FontProperties(size=small))
    titles = picture.get_suptitle().count("\n") + max(axes.get_title().count("\n") for axes in picture.axes)
    note = note or str(picture.get_supxlabel())
    notes = 1 + note.count("\n") if note else any(axes.get_title() for axes in picture.axes)
    picture.set_size_inches(width, height + (rows * 1.55 + titles * 1.5 + notes * 1.3) * em)


def width_of(text: str, em: float) -> float:
    """The width in inches that a text takes at a size of `em` inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family=mpl.rcParams["font.family"], size=72 * em)
    return (
        float(max((TextPath((0, 0), line, prop=font).get_extents().x1 for line in text.split("\n")), default=0.0))
        / 72
    )


def columns_of(widths: Sequence[float], room: float) -> int:
    """The most columns, filled as Matplotlib does, in which entries of these widths have room; at least one."""
    for columns in range(len(widths), 1, -1):
        if sum(float(part.max()) for part in np.array_split(np.asarray(widths), columns)) <= room:
            return columns
    return 1


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
            with whole_file(path) as draft:
                picture.savefig(draft, format=suffix, metadata=_metadata(suffix, title))
            written.append(path)
    pyplot().close(picture)
    return written


def svg(study: Study, figure: Any, tables: dict[str, pd.DataFrame], style: str = "paper") -> str:
    """One figure as the text of an SVG file."""
    return svg_of(draw_one(study, figure, tables, style), figure.title or study.title, style)


def svg_of(picture: Figure, title: str, style: str = "paper") -> str:
    """A figure as the text of an SVG file; closes it."""
    file = io.StringIO()
    with context(style):
        picture.savefig(file, format="svg", metadata=_metadata("svg", title))
    pyplot().close(picture)
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
    with whole_file(stem.with_name(f"{stem.name}.csv")) as draft:
        joined.to_csv(draft, index=False, lineterminator="\n")
    entries = {**manifest, "matplotlib": mpl.__version__}
    text = json.dumps(entries, indent=2, sort_keys=True, default=str, ensure_ascii=False)
    write_text(stem.with_name(f"{stem.name}.json"), text + "\n")


def stored(file: Path, study: Study, figure: Any) -> dict[str, pd.DataFrame]:
    """The tables of a figure, read back from the CSV beside it."""
    import pandas as pd

    # Before 3.1 pandas rounds the last digit unless asked not to; since then the option is deprecated.
    old = tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1)
    exact: dict[str, Any] = {"float_precision": "round_trip"} if old else {}
    joined = pd.read_csv(file, dtype=dict.fromkeys(("cell", "line", "hue", "rest"), str), **exact)
    kind = kind_of(study, figure)
    names = ["points", *(f"{kind.claims}:{name}" for name in figure.overlay), *kind.more_tables]
    tables = {}
    for name in names:
        rows = joined[joined["table"] == name].drop(columns="table")
        kept = rows.dropna(axis="columns", how="all")
        texts = ("line", "hue", "rest") if name == "points" else ("line",)
        for text in texts:  # an empty text is a line without a name of its own, not a missing one
            if text in rows:
                kept = kept.assign(**{text: rows[text].fillna("")})
        tables[name] = kept.reset_index(drop=True)
    return tables
