"""The mutation check cannot rot: every text it replaces is still there, once."""

from __future__ import annotations

from pathlib import Path

from mutation import run

import colora_theory


def test_every_mutation_still_applies() -> None:
    assert run.problems(Path(colora_theory.__file__).parent) == []
    places = [m.file.partition("/")[0] for m in run.mutations()]
    assert len(places) >= 60
    assert len(places) - places.count("estimators") >= 40
