"""Tables of results and what the writer reads back, against the rows read one group at a time."""

from __future__ import annotations

import math
import statistics

import engine_fakes
import pytest

from colora_theory.engine.run import run
from colora_theory.results import store
from colora_theory.results import tables as reading
from colora_theory.results.results import Results
from colora_theory.results.rows import FAILURES, Row
from colora_theory.results.writer import Writer
from colora_theory.studies.study import Study


@pytest.fixture(autouse=True)
def fakes():
    engine_fakes.register()
    yield
    engine_fakes.unregister()


def study(users, noises, methods, trials):
    tables = engine_fakes.study(
        problem={"num_samples": 6, "dim_in": 5, "dim_out": 2},
        grid={"num_users": users, "noise_std": noises, "rank": [1, [2, 1]]},
        estimator=[{"name": name} for name in methods],
        run={"trials": trials},
    )
    return Study.from_dict(tables)


def stored(results, cell, label, columns):
    """Rows of one cell and estimator, asked for by themselves."""
    connection = store.connect(results.file)
    try:
        query = (
            f"SELECT {', '.join(columns)} FROM trial JOIN cell ON cell.id = trial.cell "
            "JOIN estimator ON estimator.id = trial.estimator "
            "WHERE cell.key = ? AND estimator.key = ? AND trial < ? ORDER BY trial"
        )
        most = results.study.run.most_trials
        return connection.execute(query, (cell.id, label, most)).fetchall()
    finally:
        connection.close()


@pytest.fixture
def results(tmp_path):
    """A grown study whose order is not that of the store, which shows fewer trials and methods than are stored."""
    first = study([3, 5], [0.1, 0.5], ["fake_raises", "fake_noise", "full_finetuning"], 7)
    run(first, tmp_path / "a", backend="inline")
    connection = store.connect(tmp_path / "a" / store.FILE, write=True)
    grown = study([7, 5, 3], [1, 0.5, 0.1], ["full_finetuning", "fake_raises"], 4)
    store.set_meta(connection, {"study": grown.resolved()})
    connection.close()
    return Results.open(tmp_path / "a")


def test_tables_hold_the_rows_of_every_group_in_the_order_of_the_study(results, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 5)
    metrics = results.study.metrics
    columns = ["trial", "status", "message", *map(store.quoted, metrics)]
    frame, summary, failures = [], [], []
    known = [cell for cell in results.study.cells if cell.problem.num_users < 7 and cell.problem.noise_std < 1]
    assert len(known) == 8
    for cell in known:
        for spec in results.study.estimators:
            rows = stored(results, cell, spec.label, columns)
            varied = tuple(cell.varied.values())
            for trial, status, message, *values in rows:
                for name, value in zip(metrics, values, strict=True):
                    frame.append((cell.id, *varied, trial, spec.label, name, value, status))
                if status in FAILURES:
                    failures.append((*varied, cell.id, trial, spec.label, status, message))
            for i, name in enumerate(metrics):
                values = [row[3 + i] for row in rows if row[3 + i] is not None]
                failed = sum(row[1] in FAILURES for row in rows)
                summary.append((cell.id, *varied, spec.label, name, len(values), values, len(rows), failed))
    found = results.frame(cell_id=True)
    assert found["trial"].dtype == found["num_users"].dtype == int
    assert [tuple(None if v != v else v for v in row) for row in found.itertuples(index=False)] == frame
    assert list(map(tuple, results.failures().itertuples(index=False))) == failures
    assert failures
    table = results.summary()
    for row, (*start, values, count, failed) in zip(table.itertuples(index=False), summary, strict=True):
        assert tuple(row)[: len(start)] == tuple(start)
        assert (row.rows, row.failures) == (count, failed)
        if len(values) > 1:
            spread = statistics.stdev(values)
            assert row.mean == pytest.approx(statistics.fmean(values), rel=1e-13)
            assert (row.std, row.mcse) == pytest.approx((spread, spread / math.sqrt(len(values))), rel=1e-12)


def test_a_store_without_rows_has_empty_tables(tmp_path):
    one = study([3], [0.1], ["fake_noise"], 2)
    about = {"study": one.resolved(), "manifest": {}, "quick": False}
    Writer(tmp_path / "a", one, one.metrics, lambda file: about).close()
    results = Results.open(tmp_path / "a")
    assert len(results.frame()) == len(results.failures()) == len(results.guarantee_values()) == 0
    assert list(results.summary()["n"]) == [0, 0] * len(one.metrics)
    assert results.summary()["mean"].isna().all()
    assert results.counts() == (0, 0)


def test_a_writer_goes_on_with_the_sums_of_the_writers_before_it(tmp_path):
    one = study([3, 5], [0.1], ["fake_noise", "fake_raises"], 60)
    about = {"study": one.resolved(), "manifest": {}, "quick": False}
    values = [math.sin(i) for i in range(60)]
    trials = [[*range(10), 12], range(30, 50), [11, *range(13, 20)]]
    for numbers in trials:
        writer = Writer(tmp_path / "a", one, one.metrics, lambda file: about)
        for cell in (1, 2):
            writer.add([Row(cell, 1, t, "converged", "", (values[t], None)) for t in numbers])
        writer.close()
    results = Results.open(tmp_path / "a")
    assert results.verify() == []
    assert results.counts() == (2 * sum(map(len, trials)), 0)
    there = sorted(t for numbers in trials for t in numbers)
    n, mean, m2 = results.tally()[one.cells[2].id, "fake_raises"][one.metrics[0]]
    seen = [values[t] for t in there]
    assert (n, mean, m2 / (n - 1)) == pytest.approx((len(seen), statistics.fmean(seen), statistics.variance(seen)))
    writer = Writer(tmp_path / "a", one, one.metrics, lambda file: about)
    marks = writer.stored(100)
    for most in (10, 12, 20):  # without the gaps beyond, and with some
        assert list(writer.stored(most)[1][1]) == [int(t in there) for t in range(most)]
    writer.close()
    assert [[list(mark) for mark in cell] for cell in marks] == [
        [[], [int(t in there) for t in range(50)] if cell in (1, 2) else []] for cell in range(len(one.cells))
    ]


def test_marks_of_trials_without_a_gap_begin_where_they_do(tmp_path):
    one = study([3], [0.1], ["fake_noise"], 9)
    about = {"study": one.resolved(), "manifest": {}, "quick": False}
    writer = Writer(tmp_path / "a", one, one.metrics, lambda file: about)
    writer.add([Row(0, 0, t, "converged", "", (1.0, None)) for t in (3, 4, 5)])
    writer.add([Row(1, 0, t, "converged", "", (1.0, None)) for t in (0, 1)])
    assert [list(mark) for (mark,) in writer.stored(100)] == [[0, 0, 0, 1, 1, 1], [1, 1]]
    writer.close()
