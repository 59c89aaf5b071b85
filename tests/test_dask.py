"""A real Dask scheduler with two worker processes on loopback: the same frame, also when a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
import time

import dask
import engine_fakes
import pandas as pd
import pytest
from distributed import Client, LocalCluster

from colora_theory.engine import pools
from colora_theory.engine.run import run
from colora_theory.errors import EngineError, InputError
from colora_theory.results.results import Results
from colora_theory.results.status import status
from colora_theory.studies.study import Study


@pytest.fixture(autouse=True, scope="module")
def patience():
    """Dask's own clusters drop a worker that takes 15 s to start again, which a loaded machine does."""
    patient = {"distributed.deploy.lost-worker-timeout": "1h", "distributed.comm.timeouts.connect": "300s"}
    with dask.config.set(patient):
        yield


@pytest.fixture(autouse=True)
def fakes():
    engine_fakes.register()
    yield
    engine_fakes.unregister()


@pytest.fixture(scope="module")
def cluster(patience):
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", host="127.0.0.1"
    ) as cluster:
        yield cluster


def build(**changes):
    return Study.from_dict(engine_fakes.study(**changes))


def test_dask_gives_the_frame_of_a_local_run(cluster, tmp_path):
    study = build(estimator=[{"name": "altmin"}, {"name": "fake_noise"}, {"name": "fake_raises"}])
    dask = run(study, tmp_path / "dask", backend="dask", scheduler=cluster.scheduler_address)
    local = run(study, tmp_path / "local", backend="inline")
    pd.testing.assert_frame_equal(dask.frame(), local.frame(), check_exact=True)


def test_a_dask_worker_killed_in_the_middle_costs_nothing(cluster, tmp_path):
    study = build(estimator=[{"name": "fake_sleeps", "params": {"seconds": 0.1}}, {"name": "fake_noise"}])
    killed = []

    def kill():
        with Client(cluster.scheduler_address, set_as_default=False) as client:
            while not (tmp_path / "dask" / "results.sqlite").exists():
                time.sleep(0.05)
            time.sleep(0.7)
            pids = list(client.run(os.getpid).values())
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])

    thread = threading.Thread(target=kill)
    thread.start()
    dask = run(study, tmp_path / "dask", backend="dask", scheduler=cluster.scheduler_address)
    thread.join()
    assert killed
    assert dask.counts() == (48, 0)
    local = run(study, tmp_path / "local", n_jobs=2)
    pd.testing.assert_frame_equal(dask.frame(), local.frame(), check_exact=True)


def test_a_fit_that_kills_dask_workers_becomes_a_row(cluster, tmp_path):
    study = build(
        estimator=[{"name": "fake_kills"}, {"name": "fake_noise"}], run={"trials": 1}, grid={"num_users": [3]}
    )
    results = run(study, tmp_path / "a", backend="dask", scheduler=cluster.scheduler_address)
    assert results.failures().status.tolist() == ["crashed"]
    assert results.counts() == (2, 1)


def stored(folder):
    """Rows stored so far; none where there is no store yet."""
    try:
        return status(folder)["rows"]
    except InputError:
        return 0


def test_a_lost_scheduler_ends_the_run_and_keeps_the_rows(tmp_path):
    study = build(estimator=[{"name": "fake_sleeps", "params": {"seconds": 0.2}}], run={"trials": 200})
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0", host="127.0.0.1"
    )

    def close_after_the_first_row():
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            if stored(tmp_path / "a"):
                break
            time.sleep(0.1)
        cluster.close()

    thread = threading.Thread(target=close_after_the_first_row)
    thread.start()
    try:
        with pytest.raises(EngineError, match="Dask"):
            run(study, tmp_path / "a", backend="dask", scheduler=cluster.scheduler_address)
    finally:
        thread.join()
        cluster.close()
    assert 0 < Results.open(tmp_path / "a").counts()[0] < 400


def test_a_cluster_without_workers_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "WORKERLESS_SECONDS", 1.0)
    with (
        LocalCluster(n_workers=0, dashboard_address=":0", host="127.0.0.1") as empty,
        pytest.raises(EngineError, match="has had no worker for 1 s; everything finished is stored"),
    ):
        run(build(), tmp_path / "a", backend="dask", scheduler=empty.scheduler_address)
    assert stored(tmp_path / "a") == 0
