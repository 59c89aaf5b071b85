"""Stores under hostile use: races, damage, copies without their log, rows asked for again, files written over."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import engine_fakes
import numpy as np
import pytest
from click.testing import CliRunner

from colora_theory import cli
from colora_theory.engine.run import run
from colora_theory.errors import InputError
from colora_theory.reports import html
from colora_theory.results.export import write as export
from colora_theory.results.merge import merge
from colora_theory.results.results import Results
from colora_theory.results.status import status
from colora_theory.results.store import FILE
from colora_theory.studies.study import Study
from colora_theory.verdicts.check import check


@pytest.fixture(autouse=True)
def fakes():
    engine_fakes.register()
    yield
    engine_fakes.unregister()


def build(**changes) -> Study:
    return Study.from_dict(engine_fakes.study(**changes))


RACE = """
import sys, time
from colora_theory.engine.run import run
from colora_theory.errors import InputError
from colora_theory.results.merge import merge
from colora_theory.results.results import Results
from colora_theory.results.status import status
from colora_theory.studies.study import Study
from colora_theory.verdicts.check import check

what, seed, folder, begin, rounds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), sys.argv[5]
study = Study.from_dict({"schema": 1, "name": "race", "seed": seed,
    "problem": {"num_users": 3, "num_samples": 8, "dim_in": 3, "rank": 1, "noise_std": 0.1},
    "guarantee": [{"name": "local_least_squares_risk"}],
    "estimator": [{"name": "full_finetuning"}], "metrics": {"use": ["parameter_error"]}, "run": {"trials": 5}})
for number in range(int(rounds)):
    out = f"{folder}/{number}"
    while time.time() < begin + 0.75 * number:
        pass
    try:
        if what == "run":
            run(study, out, backend="inline")
        elif what == "merge":
            merge([f"{folder}/source-{seed}"], out)
        while what == "check":
            try:
                status(out), check(Results.open(out)), Results.open(out).summary()
            except InputError as error:
                if "there are no results" not in str(error):
                    raise
            if time.time() > begin + 0.75 * number + 0.4:
                break
        print("done")
    except InputError as error:
        print(" ".join(str(error).split()))
"""


def race(folder: Path, first: str, second: str, rounds: int) -> None:
    """Two processes that start at one moment, round after round, in one new folder: two studies never mix, one is
    refused, and who reads meanwhile sees whole rows or is told that there are none.
    """
    folder.mkdir()
    if "merge" in (first, second):
        subprocess.run(
            [sys.executable, "-c", RACE, "run", "1", str(folder / "a"), "0", "1"], check=True, timeout=120
        )
        subprocess.run(
            [sys.executable, "-c", RACE, "run", "2", str(folder / "b"), "0", "1"], check=True, timeout=120
        )
        (folder / "a" / "0").rename(folder / "source-1")
        (folder / "b" / "0").rename(folder / "source-2")
    begin = str(time.time() + 2.0)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, what, str(seed), str(folder), begin, str(rounds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for what, seed in ((first, 1), (second, 2))
    ]
    said = [process.communicate(timeout=120 + 3 * rounds) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    for number, ends in enumerate(zip(*(output.splitlines() for output, _ in said), strict=True)):
        others = [text for text in ends if text != "done"]
        assert len(others) == (second != "check"), ends
        for other in others:
            assert any(
                text in other for text in ("another study", "another process is writing", "different studies")
            )
        with contextlib.closing(sqlite3.connect(folder / str(number) / FILE)) as connection:
            assert connection.execute("SELECT count(*) FROM trial").fetchone() == (5,)
        assert Results.open(folder / str(number)).verify() == []


PAIRS = [("run", "run"), ("run", "merge"), ("merge", "merge"), ("run", "check"), ("merge", "check")]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_processes_started_at_once_in_one_folder(tmp_path, first, second):
    race(tmp_path / "race", first, second, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_many_races(tmp_path, first, second):
    race(tmp_path / "race", first, second, 120)


def test_a_changed_number_is_noticed(tmp_path):
    results = run(build(), tmp_path / "a", backend="inline")
    assert results.verify() == []
    connection = sqlite3.connect(results.file)
    connection.execute("UPDATE trial SET parameter_error = parameter_error * 1.001 WHERE trial = 1 AND cell = 1")
    connection.commit()
    connection.close()
    wrong = Results.open(tmp_path / "a").verify()
    assert {cell for cell, _ in wrong} == {results.study.cells[0].id}
    asked = CliRunner().invoke(cli.main, ["status", str(tmp_path / "a"), "--verify"])
    assert asked.exit_code == 2
    assert "rows are not those that were written" in asked.output
    with pytest.raises(InputError, match="is damaged: the rows of"):
        merge([tmp_path / "a"], tmp_path / "m")
    assert not (tmp_path / "m" / FILE).exists()


def test_checksums_survive_resuming_and_merging(tmp_path):
    shards = [run(build(), tmp_path / f"s{i}", backend="inline", shard=(i, 2)).path for i in (0, 1)]
    assert merge(shards, tmp_path / "m").verify() == []
    run(build(run={"trials": 4}), tmp_path / "a", backend="inline")
    assert run(build(), tmp_path / "a", backend="inline").verify() == []


def test_a_store_of_the_first_version_is_taken_as_it_is(tmp_path):
    results = run(build(), tmp_path / "a", backend="inline")
    connection = sqlite3.connect(results.file)
    connection.execute("DROP TABLE checksum")
    connection.execute("DELETE FROM meta WHERE key IN ('open', 'claims')")
    connection.commit()
    connection.close()
    assert Results.open(tmp_path / "a").verify() is None
    assert "nothing to verify" in CliRunner().invoke(cli.main, ["status", str(tmp_path / "a"), "--verify"]).output
    assert run(build(), tmp_path / "a", backend="inline").verify() == []


def test_failed_rows_can_be_asked_for_again(tmp_path):
    marker = tmp_path / "marker"
    study = build(
        estimator=[{"name": "fake_kills", "params": {"marker": str(marker)}}, {"name": "fake_raises"}],
        run={"trials": 3},
        grid={"num_users": [3]},
    )
    results = run(study, tmp_path / "a", backend="inline") if marker.exists() else None
    marker.touch()
    results = run(study, tmp_path / "a", backend="inline")
    failed = results.counts()[1]
    again = run(study, tmp_path / "a", backend="inline", retry_failed="all")
    assert again.counts() == results.counts()
    assert again.manifest.get("retried", []) == ([{"failed": failed}] if failed else [])
    assert again.verify() == []
    with pytest.raises(InputError, match="--retry-failed takes all, or of failed, nan, timeout, crashed"):
        run(study, tmp_path / "a", backend="inline", retry_failed="converged")


def test_what_an_outside_kill_left_is_run_again(tmp_path):
    """Rows that say crashed for a reason outside the fit are replaced by what the fit gives."""
    results = run(build(), tmp_path / "a", backend="inline")
    before = results.frame()
    connection = sqlite3.connect(results.file)
    connection.execute("UPDATE trial SET status = 'crashed', parameter_error = NULL WHERE trial = 2")
    connection.execute("DELETE FROM checksum")  # computed again from the rows
    connection.commit()
    connection.close()
    again = run(build(), tmp_path / "a", backend="inline", retry_failed="crashed")
    assert again.frame().equals(before)
    assert again.verify() == []
    assert again.counts() == (len(before) // len(results.study.metrics), 0)


def test_a_shorter_study_shows_no_more_trials_than_it_says(tmp_path):
    run(build(run={"trials": 6}), tmp_path / "a", backend="inline")
    results = run(build(run={"trials": 2}), tmp_path / "a", backend="inline")
    assert set(results.frame().trial) == {0, 1}
    assert results.summary().n.max() == 2
    more = run(build(run={"trials": 6}), tmp_path / "a", backend="inline")
    assert set(more.frame().trial) == set(range(6))


def test_merging_adaptive_shards_one_after_another_keeps_where_they_stopped(tmp_path):
    runs = {"trials": 4, "batch": 2, "max_trials": 20, "target_mcse": {"parameter_error": {"relative": 10.0}}}
    shards = [run(build(run=runs), tmp_path / f"s{i}", backend="inline", shard=(i, 2)).path for i in (0, 1)]
    merge(shards[:1], tmp_path / "m")
    merge(shards[1:], tmp_path / "m")
    cells = {cell.id for cell in build(run=runs).cells}
    assert set(Results.open(tmp_path / "m").progress()["stopped"]) == cells
    assert status(tmp_path / "m")["missing"] == 0


def test_a_live_run_is_read_in_one_state(tmp_path):
    """check and report read while rows arrive: both see one snapshot."""
    results = run(build(), tmp_path / "a", backend="inline")
    live = Results.open(tmp_path / "a")
    writer = sqlite3.connect(results.file, isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    with live.snapshot():
        before = live.frame()
        writer.execute("DELETE FROM trial WHERE trial > 1")
        assert live.frame().equals(before)
        check(live)
    writer.close()
    assert len(live.frame()) < len(before)


def test_claims_edited_after_the_run_began_are_shown_as_such(tmp_path):
    run(build(claim="it falls"), tmp_path / "a", backend="inline")
    results = run(build(claim="it rises"), tmp_path / "a", backend="inline")
    assert [entry["claim"] for entry in results.claims] == ["it falls", "it rises"]
    html.write([results], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.index("stored when the first run began") < text.index("it falls") < text.index("it rises")
    assert "Claim as edited after it" in text


def test_a_report_is_not_written_over_anything_else(tmp_path):
    results = run(build(), tmp_path / "a", backend="inline")
    study = tmp_path / "study.toml"
    study.write_text("schema = 1")
    for victim in (results.file, study):
        before = victim.read_bytes()
        with pytest.raises(InputError, match="is no HTML page, so it is not written over"):
            html.write([results], victim)
        assert victim.read_bytes() == before
    html.write([results], tmp_path / "page.html")
    html.write([results], tmp_path / "page.html")


def test_links_in_the_place_of_files_are_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "study.json").symlink_to(victim)
    (folder / "manifest.json").symlink_to(victim)
    run(build(), folder, backend="inline")
    assert victim.read_text() == "precious"
    other = tmp_path / "b"
    other.mkdir()
    (other / ".lock").symlink_to(victim)
    with pytest.raises(InputError, match="cannot write to"):
        run(build(), other, backend="inline")
    assert victim.read_text() == "precious"


def test_exports_are_whole_and_run_nothing(tmp_path, monkeypatch):
    import pandas as pd

    results = run(build(), tmp_path / "a", backend="inline")
    out = tmp_path / "x.csv"
    export(results, "frame", out, sys.stdout)
    before = out.read_bytes()

    def full(self, path, **settings):
        Path(path).write_text("half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(InputError, match="No space left on device"):
        export(results, "frame", out, sys.stdout)
    assert out.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "x.csv"]


@pytest.mark.parametrize(
    "label", ["NA", "null", "None", "nan", "=1+1", "+a", "@x", "-x", "two\nlines", "\tx", " NaN "]
)
def test_labels_that_tables_misread_are_refused(label):
    with pytest.raises(InputError, match="label must be printable text that is no missing value"):
        build(estimator=[{"name": "fake_noise", "label": label}])


def damaged(original: bytes, rng: np.random.Generator) -> bytes:
    """A file with some bytes flipped or zeroed, or cut, past the header that says what it is."""
    blob = bytearray(original)
    kind = rng.integers(3)
    if kind == 2:
        return bytes(blob[: rng.integers(100, len(blob))])
    for _ in range(int(rng.integers(1, 6))):
        place, length = int(rng.integers(100, len(blob))), int(rng.integers(1, 40))
        blob[place : place + length] = bytes(len(blob[place : place + length])) if kind else rng.bytes(length)
    return bytes(blob[: len(original)])


LONGER = ({"trials": 6}, {"trials": 8, "batch": 2, "target_mcse": {"parameter_error": {"absolute": 1e-9}}})


def held_open(folder: Path) -> list[str]:
    """Files of a folder that this process has open: a reader that was forgotten locks the store."""
    out = []
    for number in os.listdir("/proc/self/fd") if sys.platform == "linux" else []:
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            name = os.readlink(f"/proc/self/fd/{number}")
            out += [name] if name.startswith(str(folder)) else []
    return out


def commands_on_damage(folder: Path, times: int, seed: int) -> None:
    methods = [{"name": "fake_noise"}, {"name": "fake_raises"}]
    study, *longer = (build(estimator=methods, run=table) for table in ({"trials": 4}, *LONGER))
    source = run(study, folder / "good", backend="inline").file
    rng, original = np.random.default_rng(seed), source.read_bytes()
    runner = CliRunner()
    place = folder / "bad"
    for number in range(times):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / FILE).write_bytes(damaged(original, rng))
        for command in (
            ["status"],
            ["status", "--verify"],
            ["check"],
            ["export"],
            ["merge", "--out", str(folder / "m")],
        ):
            asked = runner.invoke(cli.main, [command[0], str(place), *command[1:]])
            told = asked.output.strip().splitlines()
            assert asked.exit_code in (0, 1, 2), (number, command, asked.output, asked.exception)
            if asked.exit_code == 2:
                assert told[-1].startswith("Error: "), (number, command, asked.output)
            assert not held_open(folder), (number, command, asked.output)
        shutil.rmtree(folder / "m", ignore_errors=True)
        for further in longer:  # goes on, or says why not
            with contextlib.suppress(InputError):
                run(further, place, backend="inline", retry_failed="all" if number % 2 else None)
            assert not held_open(folder), number


def test_damaged_stores_are_told_in_one_sentence(tmp_path):
    commands_on_damage(tmp_path, 60, seed=1)


@pytest.mark.slow
def test_many_damaged_stores(tmp_path):
    commands_on_damage(tmp_path, 10_000, seed=2)


def test_an_error_that_is_kept_locks_no_store(tmp_path):
    """As a notebook or a debugger keeps it: in a comprehension its traceback holds the cursor (Python 3.11)."""
    results = run(build(), tmp_path / "a", backend="inline")
    with contextlib.closing(sqlite3.connect(results.file, isolation_level=None)) as connection:
        connection.execute("UPDATE checksum SET sum = 'much'")
    with pytest.raises(InputError, match="is damaged") as refusal:
        results.verify()
    assert not held_open(tmp_path), refusal


@pytest.mark.parametrize("ask", ["status", "open", "merge", "run", "retry"])
def test_a_store_that_another_program_has_locked_is_told(tmp_path, monkeypatch, ask):
    """Never read past the lock: what is half written would be shown as what is there."""
    folder = run(build(), tmp_path / "a", backend="inline").path
    monkeypatch.setattr("colora_theory.results.store.PATIENCE", 0.05)
    longer = build(run={"trials": 15})
    asks = {
        "status": lambda: status(folder),
        "open": lambda: Results.open(folder).frame(),
        "merge": lambda: merge([folder], tmp_path / "m"),
        "run": lambda: run(longer, folder, backend="inline"),
        "retry": lambda: run(longer, folder, backend="inline", retry_failed="all"),
    }
    with contextlib.closing(sqlite3.connect(folder / FILE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match="is locked by another program"):
            asks[ask]()
    asks[ask]()
    assert not held_open(tmp_path)


def test_a_reader_of_another_program_is_told_by_a_run(tmp_path, monkeypatch):
    folder = run(build(), tmp_path / "a", backend="inline").path
    monkeypatch.setattr("colora_theory.results.store.PATIENCE", 0.05)
    with contextlib.closing(sqlite3.connect(folder / FILE, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM trial").fetchone()
        with pytest.raises(InputError, match="is locked by another program"):
            run(build(run={"trials": 15}), folder, backend="inline")
        assert status(folder)["rows"]
    assert len(run(build(run={"trials": 15}), folder, backend="inline").frame()["trial"].unique()) == 15


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE trial SET trial = -5 WHERE trial = 1", "is damaged"),
        ("UPDATE trial SET trial = 'one' WHERE trial = 1", "is damaged"),
        ("UPDATE trial SET trial = 1.5 WHERE trial = 1", "is damaged"),
        ("UPDATE trial SET trial = 1000000000000 WHERE trial = 1", ""),  # beyond the study: one runs again
        ("UPDATE tally SET mean = 'much'", "is damaged"),
        ("UPDATE checksum SET sum = 'much'", "is damaged"),
    ],
)
def test_a_run_that_goes_on_from_a_damaged_store_says_so(tmp_path, change, said):
    source = run(build(estimator=[{"name": "fake_noise"}]), tmp_path / "a", backend="inline").file
    with sqlite3.connect(source) as connection:
        connection.execute(change)
    connection.close()
    longer = build(estimator=[{"name": "fake_noise"}], run={"trials": 15})
    if said:
        with pytest.raises(InputError, match=said):
            run(longer, tmp_path / "a", backend="inline")
    else:
        assert len(run(longer, tmp_path / "a", backend="inline").frame()["trial"].unique()) == 15


def test_asking_for_failed_rows_again_hides_no_damage(tmp_path):
    """The sums of all rows are computed afresh then, which must not make changed numbers good."""
    study = build(estimator=[{"name": "fake_noise"}, {"name": "fake_raises"}])
    source = run(study, tmp_path / "a", backend="inline").file
    with sqlite3.connect(source) as connection:
        connection.execute("UPDATE trial SET parameter_error = 1.0 + parameter_error WHERE trial = 1")
    connection.close()
    with pytest.raises(InputError, match="not those that were written"):
        run(study, tmp_path / "a", backend="inline", retry_failed="all")
    assert Results.open(tmp_path / "a").verify()


@pytest.mark.parametrize("command", ["export", "check", "report", "plot"])
def test_text_where_numbers_were_is_damage(tmp_path, command):
    """SQLite keeps text in a column of numbers; who reads it is told of the file, not of a defect."""
    figure = [{"kind": "curve", "x": "num_users", "y": "parameter_error"}]
    study = build(estimator=[{"name": "fake_noise"}], guarantee=[{"name": "cramer_rao"}], figure=figure)
    source = run(study, tmp_path / "a", backend="inline").file
    with sqlite3.connect(source) as connection:
        connection.execute("UPDATE trial SET parameter_error = 'text' WHERE trial = 1")
    connection.close()
    out = {"report": ["-o", str(tmp_path / "r.html")], "plot": ["--figures", str(tmp_path / "f")]}.get(command, [])
    asked = CliRunner().invoke(cli.main, [command, str(tmp_path / "a"), *out])
    assert asked.exit_code == 2, asked.output
    assert "is damaged" in asked.output


def test_unexpected_errors_have_a_code_of_their_own(tmp_path, monkeypatch):
    run(build(), tmp_path / "a", backend="inline")

    def defect(path):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("colora_theory.results.status.status", defect)
    asked = CliRunner().invoke(cli.main, ["status", str(tmp_path / "a")])
    assert asked.exit_code == 4
    assert "unexpected ZeroDivisionError: oh" in asked.output
    assert "Traceback" not in asked.output


def test_numbers_of_another_kernel_are_not_promised(tmp_path):
    from colora_theory.engine.machine import manifest, same_numbers

    now = manifest(1)
    assert now["blas_kernels"]
    assert same_numbers(now, now)
    assert same_numbers({**now, "resumed": [now]}, now)
    assert not same_numbers({**now, "blas_kernels": ["other"]}, now)
    assert not same_numbers({**now, "resumed": [{**now, "cpu": "other"}]}, now)
    first = {key: value for key, value in now.items() if key != "blas_kernels"}
    assert same_numbers(first, now)  # version 0.1 did not say
    assert json.dumps(now)
