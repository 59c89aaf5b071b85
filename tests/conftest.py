"""Shared by all tests: problems of many shapes, and one way to draw them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np
import pytest
from hypothesis import settings

import colora_theory as ct

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

#: Problems of every design and shape: vector, several outputs, sensing, unequal ranks and counts, few samples.
SHAPES = {
    "vector": {"num_users": 15, "num_samples": 20, "dim_in": 12, "rank": 3},
    "vector, n < d": {"num_users": 30, "num_samples": 14, "dim_in": 25, "rank": 2},
    "two outputs": {"num_users": 9, "num_samples": 18, "dim_in": 10, "dim_out": 2, "rank": 2},
    "unequal ranks": {"num_users": 12, "num_samples": 20, "dim_in": 11, "dim_out": 5, "rank": (4, 2)},
    "unequal counts": {"num_users": 14, "num_samples": (16, 40, 25), "dim_in": 10, "dim_out": 3, "rank": 2},
    "sensing": {
        "num_users": 10,
        "num_samples": 50,
        "dim_in": 8,
        "dim_out": 6,
        "rank": (3, 2),
        "design": "sensing",
    },
    "sensing, unequal counts": {
        "num_users": 12,
        "num_samples": (30, 55),
        "dim_in": 7,
        "dim_out": 4,
        "rank": 2,
        "design": "sensing",
    },
}


@pytest.fixture(params=list(SHAPES))
def shape(request: pytest.FixtureRequest) -> dict[str, object]:
    """Keyword arguments of one Problem of SHAPES."""
    return dict(SHAPES[request.param])


@pytest.fixture(autouse=True)
def ran_one_by_one() -> Iterator[list[str]]:
    """What made trials of this process run one by one that could run together: in a test that does not say so, a
    defect that would cost users time and nobody would see.
    """
    log = logging.getLogger("colora_theory.engine.trial")
    told: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    before = log.level
    log.addHandler(listener)
    log.setLevel(logging.DEBUG)
    yield told
    log.removeHandler(listener)
    log.setLevel(before)
    assert not told


def draw(problem: ct.Problem, seed: int) -> tuple[ct.Truth, ct.Dataset]:
    """One truth and one data set, from streams of their own ([seed, 0] would be the stream of `seed` itself)."""
    truth = ct.sample_truth(problem, np.random.default_rng([seed, 1]))
    return truth, ct.sample_data(problem, truth, np.random.default_rng([seed, 2]))
