"""All studies of a folder at once: run them, draw their figures, and write the page that shows them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from colora_theory.engine.run import run
from colora_theory.errors import InputError, nearest
from colora_theory.figures.draw import draw, stems
from colora_theory.reports import papers
from colora_theory.reports.published import as_markdown, found_in
from colora_theory.results.results import Results
from colora_theory.studies.study import Study
from colora_theory.verdicts.check import check
from colora_theory.verdicts.published import compare_published

#: Between two such lines of the README stands a table.
MARK = "<!-- {}: written by colora-theory reproduce-all -->", "<!-- end of {} -->"


def studies(folder: Path) -> list[Path]:
    """The study files of a folder and its subfolders, in alphabetical order; InputError when there are none.

    Copies of studies beside their results are none.
    """
    files = [file for file in folder.rglob("*.toml") if not (file.parent / "results.sqlite").exists()]
    found = sorted(files, key=lambda file: file.stem)
    if not found:
        raise InputError(f"{folder} holds no study file (*.toml); say where they are.")
    return found


def reproduce_all(
    folder: Path,
    out: Path,
    figures: Path,
    *,
    quick: bool = False,
    jobs: int = 1,
    only: Sequence[str] = (),
    tell: Callable[[str], None] = print,
) -> list[Results]:
    """Run every study of `folder` (and every script beside them), draw into `figures`; return the results.

    only : names of studies, or of folders of studies in `folder`; all when empty.

    Raises InputError, before any work, for unknown names in `only` and for studies without a figure.
    """
    called = {file: {file.stem, *file.relative_to(folder).parent.parts} for file in studies(folder)}
    names = sorted(set().union(*called.values(), (file.stem for file in folder.glob("*.py"))))
    for name in only:
        if name not in names:
            raise InputError(
                f"--only takes names of studies and of folders in {folder}, got {name!r}; {nearest(name, names)}"
            )
    chosen = {
        file: Study.from_toml(file, quick=quick) for file, mine in called.items() if not only or mine & set(only)
    }
    for file, study in chosen.items():
        if not study.figures:
            raise InputError(f"{file} asks for no figure, which the gallery shows; add a [[figure]] to it.")
    names_of: dict[str, Path] = {}
    for file, study in chosen.items():
        for stem in stems(study):
            if stem in names_of:
                raise InputError(f"{file} and {names_of[stem]} both draw a figure {stem!r}; rename one.")
            names_of[stem] = file
    done = []
    for file, study in chosen.items():
        before = _seconds(out / study.name)
        start = time.perf_counter()
        results = run(study, out / study.name, n_jobs=jobs, quiet=True)
        found = {**outcome(results), "seconds": round(before + time.perf_counter() - start, 1)}
        (results.path / "outcome.json").write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
        draw(results, figures)
        note(figures / f"{stems(study)[0]}.json", found)
        tell(f"{file}: {_came(found)}; {found['rows']} fits, {found['seconds']:.0f} s")
        done.append(results)
    for script in sorted(folder.glob("*.py")):
        if not only or script.stem in only:
            words = [sys.executable, str(script), str(figures), *(["--quick"] if quick else [])]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            tell(f"{script}: drawn")
    return done


def outcome(results: Results) -> dict[str, Any]:
    """What became of a study: overall verdicts, fits, failures."""
    rows, failed = results.counts()
    verdicts = [
        {
            "guarantee": v.guarantee,
            "standing": v.standing,
            "estimator": v.estimator,
            "status": v.status,
            "trials": v.trials,
            "violations": v.violations,
            "broken_in": v.broken_in,
            "reason": v.reason,
        }
        for v in check(results)
        if not v.cell
    ]
    found = {"verdicts": verdicts, "rows": rows, "failed": failed, "quick": results.quick}
    if results.study.table.published:
        found["published"] = found_in(compare_published(results))
    return found


def _seconds(run_folder: Path) -> float:
    """Seconds that earlier, interrupted or finished, runs of a study took: a resumed run is not a fast one."""
    found = run_folder / "outcome.json"
    if found.exists():
        return float(json.loads(found.read_text(encoding="utf-8"))["seconds"])
    if not (run_folder / "results.sqlite").exists():
        return 0.0
    return float(Results.open(run_folder).progress().get("seconds", 0.0))


def note(manifest: Path, found: dict[str, Any]) -> None:
    """Add the outcome to the manifest beside a figure."""
    entries = {**json.loads(manifest.read_text(encoding="utf-8")), "outcome": found}
    text = json.dumps(entries, indent=2, sort_keys=True, ensure_ascii=False)
    manifest.write_text(text + "\n", encoding="utf-8")


def summary(verdicts: Sequence[dict[str, Any]]) -> str:
    """How many verdicts of each kind: "3 hold, 1 violated"."""
    count = Counter(v["status"] for v in verdicts)
    words = {"holds": "hold" if count["holds"] > 1 else "holds"}
    return (
        ", ".join(f"{count[s]} {words.get(s, s)}" for s in dict.fromkeys(v["status"] for v in verdicts)) or "none"
    )


# --- pages -------------------------------------------------------------------------------------------------


def page(folder: Path, figures: Path) -> str:
    """The gallery as Markdown, from the study files and the manifests beside the figures."""
    up = "../" + figures.name
    out = [
        "# The studies and what came of them",
        "",
        "Every claim was written before its run; what the run taught stands below it. Written by",
        "`colora-theory reproduce-all`, which runs every study and draws every figure anew; times are wall-clock",
        "seconds on the machine in the manifest beside each figure.",
        "",
        studies_table(folder, figures, ""),
    ]
    for file in studies(folder):
        study, found = _outcome_of(file, figures)
        link = f"[{file.name}]({file.relative_to(folder).as_posix()})"
        out += ["", f"## {study.name}", "", f"**{study.title}** – {link}", ""]
        out += [f"> {' '.join(study.claim.split())}"]
        if study.learned:
            out += ["", f"What was learned: {' '.join(study.learned.split())}"]
        for name, figure in zip(stems(study), study.figures, strict=True):
            out += ["", f"![{figure.title or study.title}]({up}/{name}.png)"]
        for paper in study.table.published:
            source = f"[{paper.source.removeprefix('https://')}]({paper.source})"
            at = f", commit {paper.commit[:12]}" if paper.commit else ""
            out += ["", f"Numbers of {paper.paper}: {source}{at}, licence {paper.licence}."]
        out += as_markdown(found.get("published", []))
        if not found["verdicts"]:
            continue
        out += [
            "",
            "| guarantee | standing | estimator | verdict | trials | broken in |",
            "|---|---|---|---|---|---|",
        ]
        out += [
            f"| {v['guarantee']} | {v['standing']} | {v['estimator']} | {v['status']} | {v['trials']} "
            f"| {'–' if v['broken_in'] is None else v['broken_in']} |"
            for v in found["verdicts"]
        ]
    for script in _scripts(folder, figures):
        question, said = _script(script)
        out += ["", f"## {script.stem}", "", f"**{question}** – [{script.name}]({script.name})"]
        out += ["", said, "", f"![{question}]({up}/{script.stem}.png)"]
    return "\n".join(out) + "\n"


def studies_table(folder: Path, figures: Path, gallery: str) -> str:
    """One row a study: question, verdicts, fits, time; links go to the sections of the page `gallery`."""
    rows = ["| study | question | verdicts | fits | time |", "|---|---|---|---|---|"]
    for file in studies(folder):
        study, found = _outcome_of(file, figures)
        rows.append(
            f"| [{study.name}]({gallery}#{study.name}) | {study.title} | {_came(found)} "
            f"| {found['rows']} | {found['seconds']:.0f} s |"
        )
    for script in _scripts(folder, figures):
        found = json.loads((figures / f"{script.stem}.json").read_text(encoding="utf-8"))["outcome"]
        rows.append(
            f"| [{script.stem}]({gallery}#{script.stem}) | {_script(script)[0]} | – | {found['rows']} "
            f"| {found['seconds']:.0f} s |"
        )
    return "\n".join(rows)


def _came(found: dict[str, Any]) -> str:
    """Verdicts on guarantees and on published points, in few words."""
    told = [summary(found["verdicts"])] if found["verdicts"] or not found.get("published") else []
    return "; ".join([*told, *(f"published: {entry['tally']}" for entry in found.get("published", []))])


def _outcome_of(file: Path, figures: Path) -> tuple[Study, dict[str, Any]]:
    """A study and its outcome, from the manifest beside its first figure."""
    study = Study.from_toml(file)
    if not study.figures:
        raise InputError(f"{file} asks for no figure, which the gallery shows; add a [[figure]] to it.")
    manifest = figures / f"{stems(study)[0]}.json"
    entries = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    if "outcome" not in entries:
        raise InputError(f"{manifest} tells no outcome; run colora-theory reproduce-all --only {study.name}.")
    return study, entries["outcome"]


def _scripts(folder: Path, figures: Path) -> list[Path]:
    """Scripts beside the studies that draw a figure of their own name, with a manifest."""
    return [file for file in sorted(folder.glob("*.py")) if (figures / f"{file.stem}.json").exists()]


def _script(file: Path) -> tuple[str, str]:
    """What a script asks (first line of its docstring) and says (the paragraphs after it, without code)."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    first, _, rest = text.partition("\n")
    parts = [" ".join(part.split()) for part in rest.split("\n\n") if not part.startswith("    ")]
    return first, "\n\n".join(part for part in parts if part)


def methods_table(file: Path, study: Study) -> str:
    """The errors of all methods in all regimes as Markdown, from the CSV of the figure; the least is bold."""
    import pandas as pd

    table = pd.read_csv(file, dtype={"cell": str})
    cells = list(dict.fromkeys(table["cell"]))
    names = study.figures[0].panels
    means = table.pivot_table(index="line", columns="cell", values="mean", sort=False)
    errors = table.pivot_table(index="line", columns="cell", values="mcse", sort=False)
    out = ["| method | " + " | ".join(names) + " |", "|---|" + "---:|" * len(cells)]
    for line in means.index:
        entries = []
        for cell in cells:
            mean, error = means.loc[line, cell], errors.loc[line, cell]
            text = f"{mean:.3g} ± {error if error > 1e-9 * mean else 0.0:.1g}"  # rounding is no Monte Carlo error
            entries.append(f"**{text}**" if means[cell].idxmin() == line else text)
        out.append(f"| {line} | " + " | ".join(entries) + " |")
    return "\n".join(out)


def with_table(text: str, name: str, table: str) -> str:
    """The README with the table between its two marks replaced."""
    begin, end = (mark.format(name) for mark in MARK)
    if begin not in text or end not in text:
        raise InputError(f"the README has no lines {begin!r} and {end!r}; add them where the table belongs.")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"


def readme(text: str, folder: Path, figures: Path) -> str:
    """The README with its tables of studies and of methods renewed."""
    text = with_table(text, "studies", studies_table(folder, figures, f"{folder.name}/README.md"))
    methods = Study.from_toml(folder / "methods.toml")
    return with_table(text, "methods", methods_table(figures / "methods.csv", methods))


def of_papers(folder: Path, figures: Path) -> str:
    """The page of the studies in the subfolder "published": one section a paper."""
    files = sorted(studies(folder), key=lambda file: (file.parent.name, file.stem))
    return papers.page([(file, *_outcome_of(file, figures)) for file in files], f"../../{figures.name}")


def write_pages(folder: Path, figures: Path) -> list[Path]:
    """Write the gallery beside the studies, and the tables of the README above them when it has their marks."""
    written = [folder / "README.md"]
    written[0].write_text(page(folder, figures), encoding="utf-8")
    if (folder / "published").is_dir():
        written.append(folder / "published" / "README.md")
        written[1].write_text(of_papers(folder / "published", figures), encoding="utf-8")
    front = folder.resolve().parent / "README.md"
    text = front.read_text(encoding="utf-8") if front.exists() else ""
    if MARK[0].format("studies") in text:
        front.write_text(readme(text, folder, figures), encoding="utf-8")
        written.append(front)
    return written
