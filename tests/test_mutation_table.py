"""The mutation check cannot rot: every text it replaces is still there, once."""

from __future__ import annotations

from pathlib import Path

from mutation import run

import colora_theory


def test_every_mutation_still_applies() -> None:
    package = Path(colora_theory.__file__).parent
    assert run.problems(package) == []
    assert len(run.mutations()) >= 160
    rooms = [files[0].relative_to(package).parts[0] for files in run.places(package).values()]
    assert {"model", "estimators", "guarantees", "verdicts", "engine"} <= set(rooms)
