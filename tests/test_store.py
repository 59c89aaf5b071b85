"""The store: durable, readable while written, refused when it is not what it should be."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import struct
from hashlib import blake2b
from types import SimpleNamespace

import engine_fakes
import numpy as np
import pandas as pd
import pytest

from colora_theory.engine.run import run
from colora_theory.errors import InputError
from colora_theory.model.arrays import read_npz, written_npz
from colora_theory.results import store
from colora_theory.results import writer as writing
from colora_theory.results.checksum import row_hash
from colora_theory.results.export import write as export
from colora_theory.results.merge import merge
from colora_theory.results.results import Results
from colora_theory.results.rows import Row
from colora_theory.results.status import as_text, status
from colora_theory.results.writer import Writer
from colora_theory.studies.study import Study


@pytest.fixture(autouse=True)
def fakes():
    engine_fakes.register()
    yield
    engine_fakes.unregister()


def build(**changes):
    return Study.from_dict(engine_fakes.study(**changes))


def rows(trials, cell=0, status="converged", value=1.0):
    return [Row(cell, 0, t, status, "", (value, None)) for t in trials]


def about(study):
    return {"study": study.resolved(), "manifest": {}, "quick": False}


@pytest.fixture
def writer(tmp_path):
    study = build()
    writer = Writer(tmp_path / "run", study, study.metrics, lambda file: about(study))
    yield writer
    writer.close()


def test_rows_are_committed_at_1000_or_2_seconds(writer, tmp_path, monkeypatch):
    file = tmp_path / "run" / store.FILE

    def seen():
        connection = store.connect(file)
        try:
            return connection.execute("SELECT count(*) FROM trial").fetchone()[0]
        finally:
            connection.close()

    writer.commit()
    writer.add(rows(range(10)))
    assert seen() == 0
    writer.add(rows(range(10, 1010)))
    assert seen() == 1010
    writer.add(rows([1010]))
    writer.tick()
    assert seen() == 1010
    monkeypatch.setattr(writing.time, "monotonic", lambda: writer._committed + 2.1)
    writer.tick()
    assert seen() == 1011


def test_a_row_is_never_written_twice(writer):
    writer.add(rows([1]))
    with pytest.raises(sqlite3.IntegrityError):
        writer.add(rows([1]))


def add_all(writer, trials):
    """Add rows ten at a time, as chunks come in."""
    for first in trials[::10]:
        writer.add(rows(range(first, first + 10)))


def counted(out):
    """Rows by the rows themselves, and by the tally."""
    connection = store.connect(out / store.FILE)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return connection.execute("SELECT count(*) FROM trial").fetchone()[0], Results.open(out).counts()[0]
    finally:
        connection.close()


def test_a_full_disk_leaves_rows_and_tally_in_step(writer, tmp_path):
    writer.add(rows(range(2000)))
    pages = writer.connection.execute("PRAGMA page_count").fetchone()[0]
    writer.connection.execute(f"PRAGMA max_page_count = {pages + 3}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        add_all(writer, range(2000, 9000))
    writer.set_meta(progress={})
    writer.close()
    there, told = counted(tmp_path / "run")
    assert there == told >= 2000


@pytest.mark.parametrize(("where", "moment"), [("_count", 0), ("_count", 1), ("row_hash", 0), ("row_hash", 40)])
def test_an_interruption_in_the_writer_leaves_rows_and_tally_in_step(writer, tmp_path, monkeypatch, where, moment):
    writer.add(rows(range(1200)))
    place = writer if where == "_count" else writing
    calls, ordinary = iter(range(moment)), getattr(place, where)

    def interrupted(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return ordinary(*arguments)

    monkeypatch.setattr(place, where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        add_all(writer, range(1200, 1300))
    writer.close()
    assert counted(tmp_path / "run") == (1200, 1200)


def test_one_writer_many_readers(writer, tmp_path):
    writer.add(rows(range(3)))
    writer.commit()
    with pytest.raises(InputError, match="another process is writing"):
        Writer(tmp_path / "run", build(), build().metrics, lambda file: {})
    assert Results.open(tmp_path / "run").counts() == (3, 0)
    assert status(tmp_path / "run")["running"]


def test_a_copy_of_a_store_in_use_can_be_read(writer, tmp_path):
    writer.add(rows(range(1500)))
    writer.add(rows([2000]))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert status(tmp_path / "copy")["rows"] == 1500
    assert not status(tmp_path / "copy")["running"]


def test_a_finished_store_is_one_file_readable_from_a_read_only_folder(tmp_path):
    results = run(build(), tmp_path / "a", backend="inline")
    assert sorted(p.name for p in results.path.iterdir()) == [
        ".lock",
        "manifest.json",
        "results.sqlite",
        "study.json",
    ]
    shutil.copy(results.file, tmp_path / "alone ü.sqlite")
    assert Results.open(tmp_path / "alone ü.sqlite").frame().equals(results.frame())
    assert status(tmp_path / "alone ü.sqlite")["missing"] == 0
    with sqlite3.connect(results.file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_store_in_write_ahead_mode_is_read_where_nothing_may_be_written(writer, tmp_path):
    writer.add(rows(range(3)))
    writer.commit()
    writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "run" / store.FILE, tmp_path / "copy")
    with pytest.raises(InputError, match="a copy that was made while a run was writing, without its log"):
        status(tmp_path / "copy")
    for left in ("-wal", "-shm"):
        (tmp_path / "copy" / f"{store.FILE}{left}").unlink(missing_ok=True)
    writer.set_meta(open=False)
    writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(tmp_path / "run" / store.FILE, tmp_path / "copy")
    (tmp_path / "copy" / f"{store.FILE}-shm").mkdir()  # where SQLite would put its index
    connection = store.connect(tmp_path / "copy" / store.FILE)
    assert connection.execute("SELECT count(*) FROM trial").fetchone() == (3,)
    connection.close()


def test_what_is_no_store_is_refused(tmp_path, writer):
    writer.close()
    good = tmp_path / "run" / store.FILE
    foreign, text, newer, cut = (tmp_path / name for name in ("f.sqlite", "t.sqlite", "n.sqlite", "c.sqlite"))
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE x (y)")
    connection.commit()
    connection.close()
    text.write_text("nothing of the kind " * 100)
    shutil.copy(good, newer)
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    cut.write_bytes(good.read_bytes()[:5000])
    for path, message in (
        (tmp_path / "nowhere", "no results at"),
        (tmp_path, "no results at"),
        (foreign, "no store of colora_theory"),
        (text, "cannot be opened"),
        (newer, "store version 99"),
        (cut, "cannot be (opened|read)"),
    ):
        with pytest.raises(InputError, match=message):
            Results.open(path).counts()
        with pytest.raises(InputError, match=message):
            status(path)


def test_a_store_without_a_study_is_refused(tmp_path, writer):
    writer.connection.execute("DELETE FROM meta")
    with pytest.raises(InputError, match="damaged"):
        Results.open(tmp_path / "run")
    with pytest.raises(InputError, match="damaged"):
        status(tmp_path / "run")


def test_folders_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write to"):
        run(build(), tmp_path / "file" / "a", backend="inline")


def test_summary_and_tally_agree_with_the_frame(tmp_path):
    study = build(
        estimator=[{"name": "fake_raises"}, {"name": "full_finetuning"}], run={"trials": 40, "batch": 10}
    )
    results = run(study, tmp_path / "a", backend="inline")
    frame, summary, tally = results.frame(), results.summary(), results.tally()
    assert len(summary) == 2 * 2 * 2
    for row in summary.itertuples():
        part = frame.query("num_users == @row.num_users and estimator == @row.estimator and metric == @row.metric")
        assert row.rows == 40
        assert row.failures == (part.status == "failed").sum()
        assert row.n == part.value.count()
        if row.n:
            assert row.mean == pytest.approx(part.value.mean(), rel=1e-13)
            assert row.std == pytest.approx(part.value.std(), rel=1e-9, abs=1e-18)
            assert row.mcse == pytest.approx(part.value.sem(), rel=1e-9, abs=1e-18)
            n, mean, m2 = tally[row.cell, row.estimator][row.metric]
            assert (n, mean) == (row.n, pytest.approx(row.mean, rel=1e-12))
            assert np.sqrt(m2 / (n - 1)) == pytest.approx(row.std, rel=1e-9, abs=1e-15)
    merged = merge([tmp_path / "a"], tmp_path / "m")
    for key, names in merged.tally().items():
        assert names.keys() == tally[key].keys()
        for name, moments in names.items():
            assert moments == pytest.approx(tally[key][name], rel=1e-9, abs=1e-15)
    failures = results.failures()
    assert len(failures) == results.counts()[1] == summary.query("metric == 'parameter_error'").failures.sum()
    assert set(failures.message) == {"ZeroDivisionError: no luck"}
    assert results.failure_messages() == [("fake_raises: failed: ZeroDivisionError: no luck", len(failures))]
    assert "small" in repr(results)
    text = as_text(status(tmp_path / "a"))
    assert f"{len(failures)} failed" in text


def test_status_tells_what_is_missing(tmp_path):
    run(build(), tmp_path / "a", backend="inline")
    run(build(run={"trials": 30}), tmp_path / "a", backend="inline", shard="1/3")
    state = status(tmp_path / "a")
    assert state["rows"] == 48 + 2 * 2 * 6
    assert state["missing"] == 2 * 2 * 30 - state["rows"]
    assert not state["running"]
    assert state["cells"][0]["varied"] == {"num_users": 3}
    assert state["cells"][0]["metrics"]["subspace_distance"]["mcse"] is None
    assert "not running" in as_text(state)


def test_shards_of_other_studies_and_contradictions_are_refused(tmp_path):
    a = run(build(), tmp_path / "a", backend="inline", shard=(0, 2)).path
    other = run(build(seed=8), tmp_path / "other", backend="inline", shard=(1, 2)).path
    more = run(build(estimator=[{"name": "fake_noise"}]), tmp_path / "more", backend="inline").path
    for shards, out in (([a, other], "m"), ([a, more], "m"), ([more, a], "m"), ([other], "a")):
        with pytest.raises(InputError, match="different studies"):
            merge(shards, tmp_path / out)
    assert not (tmp_path / "m").exists()
    with pytest.raises(InputError, match="at least one source"):
        merge([], tmp_path / "m")
    shutil.copytree(a, tmp_path / "forged")
    connection = sqlite3.connect(tmp_path / "forged" / store.FILE)
    connection.execute("UPDATE trial SET parameter_error = parameter_error + 1e-9 WHERE trial = 2")
    connection.commit()
    connection.close()
    merge([a], tmp_path / "m")
    with pytest.raises(InputError, match=r"forged is damaged: the rows of .* are not those that were written"):
        merge([tmp_path / "forged"], tmp_path / "m")
    connection = sqlite3.connect(tmp_path / "forged" / store.FILE)
    connection.execute("DROP TABLE checksum")  # as in a store of version 0.1
    connection.commit()
    connection.close()
    with pytest.raises(InputError, match=r"trial 2 in .*forged contradicts"):
        merge([tmp_path / "forged"], tmp_path / "m")
    assert Results.open(tmp_path / "m").frame().equals(Results.open(a).frame())


def test_seconds_never_contradict(tmp_path):
    study = build(metrics={"use": ["seconds", "parameter_error"]})
    shards = [run(study, tmp_path / name, backend="inline").path for name in "ab"]
    assert merge(shards, tmp_path / "m").counts() == (48, 0)


def test_exports_read_back(tmp_path):
    import pandas as pd

    problem = {"num_samples": 6, "dim_in": 5, "dim_out": 2, "num_users": 4}
    study = build(grid={"rank": [2, [2, 1], [3, 2]]}, problem=problem)
    results = run(study, tmp_path / "a", backend="inline")
    export(results, "frame", tmp_path / "x.csv", os.devnull)
    export(results, "frame", tmp_path / "x.parquet", os.devnull)
    read = pd.read_csv(tmp_path / "x.csv", converters={"value": lambda text: float(text or "nan")})
    assert read.value.equals(results.frame().value)
    assert pd.read_parquet(tmp_path / "x.parquet").value.equals(results.frame().value)
    assert set(read["rank"]) == {"2", "(2, 1)", "(3, 2)"}
    export(results, "summary", tmp_path / "s.csv", os.devnull)
    for out, message in ((tmp_path / "x.txt", "must end in"), (tmp_path / "no" / "x.csv", "cannot write")):
        with pytest.raises(InputError, match=message):
            export(results, "frame", out, os.devnull)


def test_an_empty_store_has_an_empty_frame(writer, tmp_path):
    results = Results.open(tmp_path / "run")
    assert results.frame().empty
    assert results.summary().n.sum() == 0
    assert results.frame(cell_id=True).columns[0] == "cell"
    assert results.failures().empty


def test_shards_of_other_grids_are_refused_even_where_one_holds_the_other(tmp_path):
    """A run may go on with a larger grid; shards of two grids are two studies."""
    small = run(build(grid={"num_users": [3]}), tmp_path / "small", backend="inline", shard=(0, 2)).path
    large = run(build(grid={"num_users": [3, 6]}), tmp_path / "large", backend="inline", shard=(1, 2)).path
    with pytest.raises(InputError, match="different studies"):
        merge([small, large], tmp_path / "m")


def test_time_left_is_trials_left_times_seconds_of_one(writer, tmp_path):
    writer.set_meta(progress={"seconds": 10.0, "trials": 5, "left": 20})
    state = status(tmp_path / "run")
    assert state["missing"] > 0
    assert state["seconds_left"] == 40.0


def test_one_trial_has_no_standard_error(tmp_path):
    run(build(run={"trials": 1}), tmp_path / "a", backend="inline")
    entry = status(tmp_path / "a")["cells"][0]["metrics"]["parameter_error"]
    assert entry["n"] == 1
    assert np.isfinite(entry["mean"])
    assert entry["mcse"] is None


@pytest.mark.parametrize("value", [1.5e308, -1.7e308, 3.0, 0, None, float("inf")])
def test_a_row_is_hashed_by_the_bits_of_its_numbers(value):
    """By the definition in words: lengths and texts, then little-endian doubles, n for nothing, else its text."""
    said = b"".join(len(t).to_bytes(4, "little") + t for t in (b"cell", b"estimator", b"7", b"converged", b""))
    if value is None:
        said += b"n"
    else:
        said += struct.pack("<d", value) if np.isfinite(value) else repr(value).encode()
    expected = int.from_bytes(blake2b(said, digest_size=8).digest(), "little")
    assert row_hash(("cell", "estimator", 7, "converged", "", value)) == expected


def test_texts_that_spreadsheets_would_run_are_marked():
    frame = pd.DataFrame({"label": ["=1+1", "a=b", "@x", "-y", "plain"], "number": [1.0, -2.0, 3.0, 4.0, 5.0]})
    for kind in ("object", "str"):
        table = frame.astype({"label": kind})
        study = SimpleNamespace(cells=[SimpleNamespace(varied={})])
        out = io.StringIO()
        export(SimpleNamespace(study=study, frame=lambda table=table: table), "frame", None, out)
        back = pd.read_csv(io.StringIO(out.getvalue()))
        assert back["label"].tolist() == ["'=1+1", "a=b", "'@x", "'-y", "plain"]
        assert back["number"].tolist() == frame["number"].tolist()


def test_a_stored_study_opens_though_its_figures_would_be_refused_now(tmp_path):
    """What the figures of older stores need is asked when they are drawn, not when they are opened."""
    figure = {"kind": "curve", "x": "num_users", "y": "parameter_error", "file": "same"}
    path = run(build(figure=[figure]), tmp_path / "a", backend="inline").path
    connection = sqlite3.connect(path / store.FILE)
    ((text,),) = connection.execute("SELECT value FROM meta WHERE key = 'study'").fetchall()
    table = json.loads(text)
    table["figure"] = table["figure"] * 2
    connection.execute("UPDATE meta SET value = ? WHERE key = 'study'", (json.dumps(table),))
    connection.commit()
    connection.close()
    assert [each.file for each in Results.open(path).study.figures] == ["same", "same"]
    with pytest.raises(InputError, match="another figure of this study is called"):
        build(figure=[figure, figure])


def test_arrays_are_read_without_running_anything():
    out = io.BytesIO()
    np.savez(out, objects=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_npz(out.getvalue())
    found = read_npz(written_npz({"x": np.arange(3.0), "n": np.array(["ä"])}))
    assert found["x"].tolist() == [0.0, 1.0, 2.0]
    assert found["n"].tolist() == ["ä"]
