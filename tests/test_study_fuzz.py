"""Mutated studies are read or refused in one sentence: no traceback, no hang."""

from __future__ import annotations

import copy
import random

import engine_fakes
import pytest

from colora_theory.errors import InputError
from colora_theory.studies import templates
from colora_theory.studies.study import Study

VALUES = [
    None, 0, -1, 1, 2**70, 10**400, 1.5, float("nan"), float("inf"), 1e308, -0.0, 1e-320, True, "", "x", "altmin",
    "sensing", "sufficient", "\x00", [], [[]], [1, 2], [None], ["x"], [[1, 2], [3]], {}, {"a": 1}, {"": 0},
]  # fmt: skip
KEYS = [
    "rank",
    "noise_std",
    "dim_out",
    "design",
    "sampling",
    "covariates",
    "incoherence",
    "num_samples",
    "label",
    "x",
]
BASE = engine_fakes.study(
    title="a title",
    figure=[{"kind": "curve", "x": "num_users", "y": "parameter_error", "overlay": ["cramer_rao"]}],
    guarantee=[{"name": "cramer_rao", "delta": 0.1}],
    exclude=[{"where": {"num_users": 3}}],
    run={
        "trials": 3,
        "target_mcse": {"parameter_error": {"relative": 0.1}},
        "quick": {"trials": 2, "grid": {"num_users": [5]}},
    },
)


@pytest.fixture(autouse=True)
def fakes():
    engine_fakes.register()
    yield
    engine_fakes.unregister()


def paths(table, path=()):
    if path:
        yield path
    inside = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for key, value in inside:
        yield from paths(value, (*path, key))


def mutated(rng):
    study = copy.deepcopy(BASE)
    for _ in range(rng.choice([1, 1, 2, 3])):
        choices = list(paths(study))
        if not choices:
            break
        *path, last = rng.choice(choices)
        place = study
        for key in path:
            place = place[key]
        what = rng.random()
        if what < 0.6:
            place[last] = copy.deepcopy(rng.choice(VALUES))
        elif what < 0.8:
            del place[last]
        elif isinstance(place, dict):
            place[rng.choice(KEYS)] = copy.deepcopy(rng.choice(VALUES))
    return study


def one_sentence(action):
    try:
        action()
    except InputError as error:
        return 1 if "\n" not in str(error) else pytest.fail(str(error))
    return 0


def tables(cases, seed):
    rng = random.Random(seed)
    refused = sum(
        one_sentence(lambda: Study.from_dict(mutated(rng), quick=rng.random() < 0.3)) for _ in range(cases)
    )
    assert 0 < refused < cases


def files(cases, seed, folder):
    rng = random.Random(seed)
    file = folder / "study.toml"
    sources = []
    for name in templates.names():
        templates.write(folder / f"{name}.toml", name)
        sources.append((folder / f"{name}.toml").read_bytes())
    for _ in range(cases):
        text = bytearray(rng.choice(sources))
        for _ in range(rng.choice([1, 2, 5])):
            start = rng.randrange(len(text))
            stop = min(len(text), start + rng.choice([1, 1, 3, 40]))
            other = rng.choice(sources)
            at = rng.randrange(len(other))
            text[start:stop] = rng.choice([b"", bytes([rng.randrange(256)]), b"[", b"9" * 50, other[at : at + 30]])
        file.write_bytes(text)
        one_sentence(lambda: Study.from_toml(file))


def test_mutated_tables_are_read_or_refused():
    tables(500, seed=1)


def test_mutated_files_are_read_or_refused(tmp_path):
    files(150, seed=1, folder=tmp_path)


@pytest.mark.slow
def test_many_mutated_studies_are_read_or_refused(tmp_path):
    tables(20_000, seed=2)
    files(10_000, seed=2, folder=tmp_path)
