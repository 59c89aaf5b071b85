"""The mutation check cannot rot: every text it replaces is still there, once."""

from __future__ import annotations

from mutation import run


def test_every_mutation_still_applies() -> None:
    assert run.problems() == []
    places = [m.file.partition("/")[0] for m in run.mutations()]
    assert len(places) >= 60
    assert len(places) - places.count("estimators") >= 40
