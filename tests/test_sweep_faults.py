"""Estimators that raise, loop, hang, kill their process; and studies that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import engine_fakes
import pandas as pd
import pytest

from colora_theory.engine import limits
from colora_theory.engine import run as sweep
from colora_theory.engine.reproduce import reproduce
from colora_theory.engine.run import run
from colora_theory.engine.trial import Recipe, Segment, run_chunk
from colora_theory.errors import EngineError
from colora_theory.results.results import Results
from colora_theory.results.store import FILE
from colora_theory.studies.study import Study

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def fakes():
    engine_fakes.register()
    yield
    engine_fakes.unregister()


def build(names, trials=2, timeout=30.0, **changes):
    entries = [{"name": n} if isinstance(n, str) else n for n in names]
    tables = {"estimator": entries, "run": {"trials": trials, "timeout": timeout}, "grid": {"num_users": [3]}}
    return Study.from_dict(engine_fakes.study(**{**tables, **changes}))


def statuses(results):
    return results.frame().groupby("estimator").status.agg(lambda s: sorted(set(s))).to_dict()


def test_whatever_goes_wrong_is_a_row_and_the_rest_is_complete(tmp_path):
    names = ["fake_noise", "fake_raises", "fake_not_finite", "fake_loops", "fake_kills", "full_finetuning"]
    study = build(names, trials=4, timeout=0.5)
    results = run(study, tmp_path / "a", n_jobs=2)
    assert statuses(results) == {
        "fake_noise": ["converged"],
        "fake_raises": ["converged", "failed"],
        "fake_not_finite": ["nan"],
        "fake_loops": ["timeout"],
        "fake_kills": ["crashed"],
        "full_finetuning": ["converged"],
    }
    assert results.counts()[0] == 4 * len(names)
    alone = run(build(["fake_noise", "full_finetuning"], trials=4), tmp_path / "b", backend="inline").frame()
    healthy = results.frame().query("estimator in ('fake_noise', 'full_finetuning')").reset_index(drop=True)
    pd.testing.assert_frame_equal(healthy, alone, check_exact=True)
    messages = dict.fromkeys(text for text, _ in results.failure_messages())
    assert any("longer than run.timeout = 0.5 s" in text for text in messages)
    assert any("parameter_error is infinite" in text for text in messages)
    assert any("the worker died: TerminatedWorkerError" in text for text in messages)
    crashed = reproduce(results, study.cells[0].id, 1)[4]
    assert crashed["again"] == {"status": "crashed"}


def test_native_code_that_never_returns_times_out(tmp_path):
    results = run(build(["fake_hangs", "fake_noise"], trials=1, timeout=0.2), tmp_path / "a")
    assert statuses(results) == {"fake_hangs": ["timeout"], "fake_noise": ["converged"]}
    assert "native code" in results.failures().message[0]


def test_a_worker_killed_from_outside_costs_nothing(tmp_path):
    marked = {"name": "fake_kills", "params": {"marker": str(tmp_path / "marker")}}
    results = run(build([marked, "fake_noise"], trials=6), tmp_path / "a")
    assert statuses(results) == {"fake_kills": ["converged"], "fake_noise": ["converged"]}
    assert results.counts() == (12, 0)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("status", "ValueError: the fit has status 'splendid'; allowed: converged, stopped, singular"),
        ("shape", "ValueError: the estimate has shape"),
        ("exit", "SystemExit: 3"),
        ("write", "ValueError: assignment destination is read-only"),
        ("none", "AttributeError"),
    ],
)
def test_odd_estimates_are_failures(what, message):
    study = build([{"name": "fake_odd", "params": {"what": what}}])
    cell = study.cells[0]
    (row,) = run_chunk(Recipe.of(study), [Segment(0, cell.words, cell.problem, (0,), (0,))], False).rows
    assert row.status == "failed"
    assert row.message.startswith(message)


def test_nan_estimates_and_failing_draws_are_rows(monkeypatch):
    study = build([{"name": "fake_not_finite", "params": {"value": 0.0}}], timeout=0.2)
    cell = study.cells[0]
    segment = Segment(0, cell.words, cell.problem, (0,), (0,))
    (row,) = run_chunk(Recipe.of(study), [segment], False).rows
    assert (row.status, row.message) == ("nan", "the estimate has entries that are not finite")
    assert row.values == (None, None)

    def raises(*args):
        raise MemoryError("too much")

    monkeypatch.setattr("colora_theory.engine.trial.sample_data", raises)
    (row,) = run_chunk(Recipe.of(study), [segment], False).rows
    assert (row.status, row.message) == ("failed", "while drawing the data: MemoryError: too much")
    monkeypatch.setattr("colora_theory.engine.trial.sample_data", lambda *a: time.sleep(5))
    (row,) = run_chunk(Recipe.of(study), [segment], False).rows
    assert (row.status, row.message) == ("timeout", "drawing the data took longer than run.timeout = 0.2 s")


def test_a_task_that_cannot_be_sent_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "run_chunk", lambda *args: (_ for _ in ()))  # a generator does not pickle
    with pytest.raises(EngineError, match="could not take its task"):
        run(build(["fake_noise"]), tmp_path / "a")
    monkeypatch.undo()
    assert run(build(["fake_noise"]), tmp_path / "a").counts() == (2, 0)


DRIVER = "import engine_fakes; engine_fakes.register(); from colora_theory.cli import main; main()"


def start(*arguments):
    """Start the command line in a process group of its own, with the misbehaving estimators installed."""
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-c", DRIVER, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def write(path, study):
    """Write a study of one estimator table as TOML."""
    lines = [f"schema = 1\nname = {study['name']!r}\nseed = {study['seed']}"]
    for section in ("problem", "grid", "metrics", "run"):
        lines += [f"[{section}]", *(f"{key} = {value}" for key, value in study[section].items())]
    lines += [f"[[estimator]]\nname = {entry['name']!r}" for entry in study["estimator"]]
    path.write_text("\n".join(lines))
    return path


def rows_of(file):
    if not file.exists():
        return set()
    connection = sqlite3.connect(file)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return set(connection.execute("SELECT * FROM trial").fetchall())
    finally:
        connection.close()


def killed_again_and_again(tmp_path, kills, trials, seed):
    tables = engine_fakes.study(
        run={"trials": trials, "batch": 5}, estimator=[{"name": "fake_sleeps"}, {"name": "fake_noise"}]
    )
    whole = run(Study.from_dict(tables), tmp_path / "whole", n_jobs=2).frame()
    file, out, rng = write(tmp_path / "study.toml", tables), tmp_path / "out", random.Random(seed)
    command = ("run", file, "--out", out, "--jobs", 2, "--quiet")
    committed, hits = set(), 0
    while hits < kills:
        process = start(*command)
        time.sleep(rng.uniform(0.2, 4.0))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            hits += 1
        process.communicate()
        now = rows_of(out / FILE)
        assert committed <= now
        committed = now
        if process.returncode == 0:
            break
    process = start(*command)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    pd.testing.assert_frame_equal(Results.open(out).frame(), whole, check_exact=True)
    return hits


def test_a_study_killed_with_all_its_workers_loses_nothing(tmp_path):
    assert killed_again_and_again(tmp_path, kills=3, trials=60, seed=1) >= 1


@pytest.mark.slow
def test_a_study_killed_thirty_times_loses_nothing(tmp_path):
    assert killed_again_and_again(tmp_path, kills=30, trials=1200, seed=2) == 30


def test_interrupting_the_command_keeps_everything_and_exits_130(tmp_path):
    tables = engine_fakes.study(run={"trials": 400, "batch": 5}, estimator=[{"name": "fake_sleeps"}])
    file, out = write(tmp_path / "study.toml", tables), tmp_path / "out"
    for word, number in (("SIGINT", signal.SIGINT), ("SIGTERM", signal.SIGTERM)):
        before = len(rows_of(out / FILE))
        process = start("run", file, "--out", out, "--jobs", 2)
        deadline = time.monotonic() + 60
        while len(rows_of(out / FILE)) <= before and time.monotonic() < deadline:
            time.sleep(0.2)
        os.killpg(process.pid, number) if word == "SIGINT" else process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, (word, errors)
        assert "the same command resumes" in errors
        assert "Traceback" not in errors
    assert before < len(rows_of(out / FILE)) < 800


def test_workers_of_a_killed_parent_end(tmp_path):
    tables = engine_fakes.study(run={"trials": 400, "batch": 5}, estimator=[{"name": "fake_sleeps"}])
    process = start("run", write(tmp_path / "study.toml", tables), "--out", tmp_path / "out", "--quiet")
    deadline = time.monotonic() + 60
    while not rows_of(tmp_path / "out" / FILE) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.kill()
    process.communicate()

    def alive():
        listed = subprocess.run(["ps", "-e", "-o", "sid="], capture_output=True, text=True).stdout.split()
        return str(process.pid) in listed

    while alive() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not alive()


def test_exit_code_of_a_study_with_failures(tmp_path):
    tables = engine_fakes.study(estimator=[{"name": "fake_raises"}, {"name": "fake_noise"}])
    file = write(tmp_path / "study.toml", tables)
    process = start("run", file, "--out", tmp_path / "out", "--json")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "fake_raises: failed: ZeroDivisionError: no luck" in errors
    report = json.loads(output)
    assert report["rows"] == 48
    assert 0 < report["failed"] < 24
    for allowed, code in ((report["failed"], 0), (report["failed"] - 1, 3), (0.5, 0), (0.01, 3)):
        process = start("run", file, "--out", tmp_path / "out", "--set", f"run.max_failures={allowed}")
        process.communicate(timeout=60)
        assert process.returncode == code, allowed


def test_threads_have_no_alarms():
    """Only the main thread may set a signal handler: elsewhere the body runs without one."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(_asked_in_alarms).result(timeout=60) == "ran"


def _asked_in_alarms():
    before = signal.getsignal(signal.SIGALRM)
    with limits.alarms():
        assert signal.getsignal(signal.SIGALRM) is before
        return "ran"
