"""Claims for other programs: JSON that is verified again, LaTeX, the reference of study files, plugins, theory."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import colora_theory as ct
from colora_theory.cli import main
from colora_theory.reports import claims
from colora_theory.reports.reference import study_reference, theory

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("claims")
    study = ct.Study.from_dict(
        {
            "schema": 1,
            "name": "claims_again",
            "claim": "It holds & costs 5 %.",
            "seed": 4,
            "problem": {"num_samples": 40, "dim_in": 6, "rank": 1, "noise_std": 0.2},
            "grid": {"num_users": [4, 8]},
            "estimator": [{"name": "full_finetuning"}, {"name": "altmin", "label": "alt_min 100%"}],
            "metrics": {"use": ["parameter_error"]},
            "guarantee": [
                {"name": "local_least_squares_risk"},
                {"name": "cramer_rao", "estimator": "alt_min 100%"},
            ],
            "run": {"trials": 60},
        }
    )
    return ct.run(study, folder / "run", backend="inline").path


def test_json_claims_are_verified_again(run, tmp_path):
    out = tmp_path / "claims.json"
    runner = CliRunner()
    assert runner.invoke(main, ["report", str(run), "--format", "json", "-o", str(out)]).exit_code == 0
    claims = json.loads(out.read_text())
    assert len(claims) == 4
    assert {"problem", "hypotheses", "status", "trials", "seed", "versions", "alpha"} <= set(claims[0])
    for number in range(4):
        asked = runner.invoke(main, ["verify", str(out), "--number", str(number), "--seconds", "20"])
        assert asked.exit_code == 0, asked.output
        assert asked.output.startswith("stands")
    false = [{**claims[0], "problem": {**claims[0]["problem"], "noise_std": 0.2}, "status": "violated"}]
    out.write_text(json.dumps(false))
    asked = runner.invoke(main, ["verify", str(out), "--json"])
    assert asked.exit_code == 1
    assert json.loads(asked.output)["stands"] is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "cannot be read as JSON"),
        ("[]", "--number must be below 0"),
        ("[1]", "--number must be below"),
        ("[{}]", "lacks version, guarantee"),
    ],
)
def test_wrong_claims_are_refused(tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)
    asked = CliRunner().invoke(main, ["verify", str(tmp_path / "c.json")])
    assert asked.exit_code == 2
    assert message in asked.output


def test_latex_is_escaped(run, tmp_path):
    out = tmp_path / "t.tex"
    asked = CliRunner().invoke(main, ["report", str(run), "--format", "latex", "-o", str(out)])
    assert asked.exit_code == 0
    text = out.read_text()
    assert r"alt\_min 100\%" in text
    assert r"\begin{tabular}{llllrrr}" in text
    assert text.count(r"\\") == 3  # the head and two verdicts
    assert "seed 4" in text


def test_the_reference_is_that_of_the_schema():
    """Regenerate by: colora-theory schema > docs/study_reference.md"""
    assert (ROOT / "docs" / "study_reference.md").read_text(encoding="utf-8") == study_reference()


def test_every_guarantee_has_a_section_or_a_statement():
    for guarantee in ct.guarantees.all():
        text = theory(guarantee.name)
        assert guarantee.name in text or text.startswith("## ")
    assert theory("cramer_rao").startswith("## Cramér-Rao")
    asked = CliRunner().invoke(main, ["theory", "nonsense"])
    assert asked.exit_code == 2


PLUGIN = """
from dataclasses import dataclass

import numpy as np

import colora_theory as ct
from colora_theory.estimators import Estimator, Fit


@ct.estimators.base.register
@dataclass(frozen=True, kw_only=True)
class Zero(Estimator):
    '''Answers with zero.'''

    name = "plugin_zero"

    def fit(self, data, rng=None):
        return Fit(status="converged", dense=np.zeros((data.num_users, data.dim_in, data.dim_out)))
"""

STUDY = """
schema = 1
name = "mine"
seed = 1
[problem]
num_users = 3
num_samples = 5
dim_in = 4
rank = 1
[[estimator]]
name = "plugin_zero"
[metrics]
use = ["parameter_error"]
[run]
trials = 4
"""


def test_a_plain_file_brings_estimators_of_ones_own(tmp_path):
    """In a process of its own: what a plugin registers stays registered."""
    import subprocess
    import sys

    (tmp_path / "my_theory.py").write_text(PLUGIN)
    (tmp_path / "mine.toml").write_text(STUDY)
    command = [
        sys.executable,
        "-m",
        "colora_theory.cli",
        "--plugin",
        "my_theory.py",
        "run",
        "mine.toml",
        "--jobs",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 rows, 0 failed" in done.stdout


@pytest.mark.parametrize(("text", "message"), [(None, "must be a Python file"), ("1 / 0", "ZeroDivisionError")])
def test_plugins_that_cannot_be_loaded_are_told_in_one_sentence(tmp_path, text, message):
    file = tmp_path / "p.py"
    if text is not None:
        file.write_text(text)
    asked = CliRunner().invoke(main, ["--plugin", str(file), "estimators"])
    assert asked.exit_code == 2
    assert message in asked.output


@pytest.mark.parametrize(("stored", "ticks", "expected"), [(1000, 2.5, 30), (15, 1e9, 15), (1000, 0.0, 10)])
def test_verifying_ends_with_the_time_or_with_the_trials_of_before(
    run: Path, monkeypatch: pytest.MonkeyPatch, stored: int, ticks: float, expected: int
) -> None:
    """Ten trials at a time while there is time, on a clock that ticks once a look; never more than were stored."""
    clock = iter(range(10_000))
    monkeypatch.setattr(claims, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    claim = {**claims.claims_of(ct.Results.open(run))[0], "trials": stored}
    assert claims.verify(claim, seconds=ticks)["trials"] == expected
