"""A study that version 0.1 ran, and its store as that version left it: still read, judged, drawn and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

import colora_theory as ct
from colora_theory.cli import main
from colora_theory.studies.figure_kinds import kind_of

OLD = Path(__file__).parent / "version_0_1"
#: What that version exported itself.
FRAME = pd.read_csv(OLD / "frame.csv", converters={"value": lambda text: float(text or "nan")})


@pytest.fixture
def store(tmp_path: Path) -> Path:
    shutil.copytree(OLD, tmp_path / "run", ignore=shutil.ignore_patterns("frame.csv"))
    return tmp_path / "run"


def test_its_numbers_are_read_as_they_were_written(store: Path) -> None:
    frame = ct.Results.open(store).frame()
    assert frame[list(FRAME.columns)].equals(FRAME)
    assert len(FRAME) == 72


@pytest.mark.parametrize(
    "words",
    [
        ["status", "RUN"],
        ["check", "RUN"],
        ["plot", "RUN"],
        ["report", "RUN", "-o", "page.html"],
        ["export", "RUN", "--out", "frame.csv"],
        ["merge", "RUN", "--out", "merged"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_takes_it(store: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.parent)
    result = CliRunner().invoke(main, [str(store) if word == "RUN" else word for word in words])
    assert result.exit_code == 0, result.output
    if words[0] == "export":
        assert (store.parent / "frame.csv").read_bytes() == (OLD / "frame.csv").read_bytes()
    if words[0] == "plot":
        assert (store / "figures" / "of_version_0_1.png").stat().st_size > 2000


def test_the_study_is_the_same_study(store: Path, tmp_path: Path) -> None:
    """Cells and seeds are those of version 0.1: the same data are drawn, and least squares has the same errors.

    altmin stops by another rule since.
    """
    old, now = ct.Results.open(store), ct.Study.from_toml(OLD / "study.toml")
    assert [cell.id for cell in now.cells] == [cell.id for cell in old.study.cells]
    again = ct.run(now, tmp_path / "again", backend="inline").frame()
    for estimator, digits in (("full_finetuning", 1e-9), ("altmin", 0.1)):
        new, then = (frame[frame["estimator"] == estimator]["value"].to_numpy() for frame in (again, FRAME))
        assert new == pytest.approx(then, rel=digits, nan_ok=True)


def test_it_is_resumed_and_keeps_its_rows(store: Path) -> None:
    study = ct.Study.from_toml(OLD / "study.toml", {"run.trials": 8})
    rows = ct.run(study, store, backend="inline", accept_version=True).frame()
    assert len(rows) == 96
    first = rows[rows["trial"] < 6].reset_index(drop=True)
    assert first[list(FRAME.columns)].equals(FRAME)


@pytest.mark.parametrize("file", sorted((OLD / "studies").glob("*.toml")), ids=lambda file: file.stem)
def test_study_files_of_that_version_mean_the_same_cells(file: Path) -> None:
    """Cells' ids, from which all seeds follow, are those that version 0.1 told; figures can be drawn."""
    study = ct.Study.from_toml(file)
    assert [cell.id for cell in study.cells] == json.loads((OLD / "cells.json").read_text())[file.stem]
    assert ct.Study.from_toml(file, quick=True).cells
    for figure in study.figures:
        kind_of(study, figure).check()
