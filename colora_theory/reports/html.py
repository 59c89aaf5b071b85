"""One self-contained HTML page about finished studies: claims, verdicts, figures, and how to get them again."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import tomli_w

import colora_theory
from colora_theory.errors import InputError
from colora_theory.figures import draw as plots
from colora_theory.figures.draw import tables_of
from colora_theory.figures.style import label_of, name_of, plain
from colora_theory.figures.tables import shown
from colora_theory.reports.published import as_rows
from colora_theory.reports.strip import strip
from colora_theory.results.text import write_text
from colora_theory.studies.figure_kinds import kind_of
from colora_theory.verdicts.check import check
from colora_theory.verdicts.published import compare_published, tally
from colora_theory.verdicts.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

    from colora_theory.results.results import Results
    from colora_theory.studies.study import Study

#: Rows of a table of failures or cells beyond which the page refers to `colora-theory export`.
MOST_ROWS = 300


def write(runs: Sequence[Results], out: Path, style: str = "paper") -> None:
    """Write the page about `runs` to the file `out`."""
    if not runs:
        raise InputError("a report needs at least one run.")
    _check_place(out)
    sections = [_study(results, f"study-{number}", style) for number, results in enumerate(runs, 1)]
    titles = [results.study.title or results.study.name for results in runs]
    links = [f'<li><a href="#study-{i}">{escape(text)}</a></li>' for i, text in enumerate(titles, 1)]
    template = Template((files("colora_theory.reports") / "report.html").read_text(encoding="utf-8"))
    page = template.substitute(
        version=escape(colora_theory.__version__),
        title=escape(titles[0] if len(runs) == 1 else f"Report of {len(runs)} studies"),
        subtitle="Claims, verdicts, figures, and what is needed to get them again.",
        contents=f'<nav aria-label="Studies"><ol>{"".join(links)}</ol></nav>' if len(runs) > 1 else "",
        studies="\n".join(sections),
    )
    write_text(out, page)


def _check_place(out: Path) -> None:
    """Refuse to write over anything but an earlier page: a store, or a study file, is easily named by mistake."""
    if out.is_dir():
        raise InputError(f"--out must be a file, got the folder {out}; add a name, such as {out / 'report.html'}.")
    if out.exists() and out.stat().st_size:
        with out.open("rb") as file:
            begin = file.read(200).lstrip().lower()
        if not begin.startswith((b"<!doctype html", b"<html")):
            raise InputError(f"{out} exists and is no HTML page, so it is not written over; choose another --out.")


def _study(results: Results, anchor: str, style: str) -> str:
    with results.snapshot():
        return _section(results, anchor, style)


def _section(results: Results, anchor: str, style: str) -> str:
    study = results.study
    verdicts = check(results)
    rows, failed = results.counts()
    quick = " Short form: too few trials for a verdict." if results.quick else ""
    parts = [
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">',
        f'<h2 id="{anchor}-title">{escape(study.title or study.name)}</h2>',
        f'<p class="soft">Study {escape(study.name)}: {len(study.cells)} cells, '
        f"{len(study.estimators)} estimators, {rows} fits, {failed} failed.{quick}</p>",
        *_claims(results),
    ]
    fields = {cell.id: cell.varied for cell in study.cells}
    if study.learned:
        parts += ["<h3>What was learned</h3>", f"<p>{escape(study.learned.strip())}</p>"]
    parts += ["<h3>Verdicts</h3>", _verdicts(verdicts, fields), *_published(results)]
    parts += ["<h3>Figures</h3>", *_figures(results, anchor, style)]
    parts += ["<h3>Failures</h3>", _failures(results, failed), "<h3>How to reproduce</h3>", _again(results)]
    parts += [
        "<h3>Resolved study</h3>",
        _pre(tomli_w.dumps(study.resolved())),
        "<h3>Manifest</h3>",
        _manifest(results),
    ]
    return "\n".join([*parts, "</section>"])


def _claims(results: Results) -> list[str]:
    """The claim as it stood when the first run began, and every edit since with its date."""
    first, *edits = results.claims or [{"claim": results.study.claim, "started": ""}]

    def quote(text: str) -> str:
        return f"<blockquote><p>{escape(text.strip() or 'No claim was stated.')}</p></blockquote>"

    head = (
        "Claim, stored when the first run began" if results.claims else "Claim (when it was written is not stored)"
    )
    out = [f"<h3>{head}</h3>", quote(first["claim"])]
    if not edits and first["claim"] != results.study.claim:
        edits = [{"claim": results.study.claim, "started": "later"}]
    for edit in edits:
        out += [
            f"<h3>Claim as edited after it, for the run of {escape(edit['started'])}</h3>",
            quote(edit["claim"]),
        ]
    return out


# --- pieces ------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """A number of four digits, or a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str,
    classes: Sequence[str] = (),
    *,
    sortable: bool = False,
) -> str:
    """A table in a region that scrolls on narrow screens; the cells are HTML already.

    sortable : whether the page's script may sort it by a column and show only rows that contain a text.
    """
    kinds = [*classes, *[""] * len(head)][: len(head)]
    top = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{cell}</td>' if kind else f"<td>{cell}</td>"
            for cell, kind in zip(row, kinds, strict=True)
        )
        + "</tr>\n"
        for row in rows
    )
    kind = " data-sortable" if sortable else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f"<table{kind}><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def _badge(status: str) -> str:
    return f'<span class="verdict {status.replace(" ", "-")}">{escape(status)}</span>'


def _row(verdict: Verdict) -> list[str]:
    low, high = verdict.interval
    interval = f"[{number(low)}, {number(high)}]" if math.isfinite(low) or math.isfinite(high) else "–"
    return [
        str(verdict.trials),
        "–" if verdict.broken_in is None else str(verdict.broken_in),
        str(verdict.failures),
        interval,
        number(verdict.tightness),
        escape(verdict.reason),
    ]


_HEAD = ("trials", "broken in", "failed", "interval", "tightness", "evidence")
_KINDS = ("number", "number", "number", "number", "number", "words")


def _name(guarantee: str) -> str:
    """A guarantee's name that may break at its underscores, so that a narrow page shows the verdict beside it."""
    return escape(guarantee).replace("_", "_<wbr>")


def _verdicts(verdicts: Sequence[Verdict], fields: Mapping[str, Mapping[str, Any]]) -> str:
    """All verdicts as tables; `fields` are the varied fields of every cell."""
    if not verdicts:
        return "<p>The study states no guarantee.</p>"
    overall = [v for v in verdicts if not v.cell]
    cells = [v for v in verdicts if v.cell]
    rows = []
    for v in overall:
        kind = ", ".join(dict.fromkeys((v.kind, v.standing)))
        name = f"<strong>{_name(v.guarantee)}</strong><br>{escape(kind)}"
        mine = [each for each in cells if (each.guarantee, each.estimator) == (v.guarantee, v.estimator)]
        *numbers, evidence = _row(v)
        rows.append([name, _badge(v.status), escape(v.estimator), *numbers, strip(mine), evidence])
    *known, last = _HEAD
    head = ("guarantee", "verdict", "estimator", *known, "tightness over the cells", last)
    out = table(head, rows, "Verdicts", ("", "", "", *_KINDS[:-1], "", _KINDS[-1]))
    out += (
        '<p class="soft">Tightness is claim over observation for upper bounds and predictions, observation over '
        "claim for lower bounds: 1 is tight. Intervals bound the mean, the rate of violations, or the slope.</p>"
    )
    if cells:
        varied = list(dict.fromkeys(name for where in fields.values() for name in where))
        detail = [
            [
                _name(v.guarantee),
                _badge(v.status),
                escape(v.estimator),
                *(escape(shown(fields.get(v.cell, {}).get(name))) for name in varied),
                *_row(v),
            ]
            for v in cells[:MOST_ROWS]
        ]
        head = ("guarantee", "verdict", "estimator", *(plain(label_of(name)) for name in varied), *_HEAD)
        kinds = ("", "", "", *["number"] * len(varied), *_KINDS)
        inner = table(head, detail, "Verdicts cell by cell", kinds, sortable=True)
        more = f"<p>{len(cells) - MOST_ROWS} more are left out.</p>" if len(cells) > MOST_ROWS else ""
        out += f"<details><summary>Cell by cell ({len(cells)})</summary>{inner}{more}</details>"
    return out


def _published(results: Results) -> list[str]:
    """Published numbers held against those of the study, where it has some."""
    found = compare_published(results)
    if not found:
        return []
    head = ("series", "metric", "cell", "verdict", "published", "ours", "adjusted p", "reason")
    kinds = ("", "", "", "", "number", "number", "number", "words")
    about = [
        f"<p>{escape(t.paper)}; {escape(t.source)} {escape(t.commit)}, {escape(t.licence)}.</p>"
        for t in results.study.table.published
    ]
    first = found[0]
    level = f"Holm over {first.family} points of the paper, level {first.level:g}."
    rows = table(head, as_rows(found), "Published numbers", kinds)
    return ["<h3>Published numbers</h3>", *about, f"<p>{escape(tally(found))}. {level}</p>", rows]


def _figures(results: Results, anchor: str, style: str) -> list[str]:
    study = results.study
    out = []
    for index, figure in enumerate(study.figures, 1):
        try:
            tables = tables_of(results, figure)
            text = alt_text(study, figure, tables)
            svg = inline_svg(plots.svg(study, figure, tables, style), f"{anchor}-figure-{index}", text)
        except InputError as error:
            out.append(f"<p>Figure {index} cannot be drawn: {escape(str(error))}</p>")
            continue
        shows = kind_of(study, figure).shows
        caption = f"Figure {index}. {figure.title or study.title}. {shows}"
        width = round(float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1]) / 72 * 1.45, 1)  # type: ignore[index]
        wide = ' class="wide" tabindex="0"' if width > 8 else ""
        out.append(
            f'<figure{wide} style="max-width:{width}in">\n{svg}\n'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return out or ["<p>The study asks for no figure.</p>"]


def alt_text(study: Study, figure: Any, tables: dict[str, pd.DataFrame]) -> str:
    """What a figure shows, in words: the ends of every line."""
    kind = kind_of(study, figure)
    about = plain(label_of(figure.value or figure.y or "observed against claimed"))
    said = [f"{figure.title or study.title}: {figure.kind} of {about}."]
    if next(iter(tables.values())).empty:
        said.append("There is nothing to show yet.")
    else:
        said += kind.said(tables)
    if figure.overlay:
        said.append("With the claims of " + ", ".join(name_of(name) for name in figure.overlay) + ".")
    return " ".join(said)


def inline_svg(text: str, prefix: str, alt: str) -> str:
    """An SVG file as an element of a page: no prolog, no metadata, ids of its own, an alternative text."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'href="#', f'href="#{prefix}-', body)
    body = re.sub(r"url\(#", f"url(#{prefix}-", body)
    head, rest = body[: body.index(">")], body[body.index(">") :]
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(alt)}"{rest}'.strip()


def _failures(results: Results, failed: int) -> str:
    if not failed:
        return "<p>No fit failed.</p>"
    rows = [[str(count), escape(text)] for text, count in results.failure_messages(most=50)]
    return (
        f"<p>{failed} fits failed; every one is a row of the results and counts against its estimator.</p>"
        + table(("fits", "what happened"), rows, "Failures", ("number", "words"))
    )


def _again(results: Results) -> str:
    name = results.study.name
    lines = [
        _install(results.manifest),
        f"colora-theory run {name}.toml   # the resolved study below, saved as {name}.toml",
        f"colora-theory check runs/{name}",
        f"colora-theory report runs/{name} -o report.html",
    ]
    return (
        "<p>Every random number follows from the study's seed and the content of a cell: the same versions on the "
        "same kind of machine give the same numbers bit for bit.</p>" + _pre("\n".join(lines))
    )


def _install(manifest: dict[str, Any]) -> str:
    version = manifest.get("colora_theory", "")
    if manifest.get("commit") is None:
        return f"pip install colora_theory=={version}   # the version of the run, which was installed as a package"
    dirty = ", with the uncommitted changes of that time" if manifest.get("dirty") else ""
    return f"pip install .   # in a checkout of colora_theory at commit {manifest['commit']}{dirty}"


def _manifest(results: Results) -> str:
    entries = [
        (key, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for key, value in sorted(results.manifest.items())
    ]
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in entries) + "</dl>"


def _pre(text: str) -> str:
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'
