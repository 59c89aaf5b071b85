"""The command line: what it prints, its exit codes, and that it answers at once."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from colora_theory import console
from colora_theory.cli import main

STUDY = """
schema = 1
name = "tiny"
seed = 5
[problem]
num_samples = 12
dim_in = 6
rank = 2
noise_std = 0.1
[grid]
num_users = [3, 6]
[[estimator]]
name = "full_finetuning"
[[estimator]]
name = "oracle_subspace"
[metrics]
use = ["parameter_error", "subspace_distance"]
[[guarantee]]
name = "oracle_subspace_risk"
estimator = "oracle_subspace"
[run]
trials = 30
quick = { trials = 3, grid = { num_users = [3] } }
[[figure]]
kind = "curve"
x = "num_users"
y = "parameter_error"
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(STUDY)
    return "tiny.toml"


def call(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.stdout if code == 0 else result.stderr


def test_from_a_study_file_to_results_and_figures(study, tmp_path):
    out = call("run", study, "--quiet", "--jobs", 2)
    assert out.startswith("results: runs/tiny (120 rows, 0 failed)\nfigure:  runs/tiny/figures/")
    assert list((tmp_path / "runs/tiny/figures").glob("*.svg"))
    assert (tmp_path / "runs/tiny/study.toml").read_text() == STUDY
    manifest = json.loads((tmp_path / "runs/tiny/manifest.json").read_text())
    assert {"seed", "python", "numpy", "scipy", "colora_theory", "blas", "cpu", "commit"} <= set(manifest)

    state = json.loads(call("status", "runs/tiny", "--json"))
    assert (state["rows"], state["missing"], state["failed"]) == (120, 0, 0)
    assert "finished; 120 of 120 rows, 0 failed" in call("status", "runs/tiny")

    assert all("tiny" in path for path in json.loads(call("plot", "runs/tiny", "--figures", "f", "--json")))
    call("check", "runs/tiny")
    assert {"status", "text"} <= set(json.loads(call("check", "runs/tiny", "--json"))[0])

    assert call("export", "runs/tiny").startswith(
        "num_users,trial,estimator,metric,value,status\n3,0,full_finetuning"
    )
    call("export", "runs/tiny", "--table", "summary", "--out", "s.csv")
    assert (tmp_path / "s.csv").read_text().startswith("cell,num_users,estimator,metric,n,mean,std,mcse")

    cell = state["cells"][0]["cell"]
    assert "identical" in call("reproduce", "runs/tiny", "--cell", cell[:5], "--trial", 3)
    assert json.loads(call("reproduce", "runs/tiny", "--cell", cell, "--trial", 29, "--json"))[0]["same"]
    assert "is not stored" in call("reproduce", "runs/tiny", "--cell", cell, "--trial", 30, code=2)


def test_set_quick_shards_and_merge(study):
    assert "6 rows" in call("run", study, "--quiet", "--quick", "--no-plot", "--backend", "inline")
    call(
        "run",
        study,
        "--quiet",
        "--no-plot",
        "--set",
        "run.trials=4",
        "--set",
        "grid.num_users=[4]",
        "--out",
        "a b",
    )
    assert json.loads(call("status", "a b", "--json"))["cells"][0]["varied"] == {"num_users": 4}
    shards = []
    for part in ("1/2", "2/2"):
        said = json.loads(
            call("run", study, "--quiet", "--no-plot", "--json", "--shard", part, "--set", "run.trials=5")
        )
        shards.append(said["out"])
    assert shards == ["runs/tiny-shard-1-of-2", "runs/tiny-shard-2-of-2"]
    assert call("merge", *shards, "--out", "m") == "results: m (20 rows, 0 failed)\n"
    assert json.loads(call("merge", *shards, "--out", "m", "--json"))["rows"] == 20


def test_plan_and_templates(study):
    said = call("plan", study, "--quick")
    assert "in all:" in said
    assert json.loads(call("plan", study, "--json", "--pilot", 2, "--quick"))["cells"][0]["trials_planned"] == 3
    assert "colora-theory run new.toml" in call("init", "new.toml")
    assert "exists already" in call("init", "new.toml", code=2)


def test_registries(study):
    assert "cramer_rao" in call("guarantees")
    assert "source: " in call("guarantees", "cramer_rao")
    assert json.loads(call("guarantees", "cramer_rao", "--json"))["kind"] == "bound"
    assert "altmin" in {e["name"] for e in json.loads(call("estimators", "--json"))}
    assert "parameters and defaults: rank" in call("estimators", "altmin")
    assert "did you mean 'altmin'" in call("estimators", "altmim", code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.toml"], "cannot read the study file none.toml"),
        (
            ["run", "tiny.toml", "--set", "grid.num_user=[3]"],
            "unknown key 'grid.num_user'; did you mean 'num_users'",
        ),
        (["run", "tiny.toml", "--set", "nonsense"], "--set takes key=value"),
        (["run", "tiny.toml", "--jobs", "0"], "n_jobs must be"),
        (["run", "tiny.toml", "--jobs", "two"], "--jobs"),
        (["run", "tiny.toml", "--shard", "5/2"], "1 ≤ i ≤ N"),
        (["run", "tiny.toml", "--set", "seed=-3"], "seed must be"),
        (["run"], "Missing argument"),
        (["status", "nowhere"], "no results at nowhere"),
        (["check", "tiny.toml"], "tiny.toml cannot be opened as a store"),
        (["plot", "nowhere"], "no results at"),
        (["export", "nowhere"], "no results at"),
        (["merge", "nowhere", "--out", "x"], "no results at"),
        (["guarantees", "nothing"], "unknown guarantee"),
        (["frobnicate"], "No such command"),
    ],
)
def test_refusals_exit_2_and_leave_nothing_behind(study, tmp_path, arguments, message):
    assert message in call(*arguments, code=2)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.toml"]


def test_a_violated_verdict_exits_1(study, monkeypatch):
    call("run", study, "--quiet", "--no-plot", "--quick", "--backend", "inline")
    from colora_theory.verdicts import check as verdicts

    monkeypatch.setattr(verdicts, "check", lambda results, **how: [SimpleNamespace(status="violated")])
    result = CliRunner().invoke(main, ["check", "runs/tiny-quick"])
    assert result.exit_code == 1
    monkeypatch.setattr(verdicts, "check", lambda results, **how: [])
    assert "states no guarantee" in call("check", "runs/tiny-quick")


def test_a_trial_that_differs_exits_1(study, monkeypatch):
    call("run", study, "--quiet", "--no-plot", "--quick", "--backend", "inline")
    from colora_theory.engine.trial import Recipe

    real = Recipe.of

    def other(study):
        recipe = real(study)
        object.__setattr__(recipe, "seed", recipe.seed + 1)
        return recipe

    monkeypatch.setattr(Recipe, "of", other)
    cell = json.loads(call("status", "runs/tiny-quick", "--json"))["cells"][0]["cell"]
    result = CliRunner().invoke(main, ["reproduce", "runs/tiny-quick", "--cell", cell, "--trial", "0"])
    assert result.exit_code == 1
    assert "DIFFERENT" in result.output


def test_a_full_disk_exits_2_in_one_sentence(study, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("colora_theory.engine.run.describe_folder", full)
    assert "No space left on device; what is stored is kept" in call("run", study, "--quiet", code=2)


def test_studies_without_figures_have_nothing_to_plot(study, tmp_path):
    (tmp_path / "plain.toml").write_text(STUDY[: STUDY.index("[[figure]]")])
    call("run", "plain.toml", "--quiet", "--quick", "--backend", "inline", "--out", "p")
    assert "asks for no figure" in call("plot", "p", code=2)


def test_interruptions_exit_130(study, monkeypatch):
    def interrupted(*args, **kwargs):
        console._interrupt(15, None)

    monkeypatch.setattr("colora_theory.engine.run.run", interrupted)
    assert "the same command resumes" in call("run", study, code=130)


@pytest.mark.parametrize("command", ["", *main.commands])
def test_help_loads_nothing_heavy(command):
    code = (
        "import sys, click\nfrom colora_theory.cli import main\n"
        f"try: main({[*command.split(), '--help']})\nexcept SystemExit as e: assert not e.code\n"
        "assert not {'numpy', 'pandas', 'pydantic', 'scipy', 'joblib', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_status_loads_nothing_heavy(study):
    call("run", study, "--quiet", "--quick", "--no-plot", "--backend", "inline")
    code = (
        "import sys\nfrom colora_theory.cli import main\n"
        "try: main(['status', 'runs/tiny-quick'])\nexcept SystemExit as e: assert not e.code\n"
        "assert not {'numpy', 'pandas', 'pydantic', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout


def test_progress_is_told_in_lines_off_a_terminal_and_as_a_bar_on_one(monkeypatch, capsys):
    from colora_theory.engine.progress import Progress, duration

    lines = Progress(10, seconds=0.0)
    lines.update(4, 1)
    lines.say("a word")
    lines.close()
    said = capsys.readouterr().err
    assert said.startswith("6 of 10 trials")
    assert "1 failed" in said
    assert said.endswith("a word\n")
    quiet = Progress(10, quiet=True, seconds=0.0)
    quiet.update(4, 1)
    quiet.say("a word")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = Progress(10)
    bar.update(4, 1)
    bar.say("a word")
    bar.close()
    said = capsys.readouterr().err
    assert "6/10" in said
    assert "a word" in said
    assert [duration(s) for s in (0.123, 90, 300, 10000, 200000)] == [
        "0.123 s",
        "90 s",
        "5 min",
        "2.78 h",
        "2.31 days",
    ]


@pytest.mark.parametrize("patience", [0.0, 1e9])
def test_what_takes_long_says_how_far_it_is(
    patience: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands tell from the third second on what they are doing, not before, and on stderr."""
    monkeypatch.setattr(console, "PATIENCE", patience)
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    table = tmp_path / "table.csv"
    rng = np.random.default_rng(0)
    pd.DataFrame({"who": list("abcd") * 8, "x": rng.normal(size=32), "y": rng.normal(size=32)}).to_csv(table)
    for command, said in (
        (["attack", "local_least_squares_risk", "--trials", "150"], "trials with"),
        (
            ["fit", str(table), "--target", "y", "--user", "who", "-o", str(tmp_path / "m")],
            "prior of rank 0, step 1",
        ),
    ):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.exception
        assert (said in done.stderr) == (patience == 0.0)
        assert said not in done.stdout
        assert logging.getLogger("colora_theory").handlers == []


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8"])
def test_consoles_that_cannot_show_a_sign_show_its_number(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "colora_theory.cli", "guarantees", "cramer_rao"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(encoding)
    said = done.stdout.decode(encoding)
    assert ("\\u" in said) == (encoding != "utf-8")
