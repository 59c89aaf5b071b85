"""The page of published figures: paper, settings, our picture with their points, verdict, why numbers differ."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from colora_theory.figures.draw import settings, stems
from colora_theory.reports.published import as_markdown
from colora_theory.studies.study import Study

HEAD = """# Figures of published papers, drawn again

One section a paper. Filled markers are the paper's own numbers, their shape the verdict on them; open ones are
ours. Where a paper stores no numbers, what its figure claims is judged. What the verdicts mean, and how a paper is
added, tells [published.md](../../docs/published.md); `colora-theory reproduce-all --only NAME` runs a study again.
Written by `colora-theory reproduce-all`."""


def page(studies: Sequence[tuple[Path, Study, dict[str, Any]]], figures: str) -> str:
    """Markdown about studies of papers, each with its file and its outcome; `figures` is the way to the pictures.

    Studies in one folder are of one paper. Their order is that of the files.
    """
    papers = [
        (name, list(these)) for name, these in itertools.groupby(studies, key=lambda one: one[0].parent.name)
    ]
    out = [HEAD, "", "| paper | figures | verdict |", "|---|---|---|"]
    for name, these in papers:
        for file, study, found in these:
            count = len(study.figures)
            pictures = f"{count} picture{'s' * (count > 1)}"
            out.append(
                f"| [{study.title}](#{name}) | [{file.name}]({name}/{file.name}), {pictures} | {came(found)} |"
            )
    for name, these in papers:
        out += ["", f"## {name}"]
        for file, study, found in these:
            out += section(file, study, found, figures)
    return "\n".join(out) + "\n"


def section(file: Path, study: Study, found: dict[str, Any], figures: str) -> list[str]:
    """Lines about one study."""
    out = [
        "",
        f"### {study.title}",
        "",
        f"[{file.name}]({file.parent.name}/{file.name}). {where_from(file, study)}",
    ]
    out += ["", f"Settings: {ranges(study)}."]
    for stem, figure in zip(stems(study), study.figures, strict=True):
        out += ["", f"![{figure.title or study.title}]({figures}/{stem}.png)"]
    out += ["", f"Verdict: {came(found)}.", ""]
    out += [f"Difference and finding: {' '.join(study.learned.split())}", ""] if study.learned else []
    judged = [v for v in found["verdicts"] if v["status"] != "not applicable"]
    out += [f"- *{v['guarantee']}* ({v['estimator']}): {v['status']}" for v in judged]
    return out + as_markdown(found.get("published", []))


def came(found: dict[str, Any]) -> str:
    """What became of the paper's numbers, and of the claims of its figure."""
    papers = [f"{entry['points']} published points, {entry['tally']}" for entry in found.get("published", [])]
    stated = [v for v in found["verdicts"] if v["standing"] == "stated by its author"]
    count = [f"{sum(v['status'] == s for v in stated)} {s}" for s in dict.fromkeys(v["status"] for v in stated)]
    claims = [f"claims: {', '.join(count)}"] if stated else []
    return "; ".join([*papers, *claims]) or "only theorems are judged"


def where_from(file: Path, study: Study) -> str:
    """Source, licence and commit: the comment at the head of the file, or what the published table says."""
    lines = file.read_text(encoding="utf-8").splitlines()
    head = [
        line.removeprefix("#").strip() for line in itertools.takewhile(lambda line: line.startswith("#"), lines)
    ]
    told = [
        f"Numbers of {t.paper}: {t.source}, commit {t.commit[:12] or 'not known'}, licence {t.licence}."
        for t in study.table.published
    ]
    return " ".join([*head, *told])


def ranges(study: Study) -> str:
    """The parameters that all cells share, and the values of those that vary."""
    fixed = settings(study, study.figures[0], {})
    varied = {
        name: list(dict.fromkeys(cell.varied[name] for cell in study.cells)) for name in study.cells[0].varied
    }
    parts = [
        f"{name.replace('_', ' ')} {', '.join(str(value) for value in values)}" for name, values in varied.items()
    ]
    return "; ".join(filter(None, [fixed, *parts, f"{study.run.trials} trials"]))
