"""One self-contained HTML page about finished studies: claims, verdicts, figures, and how to get them again."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
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
from colora_theory.figures.tables import STANDING
from colora_theory.studies.figure_kinds import kind_of
from colora_theory.verdicts.check import check
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
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}.") from None


def _study(results: Results, anchor: str, style: str) -> str:
    study = results.study
    verdicts = check(results)
    rows, failed = results.counts()
    quick = " Short form: too few trials for a verdict." if results.quick else ""
    parts = [
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">',
        f'<h2 id="{anchor}-title">{escape(study.title or study.name)}</h2>',
        f'<p class="soft">Study {escape(study.name)}: {len(study.cells)} cells, '
        f"{len(study.estimators)} estimators, {rows} fits, {failed} failed.{quick}</p>",
        "<h3>Claim, written before the run</h3>",
        f"<blockquote><p>{escape(study.claim.strip() or 'No claim was stated.')}</p></blockquote>",
    ]
    if study.learned:
        parts += ["<h3>What was learned</h3>", f"<p>{escape(study.learned.strip())}</p>"]
    parts += ["<h3>Verdicts</h3>", _verdicts(verdicts), "<h3>Figures</h3>", *_figures(results, anchor, style)]
    parts += ["<h3>Failures</h3>", _failures(results, failed), "<h3>How to reproduce</h3>", _again(results)]
    parts += [
        "<h3>Resolved study</h3>",
        _pre(tomli_w.dumps(study.resolved())),
        "<h3>Manifest</h3>",
        _manifest(results),
    ]
    return "\n".join([*parts, "</section>"])


# --- pieces ------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """A number of four digits, or a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str, classes: Sequence[str] = ()) -> str:
    """A table in a region that scrolls on narrow screens; the cells are HTML already."""
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
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>"
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


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return "<p>The study states no guarantee.</p>"
    overall = [v for v in verdicts if not v.cell]
    cells = [v for v in verdicts if v.cell]
    rows = []
    for v in overall:
        kind = ", ".join(dict.fromkeys((v.kind, STANDING.get(v.kind, v.kind))))
        name = f"<strong>{_name(v.guarantee)}</strong><br>{escape(kind)}"
        rows.append([name, _badge(v.status), escape(v.estimator), *_row(v)])
    out = table(("guarantee", "verdict", "estimator", *_HEAD), rows, "Verdicts", ("", "", "", *_KINDS))
    out += (
        '<p class="soft">Tightness is claim over observation for upper bounds and predictions, observation over '
        "claim for lower bounds: 1 is tight. Intervals bound the mean, the rate of violations, or the slope.</p>"
    )
    if cells:
        detail = [
            [_name(v.guarantee), _badge(v.status), escape(v.estimator), escape(v.where), *_row(v)]
            for v in cells[:MOST_ROWS]
        ]
        head = ("guarantee", "verdict", "estimator", "cell", *_HEAD)
        inner = table(head, detail, "Verdicts cell by cell", ("", "", "", "", *_KINDS))
        more = f"<p>{len(cells) - MOST_ROWS} more are left out.</p>" if len(cells) > MOST_ROWS else ""
        out += f"<details><summary>Cell by cell ({len(cells)})</summary>{inner}{more}</details>"
    return out


def _figures(results: Results, anchor: str, style: str) -> list[str]:
    study = results.study
    out = []
    for index, figure in enumerate(study.figures, 1):
        tables = tables_of(results, figure)
        text = alt_text(study, figure, tables)
        svg = inline_svg(plots.svg(study, figure, tables, style), f"{anchor}-figure-{index}", text)
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
        "pip install .   # in a checkout of colora_theory at the commit that the manifest below names",
        f"colora-theory run {name}.toml   # the resolved study below, saved as {name}.toml",
        f"colora-theory check runs/{name}",
        f"colora-theory report runs/{name} -o report.html",
    ]
    return (
        "<p>Every random number follows from the study's seed and the content of a cell: the same versions on the "
        "same kind of machine give the same numbers bit for bit.</p>" + _pre("\n".join(lines))
    )


def _manifest(results: Results) -> str:
    entries = [
        (key, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for key, value in sorted(results.manifest.items())
    ]
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in entries) + "</dl>"


def _pre(text: str) -> str:
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'
