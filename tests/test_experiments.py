"""The studies that come with the program: well-formed, run, drawn, and shown as they came out."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import colora_theory as ct
from colora_theory.cli import main
from colora_theory.figures import draw as plots
from colora_theory.reports import gallery
from colora_theory.studies.published import points_of

ROOT = Path(__file__).parent.parent
EXPERIMENTS, FIGURES = ROOT / "experiments", ROOT / "figures"
FILES = gallery.studies(EXPERIMENTS)


#: Names that matplotlib derives from the shape of a clipping path, and numbers.
_NAME, _NUMBER = re.compile(r"\bp[0-9a-f]{10}\b"), re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")


def assert_same_picture(again: str, kept: str) -> None:
    """The same drawing, coordinates to a thousandth of a point: logarithms differ from processor to processor."""
    first, second = (_NAME.sub("clip", text) for text in (again, kept))
    assert _NUMBER.sub("0", first) == _NUMBER.sub("0", second)
    numbers = ([float(each) for each in _NUMBER.findall(text)] for text in (first, second))
    np.testing.assert_allclose(*numbers, rtol=0.0, atol=1e-3)


def test_same_pictures() -> None:
    one = '<path d="M 1.5 139.711217 L 2 3" clip-path="url(#p6b2e494235)" style="stroke: #dddddd"/>'
    assert_same_picture(one, one.replace("139.711217", "139.711218").replace("p6b2e494235", "p036b7c604f"))
    for wrong in (one.replace("139.71", "139.72"), one.replace("L 2 3", "L 2"), one.replace("#d", "#e")):
        with pytest.raises(AssertionError):
            assert_same_picture(one, wrong)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_study_says_what_it_claims_and_is_held_against_theorems(file: Path) -> None:
    study = ct.Study.from_toml(file)
    assert study.name == file.stem
    assert len(study.claim) > 80
    assert study.title
    assert study.guarantees or study.comparisons or study.table.published
    assert study.figures
    quick = ct.Study.from_toml(file, quick=True)
    assert len(quick.cells) * quick.run.trials * len(quick.estimators) <= 250


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_its_figures_are_those_of_its_full_form(file: Path) -> None:
    study = ct.Study.from_toml(file)
    for index, (stem, figure) in enumerate(zip(plots.stems(study), study.figures, strict=True)):
        manifest = json.loads((FIGURES / f"{stem}.json").read_text(encoding="utf-8"))
        assert manifest["seed"] == study.seed
        assert manifest["commit"]
        assert manifest["claim"].strip() == study.claim.strip(), f"{stem} shows another claim; run it again"
        if not index:
            assert not manifest["outcome"]["quick"]
            if not study.run.target_mcse:
                rows = len(study.cells) * len(study.estimators) * study.run.trials
                assert manifest["outcome"]["rows"] == rows, f"{stem} was drawn from another form of the study"
            assert manifest["outcome"]["verdicts"] or manifest["outcome"]["published"]
        tables = plots.stored(FIGURES / f"{stem}.csv", study, figure)
        again = plots.svg(study, figure, tables)
        kept = (FIGURES / f"{stem}.svg").read_text(encoding="utf-8")
        if manifest["matplotlib"] == mpl.__version__:
            assert_same_picture(again, kept)
        else:  # another version may place glyphs differently; what is drawn must agree
            assert again.count("<path") == pytest.approx(kept.count("<path"), rel=0.2)
        for suffix in ("pdf", "png"):
            assert (FIGURES / f"{stem}.{suffix}").stat().st_size > 2000


def test_the_power_of_the_verdicts_is_drawn_like_the_studies() -> None:
    script = runpy.run_path(str(EXPERIMENTS / "verdict_power.py"))
    manifest = json.loads((FIGURES / "verdict_power.json").read_text(encoding="utf-8"))
    assert manifest["seed"] == script["SEED"]
    assert manifest["commit"]
    assert not manifest["outcome"]["quick"]
    table = pd.read_csv(FIGURES / "verdict_power.csv").drop(columns="table")
    assert manifest["outcome"]["rows"] == table["repeats"].sum()
    again = plots.svg_of(script["picture"](table), script["TITLE"])
    kept = (FIGURES / "verdict_power.svg").read_text(encoding="utf-8")
    if manifest["matplotlib"] == mpl.__version__:
        assert_same_picture(again, kept)
    else:
        assert again.count("<path") == pytest.approx(kept.count("<path"), rel=0.2)
    true = table[(table["x"] == 1.0) | (table["line"] == "true identity")]
    assert (true["low"] <= 0.05).all()  # no false-alarm rate is above the level beyond its own interval
    assert (table[table["line"] == "wrong by 20 %"]["mean"].iloc[2:] > 0.95).all()
    for suffix in ("pdf", "png"):
        assert (FIGURES / f"verdict_power.{suffix}").stat().st_size > 2000


def test_the_power_of_the_verdicts_in_its_quick_form(tmp_path: Path) -> None:
    runpy.run_path(str(EXPERIMENTS / "verdict_power.py"))["main"](tmp_path, quick=True)
    assert json.loads((tmp_path / "verdict_power.json").read_text(encoding="utf-8"))["outcome"]["quick"]
    assert len(pd.read_csv(tmp_path / "verdict_power.csv")) == 21


def test_the_pages_show_what_came_out() -> None:
    assert (EXPERIMENTS / "README.md").read_text(encoding="utf-8") == gallery.page(EXPERIMENTS, FIGURES)
    published = EXPERIMENTS / "published"
    shown = (published / "README.md").read_text(encoding="utf-8")
    assert shown == gallery.of_papers(published, FIGURES)
    for file in gallery.studies(published):  # every study of a paper: picture, settings, source, verdict
        study = ct.Study.from_toml(file)
        for stem in plots.stems(study):
            assert f"(../../figures/{stem}.png)" in shown
        part = shown.partition(f"### {study.title}\n")[2].partition("\n### ")[0]
        assert "Settings: " in part
        assert "Verdict: " in part
        assert any(word in part for word in ("licence", "MIT", "settings only")), study.name
        if study.learned:
            assert " ".join(study.learned.split()) in part
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == gallery.readme(text, EXPERIMENTS, FIGURES)


def test_every_violated_verdict_is_explained() -> None:
    for file in FILES:
        study = ct.Study.from_toml(file)
        told = json.loads((FIGURES / f"{plots.stems(study)[0]}.json").read_text(encoding="utf-8"))["outcome"]
        if any(v["status"] == "violated" for v in told["verdicts"]):
            assert study.learned, study.name


def test_every_published_point_is_judged_and_every_difference_explained() -> None:
    """At least 250 points of stored numbers, none left out, none that differs without a run that shows why."""
    total = 0
    for file in FILES:
        study = ct.Study.from_toml(file)
        told = json.loads((FIGURES / f"{plots.stems(study)[0]}.json").read_text(encoding="utf-8"))["outcome"]
        for table, entry in zip(study.table.published, told.get("published", []), strict=True):
            points = points_of(table)
            assert entry["points"] == len(points), study.name
            assert entry["unexplained"] == 0, study.name
            counts = [row for row in entry["series"] if row.get("not run") or row.get("inconclusive")]
            assert not counts, f"{study.name}: {counts}"
            assert (entry["level"], entry["family"]) == (table.level, table.family), study.name
            total += len(points)
    assert total >= 250
    papers = [folder for folder in (EXPERIMENTS / "published").iterdir() if folder.is_dir()]
    figures = [
        name for file in FILES if "published" in file.parts for name in plots.stems(ct.Study.from_toml(file))
    ]
    assert len(papers) >= 8
    assert len(figures) >= 20


def test_points_of_a_paper_are_counted_in_all_its_studies() -> None:
    papers: dict[str, list[int]] = {}
    for file in FILES:
        for table in ct.Study.from_toml(file).table.published:
            papers.setdefault(table.paper, []).append(len(points_of(table)))
            papers.setdefault(f"family of {table.paper}", []).append(table.family or 0)
    for paper, counts in papers.items():
        if not paper.startswith("family of "):
            assert set(papers[f"family of {paper}"]) == {sum(counts)}, paper


def test_one_command_runs_draws_and_writes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    text = (EXPERIMENTS / "recovery_vs_users.toml").read_text(encoding="utf-8")
    small = text.replace("trials = 100", "trials = 9").replace("[5, 10, 20, 50, 100, 200]", "[5, 20]")
    (tmp_path / "experiments" / "recovery_vs_users.toml").write_text(small, encoding="utf-8")
    short = CliRunner().invoke(main, ["reproduce-all", "--quick", "--out", "short"])
    assert short.exit_code == 0, short.output
    assert (tmp_path / "short" / "figures" / "recovery_vs_users.svg").exists()
    assert not (tmp_path / "experiments" / "README.md").exists()
    full = CliRunner().invoke(main, ["reproduce-all"])
    assert full.exit_code == 0, full.output
    page = (tmp_path / "experiments" / "README.md").read_text(encoding="utf-8")
    assert "![More users, less error](../figures/recovery_vs_users.png)" in page
    assert "| cramer_rao | proved | altmin |" in page
    paper = tmp_path / "experiments" / "published" / "somebody_2020"
    paper.mkdir(parents=True)
    (paper / "somebody_2020_users.toml").write_text(small.replace('"recovery_vs_users"', '"somebody_2020_users"'))
    for name in ("published", "somebody_2020", "somebody_2020_users"):  # a folder, a folder in it, a study
        words = ["reproduce-all", "--quick", "--only", name, "--out", name]
        told = CliRunner().invoke(main, words)
        assert told.exit_code == 0, told.output
        made = sorted(folder.name for folder in (tmp_path / name).iterdir())
        assert made == ["figures", "somebody_2020_users"]
    unknown = CliRunner().invoke(main, ["reproduce-all", "--only", "publised"])
    assert unknown.exit_code == 2
    assert "did you mean 'published'" in unknown.output
    shutil.rmtree(paper.parent)
    shutil.rmtree(tmp_path / "figures")
    none = CliRunner().invoke(main, ["reproduce-all", str(tmp_path / "short")])
    assert none.exit_code == 2
    assert "holds no study file" in none.output
