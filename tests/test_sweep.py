"""Running studies: the same frame however it is computed, resuming, stopping, refusing."""

from __future__ import annotations

import itertools
import json
import math
import signal
import sqlite3
from concurrent.futures import Future

import engine_fakes
import numpy as np
import pandas as pd
import pytest

from colora_theory.engine import memory, trial
from colora_theory.engine import plan as planning
from colora_theory.engine import run as sweep
from colora_theory.engine.plan import as_text as plan_text
from colora_theory.engine.plan import plan
from colora_theory.engine.reproduce import reproduce
from colora_theory.engine.run import run
from colora_theory.engine.schedule import Schedule, Shard
from colora_theory.engine.trial import Recipe, Segment, run_chunk
from colora_theory.errors import InputError
from colora_theory.model import memory as free_memory
from colora_theory.model import sampling, truth
from colora_theory.model.problem import Problem
from colora_theory.results.merge import merge
from colora_theory.results.moments import Moments
from colora_theory.results.results import Results
from colora_theory.results.rows import Row
from colora_theory.results.status import status
from colora_theory.studies.run_options import RunTable, TargetTable, deciding, judged
from colora_theory.studies.study import Study


@pytest.fixture(autouse=True)
def fakes():
    engine_fakes.register()
    yield
    engine_fakes.unregister()


def build(**changes):
    return Study.from_dict(engine_fakes.study(**changes))


def same(first, second):
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_frame_is_tidy_and_complete(tmp_path):
    study = build(metrics={"use": ["parameter_error", "subspace_distance", "sweeps"]})
    frame = run(study, tmp_path / "a", backend="inline").frame()
    assert list(frame) == ["num_users", "trial", "estimator", "metric", "value", "status"]
    assert len(frame) == 2 * 12 * 2 * 3
    assert not frame.duplicated(["num_users", "trial", "estimator", "metric"]).any()
    noise = frame[frame.estimator == "fake_noise"]
    assert (noise.value[noise.metric == "sweeps"] == 3).all()
    assert noise.value[noise.metric == "subspace_distance"].isna().all()  # it has no subspace
    assert set(noise.status) == {"converged"}


def test_numbers_are_those_of_the_same_streams_by_hand(tmp_path):
    study = build()
    frame = run(study, tmp_path / "a", backend="inline").frame()
    cell = study.cells[1]

    def stream(*key):
        return np.random.default_rng(np.random.SeedSequence(7, spawn_key=key))

    for t in (0, 11):
        w = truth.sample_truth(cell.problem, stream(0, *cell.words, t))
        sampling.sample_data(cell.problem, w, stream(1, *cell.words, t))
        guess = stream(2, *cell.words, *study.estimators[0].words, t).standard_normal((5, 5, 1))
        stored = frame.query("num_users == 5 and trial == @t and estimator == 'fake_noise'").value.iloc[0]
        assert stored == pytest.approx(float(((guess - w.weights) ** 2).sum()), rel=1e-12)


def test_no_stream_is_used_twice():
    study = build(grid={"num_users": [3, 5], "num_samples": [*range(5, 55)]}, problem={"dim_in": 5, "rank": 2})
    seen = {
        trial.stream(study.seed, s, *cell.words, *(study.estimators[0].words if s == 2 else ()), t).integers(2**63)
        for cell in study.cells
        for s in (0, 1, 2)
        for t in range(20)
    }
    assert len(seen) == 100 * 3 * 20


def test_jobs_backends_and_shards_do_not_matter(tmp_path):
    study = build(
        estimator=[
            {"name": "altmin"},
            {"name": "fake_noise"},
            {"name": "fake_raises"},
            {"name": "full_finetuning"},
        ]
    )
    inline = run(study, tmp_path / "inline", backend="inline")
    same(run(study, tmp_path / "one").frame(), inline.frame())
    same(run(study, tmp_path / "two", n_jobs=2).frame(), inline.frame())
    shards = [run(study, tmp_path / f"s{i}", shard=(i, 3), backend="inline").path for i in (0, 1, 2)]
    assert [Results.open(s).counts()[0] for s in shards] == [32, 32, 32]
    merged = merge(shards, tmp_path / "merged")
    same(merged.frame(), inline.frame())
    same(merge([*shards, tmp_path / "two"], tmp_path / "merged").frame(), inline.frame())
    same(merged.summary(), inline.summary())
    assert merged.manifest["shards"]


def test_a_grown_grid_more_trials_and_another_estimator_keep_the_old_rows(tmp_path):
    first = run(build(), tmp_path / "a", backend="inline").frame()
    more = build(
        grid={"num_users": [4, 5, 3]},
        run={"trials": 20},
        estimator=[{"name": "fake_raises"}, {"name": "fake_noise"}, {"name": "full_finetuning"}],
    )
    grown = run(more, tmp_path / "a", backend="inline")
    fresh = run(more, tmp_path / "b", backend="inline")
    same(grown.frame(), fresh.frame())
    assert grown.manifest["resumed"]
    keys = ["num_users", "trial", "estimator", "metric"]
    merged = first.merge(grown.frame(), on=keys, suffixes=("", "_new"))
    assert len(merged) == len(first)
    same(merged[[*keys, "value"]], merged[[*keys, "value_new"]].rename(columns={"value_new": "value"}))
    assert list(dict.fromkeys(grown.frame().num_users)) == [4, 5, 3]


def test_interrupted_studies_resume(tmp_path, monkeypatch):
    study = build(estimator=[{"name": "fake_sleeps", "params": {"seconds": 0.02}}, {"name": "fake_noise"}])
    whole = run(study, tmp_path / "whole", n_jobs=2).frame()
    chunks = iter(range(2))

    def interrupted(*args):
        if next(chunks, None) is None:
            raise KeyboardInterrupt
        return run_chunk(*args)

    monkeypatch.setattr(trial, "CHUNK_SECONDS", 0.05)
    monkeypatch.setattr(sweep, "run_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "a", backend="inline")
    assert 0 < Results.open(tmp_path / "a").counts()[0] < 48
    monkeypatch.setattr(sweep, "run_chunk", run_chunk)
    same(run(study, tmp_path / "a", n_jobs=2).frame(), whole)


def test_interrupting_drops_work_under_way(tmp_path):
    study = build(estimator=[{"name": "fake_sleeps", "params": {"seconds": 0.2}}], grid={"num_users": [3]})

    def ring(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(study, tmp_path / "a", n_jobs=2)
    finally:
        signal.signal(signal.SIGALRM, before)
    results = Results.open(tmp_path / "a")
    assert results.counts()[0] < 12
    same(run(study, tmp_path / "a", n_jobs=2).frame(), run(study, tmp_path / "b", n_jobs=2).frame())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "seed: 7 → 8"),
        ({"grid": {"num_users": [3]}}, r"grid.num_users: \[3, 5\] → \[3\]"),
        ({"problem": {"num_samples": 7, "dim_in": 5, "rank": 2, "noise_std": 0.1}}, "problem.num_samples: 6 → 7"),
        ({"metrics": {"use": ["parameter_error"]}}, "metrics.use"),
        ({"estimator": [{"name": "fake_noise"}]}, "estimator.full_finetuning: .* → nothing"),
        ({"estimator": [{"name": "fake_noise", "params": {"scale": 2.0}}, {"name": "full_finetuning"}]}, "scale"),
        ({"guarantee": [{"name": "fake_per_trial"}]}, "guarantee"),
        (
            {
                "seed": 1,
                "metrics": {"use": ["success"]},
                "grid": {"num_users": [3]},
                "estimator": [{"name": "altmin"}],
            },
            "and 2 more",
        ),
    ],
)
def test_a_changed_study_is_not_resumed(tmp_path, changes, message):
    run(build(), tmp_path / "a", backend="inline")
    before = (tmp_path / "a" / "results.sqlite").read_bytes()
    with pytest.raises(InputError, match=message):
        run(build(**changes), tmp_path / "a", backend="inline")
    assert (tmp_path / "a" / "results.sqlite").read_bytes() == before


def test_a_changed_version_is_resumed_only_when_told(tmp_path, monkeypatch):
    run(build(), tmp_path / "a", backend="inline")
    now = sweep.manifest(7)
    monkeypatch.setattr(sweep, "manifest", lambda seed: {**now, "numpy": "0.1"})
    with pytest.raises(InputError, match=r"numpy .* → 0.1.*--accept-version"):
        run(build(), tmp_path / "a", backend="inline")
    results = run(build(run={"trials": 13}), tmp_path / "a", backend="inline", accept_version=True)
    assert results.manifest["numpy"] == now["numpy"]
    assert results.manifest["resumed"][0]["numpy"] == "0.1"
    run(build(), tmp_path / "b", backend="inline")
    with pytest.raises(InputError, match="come from different versions: numpy"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_jobs": 0}, "n_jobs must be"),
        ({"n_jobs": True}, "n_jobs must be"),
        ({"shard": "3/2"}, "1 ≤ i ≤ N"),
        ({"shard": "a/b"}, "i/N"),
        ({"shard": "1"}, "i/N"),
        ({"backend": "ray"}, "backend must be one of"),
        ({"backend": "dask"}, "needs --scheduler"),
        ({"scheduler": "tcp://x"}, "needs --backend dask"),
        ({"backend": "dask", "scheduler": "tcp://127.0.0.1:9"}, "no Dask scheduler answers"),
    ],
)
def test_options_are_refused_before_anything_is_written(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr("colora_theory.engine.pools.CONNECT_SECONDS", 0.2)
    with pytest.raises(InputError, match=message):
        run(build(), tmp_path / "a", **options)
    assert not (tmp_path / "a").exists()


def test_a_problem_that_does_not_fit_is_refused_with_its_size(tmp_path):
    study = build(problem={"num_samples": 10**10, "dim_in": 50, "rank": 2})
    with pytest.raises(InputError, match=r"num_users = 3 needs .* TB of memory"):
        run(study, tmp_path / "a")
    with pytest.raises(InputError, match="num_users = 1000000000000 needs"):
        run(build(grid={"num_users": [10**12]}), tmp_path / "a")
    small = Problem(num_users=3, num_samples=10**10, dim_in=50, rank=2, sampling="sufficient")
    assert memory.trial_bytes(small) < 1e6
    assert memory.trial_bytes(small.replace(design="sensing", dim_out=2)) > memory.trial_bytes(small)
    assert memory.size(999.9e15) == "1e+03 PB"
    assert memory.size(12) == "12 B"


def test_free_memory_is_what_the_machine_and_the_container_leave(monkeypatch):
    told = {"/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    4000 kB\nMemFree: 1 kB\n"}
    monkeypatch.setattr(free_memory, "_read", lambda path: told.get(path, ""))
    assert free_memory.available_bytes() == 4000 * 1024
    group = {"/sys/fs/cgroup/memory.max": "3000000", "/sys/fs/cgroup/memory.current": "1000000"}
    told |= group
    assert free_memory.available_bytes() == 2_000_000
    told["/sys/fs/cgroup/memory.max"] = "max"
    assert free_memory.available_bytes() == 4000 * 1024


def test_every_worker_has_its_share_of_memory(monkeypatch):
    study = build()
    need = max(memory.bytes_of(cell) for cell in study.cells)
    monkeypatch.setattr(memory, "available_bytes", lambda: 3 * need)
    memory.check(study, 3)
    with pytest.raises(InputError, match=r"for each of 4 worker\(s\).*, or set sampling = 'sufficient'\."):
        memory.check(study, 4)
    few = build(problem={"num_samples": 60, "dim_in": 5, "rank": 1, "sampling": "sufficient"})
    with pytest.raises(InputError, match=r"use fewer workers\.$"):
        memory.check(few, 10**6)


def test_plan_needs_what_the_pilots_spread_says():
    """Values 8 … 12 have mean 10 and variance 2.5: (√2.5/level)² trials, rounded up."""
    absolute, relative = {"absolute": 0.6}, {"relative": 0.02}
    for target, trials in ((absolute, 7), (relative, 63)):
        run_table = {"trials": 500, "target_mcse": {"parameter_error": target}}
        study = build(estimator=[{"name": "fake_noise"}], run=run_table)
        recipe = Recipe.of(study)
        rest = (None,) * (len(recipe.columns) - 1)
        rows = [Row(0, 0, t, "converged", "", (v, *rest)) for t, v in enumerate([8.0, 9.0, 10.0, 11.0, 12.0])]
        assert recipe.columns[0] == "parameter_error"
        assert planning._needed(study, recipe, rows) == trials
        assert planning._needed(study, recipe, rows[:1] * 4) is None  # no spread seen is no spread known


def test_plan_divides_the_pilots_time(monkeypatch):
    study = build(run={"trials": 300})
    segment = Segment(0, study.cells[0].words, study.cells[0].problem, (0, 1, 2, 3), (0, 1))
    outcome = trial.Outcome([], 2.0, 4, [])

    class Pool:
        def submit(self, *_):
            done = Future()
            done.set_result(outcome)
            return done

        def collect(self, future):
            return future.result()

    assert planning._pilot(Pool(), Recipe.of(study), segment) == ([], 0.5)
    monkeypatch.setattr(planning, "_pilot", lambda pool, recipe, segment: ([], 0.5))
    found = plan(study, n_jobs=2)
    assert [cell["seconds"] for cell in found["cells"]] == [300 * 0.5 / 2] * 2


def test_cells_stop_at_batch_boundaries_whatever_the_workers(tmp_path):
    study = build(
        estimator=[{"name": "fake_noise"}, {"name": "full_finetuning"}],
        problem={"num_samples": 15, "dim_in": 5, "rank": 2, "noise_std": 0.1},
        run={
            "trials": 60,
            "batch": 10,
            "target_mcse": {"parameter_error": {"relative": 0.1}, "subspace_distance": {"absolute": 1.0}},
        },
    )
    one = run(study, tmp_path / "one", backend="inline")
    counts = one.frame().groupby("num_users").trial.nunique()
    assert set(counts % 10) == {0}
    assert counts.min() < 60
    summary = one.summary().query("metric == 'parameter_error'")
    done = summary[summary.n < 60]
    assert (done.mcse <= 0.15 * done["mean"]).all()  # every other trial decides for all of them
    same(run(study, tmp_path / "two", n_jobs=2).frame(), one.frame())
    shards = [run(study, tmp_path / f"s{i}", shard=f"{i}/2", backend="inline").path for i in (1, 2)]
    same(merge(shards, tmp_path / "m").frame(), one.frame())
    assert json.loads((tmp_path / "one" / "study.json").read_text())["run"]["batch"] == 10
    # Again: nothing to do, and the decisions are the same.
    same(run(study, tmp_path / "one", backend="inline").frame(), one.frame())


def test_a_run_ends_after_its_seconds_and_resumes(tmp_path, monkeypatch):
    whole = run(build(), tmp_path / "whole", backend="inline").frame()
    ticks = itertools.count()
    monkeypatch.setattr(sweep.time, "monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr(trial, "CHUNK_SECONDS", 0.0)  # one trial a chunk
    part = run(build(run={"trials": 12, "max_seconds": 20.0}), tmp_path / "part", backend="inline")
    monkeypatch.undo()
    assert 0 < len(part.frame()) < len(whole)
    assert status(part.path)["missing"] > 0
    same(run(build(), tmp_path / "part", backend="inline").frame(), whole)


def spread(*values):
    found = Moments()
    found.add(values)
    return found


@pytest.mark.parametrize(("half_width", "ends"), [(0.99, True), (1.01, False)])
def test_a_cell_ends_where_every_target_is_met(half_width, ends):
    """Of two values m ± h the standard error is h; half the trials decide, so √2 × the target is allowed."""
    table = RunTable(target_mcse={"success": TargetTable(absolute=0.5), "seconds": TargetTable(relative=0.1)})
    h = half_width * math.sqrt(2.0) * 0.5
    good, unknown = spread(9.9, 10.1), Moments()
    assert table.cell_ends([("success", spread(3 - h, 3 + h)), ("seconds", good), ("success", unknown)]) is ends
    h = half_width * math.sqrt(2.0) * 0.1 * 10
    assert table.cell_ends([("success", spread(3, 3)), ("seconds", spread(10 - h, 10 + h))]) is ends


def test_planned_trials_are_whole_batches():
    fixed, adaptive = (
        RunTable(trials=40),
        RunTable(trials=40, batch=10, target_mcse={"x": TargetTable(absolute=1.0)}),
    )
    assert [fixed.planned_trials(n) for n in (None, 3, 99)] == [40, 40, 40]
    assert [adaptive.planned_trials(n) for n in (None, 0, 10, 11, 99)] == [40, 10, 10, 20, 40]
    assert set(deciding(3, 9)) | {t for t in range(3, 9) if judged(t)} == set(range(3, 9))
    assert not any(judged(t) for t in deciding(0, 50))


def test_failures_are_allowed_as_a_number_or_as_a_share():
    assert RunTable(max_failures=1.0).allowed_failures(50) == 1
    assert RunTable(max_failures=7.0).allowed_failures(50) == 7
    assert RunTable(max_failures=0.1).allowed_failures(50) == 5


def test_moments_are_those_of_numpy():
    values = np.random.default_rng(0).normal(1e6, 1.0, 1000)
    moments = Moments()
    for start in range(0, 1000, 130):
        moments.add(values[start : start + 130].tolist())
    moments.add([])
    assert moments.mean == pytest.approx(values.mean(), rel=1e-14)
    assert moments.mcse == pytest.approx(values.std(ddof=1) / np.sqrt(1000), rel=1e-9)
    assert Moments().mcse == float("inf")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("grid", [[3, 5], [5, 4, 3]])
def test_shards_partition_the_trials(count, grid):
    study = build(grid={"num_users": grid})
    seen = []
    for index in range(count):
        schedule = Schedule(study, [[bytearray()] * 2 for _ in grid], Shard(index, count), 2, None)
        left = schedule.trials_left
        taken = 0
        while chunk := schedule.take():
            units = [(s.words, t) for s in chunk.segments for t in s.trials]
            seen += units
            taken += len(units)
        assert taken == left
    assert sorted(seen) == sorted((c.words, t) for c in study.cells for t in range(12))


def test_a_cell_is_asked_after_every_whole_batch():
    study = build(run={"trials": 35, "batch": 10}, grid={"num_users": [3]}, estimator=[{"name": "fake_noise"}])
    asked = []

    def finished(cell, stop):
        asked.append(stop)
        return False

    schedule = Schedule(study, [[bytearray()]], Shard(), 1, finished)
    while chunk := schedule.take():
        schedule.stored_now(Row(s.cell, 0, t, "converged", "", ()) for s in chunk.segments for t in s.trials)
    assert asked == [10, 20, 30, 35]


def test_per_trial_claims_are_stored_beside_the_metrics(tmp_path):
    study = build(guarantee=[{"name": "fake_per_trial", "estimator": "fake_noise"}], grid={"num_users": [3, 9]})
    results = run(study, tmp_path / "a", backend="inline")
    values = results.guarantee_values()
    assert list(values)[-4:] == ["guarantee", "claim", "observed", "status"]
    claims = values.groupby(["num_users", "estimator"]).claim.count()
    assert claims[3, "fake_noise"] == 12
    assert claims[9, "fake_noise"] == 0  # its hypotheses fail there
    assert claims[3, "full_finetuning"] == 0
    assert results.guarantee_values("fake_per_trial").observed.count() == 24
    assert "fake_per_trial" not in set(results.frame().metric)
    with pytest.raises(InputError, match="no values of guarantee 'x'"):
        results.guarantee_values("x")


def test_side_information_and_rank_come_from_the_trial(tmp_path):
    study = build(estimator=[{"name": "fake_oracle"}])
    recipe = Recipe.of(study)
    segment = Segment(0, study.cells[0].words, study.cells[0].problem, (0,), (0,))
    assert run_chunk(recipe, [segment], False).rows[0].message == "(5, 2) 2"


def test_a_chunk_gives_back_what_it_had_no_time_for():
    study = build(estimator=[{"name": "fake_sleeps", "params": {"seconds": 0.3}}])
    segments = [Segment(c, cell.words, cell.problem, (0, 1, 2), (0,)) for c, cell in enumerate(study.cells)]
    outcome = run_chunk(Recipe.of(study), segments)
    assert outcome.trials == 2
    assert [s.trials for s in outcome.left] == [(2,), (0, 1, 2)]


def test_reproduce_finds_the_same_and_the_different(tmp_path):
    results = run(build(), tmp_path / "a")
    cell = results.study.cells[1].id
    again = reproduce(results, cell[:6], 5)
    assert [e["estimator"] for e in again] == ["fake_noise", "full_finetuning"]
    assert all(e["same"] and e["exact"] for e in again)
    results.manifest["numpy"] = "0"
    assert all(e["same"] and not e["exact"] for e in reproduce(results, cell, 0))
    for wrong, number, message in (
        ("zz", 0, "exactly one cell"),
        ("", 0, "exactly one"),
        (cell, 99, "is not stored"),
    ):
        with pytest.raises(InputError, match=message):
            reproduce(results, wrong, number)


@pytest.mark.parametrize(
    ("factor", "exactly", "nearly"), [(1.0, True, True), (1 + 1e-9, False, True), (1.01, False, False)]
)
def test_reproduce_notices_one_number_that_is_another(tmp_path, factor, exactly, nearly):
    """Bitwise where machine and versions are those of the run, to 1e-6 elsewhere; times are not compared."""
    metrics = ["sweeps", "parameter_error", "seconds"]
    study = build(estimator=[{"name": "fake_noise"}], metrics={"use": metrics})
    results = run(study, tmp_path / "a")
    with sqlite3.connect(results.file) as connection:
        connection.execute("UPDATE trial SET parameter_error = parameter_error * ?, seconds = 1e6", (factor,))
    connection.close()
    cell = study.cells[0].id
    assert [e["same"] for e in reproduce(results, cell, 3)] == [exactly]
    results.manifest["numpy"] = "0"
    assert [e["same"] for e in reproduce(results, cell, 3)] == [nearly]


def test_plan_extrapolates(tmp_path):
    study = build(
        estimator=[{"name": "fake_sleeps", "params": {"seconds": 0.01}}, {"name": "full_finetuning"}],
        run={"trials": 500, "batch": 10, "target_mcse": {"parameter_error": {"relative": 0.2}}},
    )
    found = plan(study, pilot=20)
    for cell in found["cells"]:
        assert cell["seconds_per_trial"] >= 0.01
        assert cell["trials_planned"] == 10 * -(-cell["trials_needed"] // 10)
    assert "in all:" in plan_text(found)
    unknown = plan(build(estimator=[{"name": "fake_raises"}], metrics={"use": ["success"]}), pilot=2)
    assert unknown["cells"][0]["trials_planned"] == 12
    dying = plan(build(estimator=[{"name": "fake_kills"}], grid={"num_users": [3]}), pilot=2)
    assert dying["cells"][0]["seconds"] is None
    assert "died" in plan_text(dying)
