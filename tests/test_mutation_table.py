"""The mutation check cannot rot: every text it replaces is still there, once."""

from __future__ import annotations

from pathlib import Path

from mutation import run

import colora_theory


def test_every_mutation_still_applies() -> None:
    assert run.problems(Path(colora_theory.__file__).parent) == []
    assert len(run.mutations()) >= 160
    rooms = [files[0].relative_to(Path(colora_theory.__file__).parent).parts[0] for files in run.places().values()]
    assert {"model", "estimators", "guarantees", "verdicts", "engine"} <= set(rooms)
