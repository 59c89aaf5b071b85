"""Whatever the machine: thread counts change digits at most, nothing asks the network, type hints are shipped."""

from __future__ import annotations

import importlib.resources
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import draw
from test_estimators import make
from threadpoolctl import threadpool_info, threadpool_limits

import colora_theory as ct
from colora_theory.cli import main

#: Sums in another order: a few hundred roundings, and what an iteration makes of them.
TOLERANCE = 1e-9


def threads() -> int:
    return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")


@pytest.mark.parametrize("name", ["full_finetuning", "gauss_newton", "pooled_lora"])
def test_numbers_agree_across_blas_thread_counts(name: str) -> None:
    """Matrices large enough that BLAS shares them out; noiseless, so that iterations end at one point."""
    p = ct.Problem(num_users=6, num_samples=150, dim_in=100, dim_out=2, rank=2)
    truth, data = draw(p, 0)
    found = []
    for count in (1, 2):
        with threadpool_limits(limits=count, user_api="blas"):
            assert threads() == count
            found.append(make(name, p, truth).fit(data, np.random.default_rng(1)).weights)
    np.testing.assert_allclose(found[1], found[0], atol=TOLERANCE * np.abs(found[0]).max(), rtol=0.0)


def test_guarantees_agree_across_blas_thread_counts() -> None:
    p = ct.Problem(num_users=6, num_samples=150, dim_in=100, dim_out=2, rank=2, noise_std=0.1)
    truth, data = draw(p, 0)
    for name in ("cramer_rao", "cramer_rao_subspace", "genie_known_subspace"):
        values = []
        for count in (1, 2):
            with threadpool_limits(limits=count, user_api="blas"):
                values.append(ct.guarantees.get(name).value(p, truth=truth, data=data))
        assert values[0] == pytest.approx(values[1], rel=TOLERANCE)


def test_nothing_asks_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study from file to page while every way out is closed; that the doors are closed is checked too."""

    def closed(*arguments: object, **settings: object) -> None:
        raise AssertionError(f"the network was asked for {arguments}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, closed)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, closed)
    with pytest.raises(AssertionError, match="the network was asked"):
        socket.create_connection(("127.0.0.1", 9))
    study, run = tmp_path / "study.toml", tmp_path / "run"
    for arguments in (
        ["init", study],
        ["run", study, "--out", run, "--quick", "--backend", "inline", "--quiet"],
        ["status", run],
        ["check", run],
        ["export", run, "--out", tmp_path / "table.csv"],
        ["report", run, "-o", tmp_path / "page.html"],
        ["guarantees"],
        ["estimators"],
    ):
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exit_code in (0, 1), (arguments, result.output, result.exception)
        assert not isinstance(result.exception, AssertionError)


def test_type_hints_are_shipped() -> None:
    assert importlib.resources.files("colora_theory").joinpath("py.typed").is_file()


def test_a_script_that_ran_a_study_ends_without_a_word(tmp_path: Path) -> None:
    """Its worker processes are stopped at exit, where Python 3.12 and later start no thread."""
    script = f"""
import colora_theory as ct
study = ct.Study.from_dict({{"schema": 1, "name": "small", "seed": 1,
    "problem": {{"num_users": 3, "num_samples": 8, "dim_in": 3, "rank": 1}},
    "estimator": [{{"name": "full_finetuning"}}], "metrics": {{"use": ["parameter_error"]}},
    "run": {{"trials": 4}}}})
if __name__ == "__main__":
    print(ct.run(study, out={str(tmp_path / "run")!r}, n_jobs=2, quiet=True).counts())
"""
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "(4, 0)", "")
