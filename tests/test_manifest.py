"""The manifest says what produced a number, also where there is neither git nor /proc."""

from __future__ import annotations

import subprocess
from pathlib import Path

from colora_theory.engine import machine as module
from colora_theory.engine.machine import manifest, same_numbers


def test_it_names_versions_blas_processor_and_commit():
    found = manifest(3)
    assert found["seed"] == 3
    assert all(
        found[key] for key in ("colora_theory", "python", "numpy", "scipy", "blas", "cpu", "platform", "started")
    )
    assert found["commit"] is None or len(found["commit"]) == 40


def test_without_git_and_proc_it_says_so(monkeypatch):
    def missing(*args, **kwargs):
        raise OSError("not here")

    monkeypatch.setattr(module.subprocess, "run", missing)
    monkeypatch.setattr(Path, "read_text", missing)
    found = manifest(3)
    assert (found["commit"], found["dirty"]) == (None, None)
    assert found["cpu"]


def test_a_foreign_checkout_is_not_taken_for_ours(monkeypatch):
    monkeypatch.setattr(
        module.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, stdout="", stderr="")
    )
    assert manifest(3)["commit"] is None


def test_a_commit_is_told_with_whether_the_tree_was_clean(monkeypatch):
    answers = {"ls-files": "__init__.py", "status": " M x", "rev-parse": "f" * 40}

    def git(command, **options):
        return subprocess.CompletedProcess(command, 0, stdout=answers[command[1]], stderr="")

    monkeypatch.setattr(module.subprocess, "run", git)
    found = manifest(3)
    assert (found["commit"], found["dirty"]) == ("f" * 40, True)


def test_bitwise_equality_is_promised_for_the_same_machine_and_versions_only():
    found = manifest(3)
    assert same_numbers(found, {**found, "started": "later", "commit": "other"})
    assert not same_numbers(found, {**found, "numpy": "0"})
