"""Many small trials at once give the numbers that each gives alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import colora_theory as ct
from colora_theory.engine import stacked_trials
from colora_theory.engine.streams import DATA, TRUTH, stream, streams
from colora_theory.engine.trial import Recipe, Segment, batches, run_batch, run_trial
from colora_theory.estimators import base, stacked_model
from colora_theory.model import metrics, stacked_draws
from colora_theory.model.linalg import conjugate_gradients, haar
from colora_theory.results.rows import Row

METRICS = tuple(name for name in metrics.NAMES if metrics.stackable([name]))
METHODS = ("altmin", "gauss_newton", "spectral", "full_finetuning", "oracle_subspace")
PROBLEMS = [
    {"num_users": 20, "num_samples": 40, "dim_in": 20, "rank": 2, "noise_std": 0.1},
    {"num_users": 9, "num_samples": 30, "dim_in": 6, "rank": 1, "noise_std": 0.5, "core_distribution": "unit"},
    {"num_users": 30, "num_samples": [30, 50, 31], "dim_in": 10, "rank": 3, "noise_std": 0.2},
    {"num_users": 20, "num_samples": 25, "dim_in": 15, "rank": 3, "dim_out": 2, "noise_std": 0.1},
    {
        "num_users": 12,
        "num_samples": 40,
        "dim_in": 8,
        "rank": 4,
        "dim_out": 3,
        "noise_std": 1.0,
        "signal_norm": 3.0,
    },
    {"num_users": 20, "num_samples": 40, "dim_in": 20, "rank": 2, "noise_std": 0.1, "similarity_angle": 0.2},
    {"num_users": 5, "num_samples": 30, "dim_in": 30, "rank": 2, "noise_std": 0.3},  # some trials are hard
    {"num_users": 14, "num_samples": 4, "dim_in": 6, "rank": 2, "noise_std": 0.3},  # scarce: starts compete
    {"num_users": 10, "num_samples": 40, "dim_in": 8, "rank": 8, "noise_std": 0.3},  # nothing is shared
    {"num_users": 10, "num_samples": 40, "dim_in": 8, "rank": 2, "noise_std": 1e-6},  # interpolates nearly
    {"num_users": 10, "num_samples": 40, "dim_in": 8, "rank": 2, "noise_std": 1e5},  # noise alone
]


def segment_of(
    problem: dict, methods: tuple = METHODS, trials: int = 24, **study: object
) -> tuple[Recipe, Segment]:
    """The recipe of a study with one cell, and its segment."""
    made = ct.Study.from_dict(
        {
            "schema": 1,
            "name": "stacked",
            "title": "t",
            "claim": "c",
            "seed": 77,
            "problem": {k: v for k, v in problem.items() if k != "rank"},
            "grid": {"rank": [problem["rank"]]},
            "estimator": [each if isinstance(each, dict) else {"name": each} for each in methods],
            "metrics": {"use": list(METRICS)},
            "run": {"trials": trials},
            **study,
        }
    )
    cell = made.cells[0]
    chosen = tuple(range(len(made.estimators)))
    return Recipe.of(made), Segment(0, cell.words, cell.setting, tuple(range(trials)), chosen)


def one_by_one(recipe: Recipe, segment: Segment) -> list[Row]:
    with np.errstate(all="ignore"):
        return [row for trial in segment.trials for row in run_trial(recipe, segment, trial)]


def at_once(recipe: Recipe, segment: Segment) -> list[Row]:
    with np.errstate(all="ignore"):
        return stacked_trials.stacked_rows(recipe, segment)


def ordered(rows: list[Row]) -> dict[tuple[int, int], Row]:
    return {(row.trial, row.estimator): row for row in rows}


def numbers(recipe: Recipe, row: Row) -> dict[str, float | None]:
    return {n: v for n, v in zip(recipe.columns, row.values, strict=True) if n != "seconds"}


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**32 + 5, 271828182845904523536, 2**130 + 1])
@pytest.mark.parametrize("key", [(), (0,), (1, 2, 3), (2, 0, 2**32 - 1, 5, 2**40, 7, 8, 9, 10)])
def test_streams_are_those_of_numpy(seed: int, key: tuple[int, ...]) -> None:
    last = [0, 1, 7, 2**31, 2**32 - 1]
    for word, ours in zip(last, streams(seed, key, last), strict=True):
        theirs = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(*key, word)))
        assert ours.bit_generator.state == theirs.state
        assert ours.standard_normal() == stream(seed, *key, word).standard_normal()


@pytest.mark.parametrize("fields", PROBLEMS[:6])
def test_truths_and_moments_are_those_of_single_draws(fields: dict) -> None:
    problem = ct.Problem(**fields)
    assert stacked_draws.plain(problem)
    keys = ((TRUTH, 5), (DATA, 5))
    truth, moments = stacked_draws.draw_stack(problem, *(streams(3, key, range(6)) for key in keys))
    for t in range(6):
        alone = ct.sample_truth(problem, stream(3, *keys[0], t))
        data = ct.sample_data(problem, alone, stream(3, *keys[1], t))
        np.testing.assert_array_equal(truth.weights[t], alone.weights)
        np.testing.assert_array_equal(truth.input_subspace[t], alone.input_subspace)
        x, y = data.covariates, data.responses
        close = {"rtol": 1e-13, "atol": 1e-13 * float((y**2).sum())}
        np.testing.assert_allclose(moments.squares[t], np.einsum("kma,kmb->kab", x, x), **close)
        np.testing.assert_allclose(moments.cross[t], np.einsum("kma,kmb->kab", x, y), **close)
        for half, part in enumerate(data.split(2)):
            expected = np.einsum("kma,kmb->kab", part.covariates, part.responses)
            np.testing.assert_allclose(moments.halves[t, half], expected, **close)
        assert moments.energy[t] == pytest.approx((y**2).sum(), rel=1e-13)
        assert moments.counts.tolist() == data.counts.tolist()


@pytest.mark.parametrize("fields", PROBLEMS)
def test_numbers_are_those_of_trials_one_by_one(fields: dict) -> None:
    """Relative to the size of the metric in the cell 1e-12, with the same sweeps and statuses."""
    recipe, segment = segment_of(fields)
    assert stacked_trials.stack_size(recipe, segment)
    theirs, ours = ordered(one_by_one(recipe, segment)), ordered(at_once(recipe, segment))
    assert set(ours) <= set(theirs)
    for at, row in ours.items():
        assert (row.status, row.message) == (theirs[at].status, theirs[at].message) == ("converged", "")
        expected = numbers(recipe, theirs[at])
        for name, value in numbers(recipe, row).items():
            assert (value is None) == (expected[name] is None), name
            if value is not None:
                assert value == pytest.approx(expected[name], rel=1e-12, abs=1e-13), (name, at)
    with np.errstate(all="ignore"):
        everything = ordered(run_batch(recipe, segment))
    assert set(everything) == set(theirs)
    assert all(everything[at].status == theirs[at].status for at in theirs)


@pytest.mark.parametrize("fields", PROBLEMS[:6])
def test_ordinary_trials_are_done_at_once(fields: dict) -> None:
    recipe, segment = segment_of(fields)
    assert len(at_once(recipe, segment)) >= 0.95 * len(METHODS) * len(segment.trials)


def test_a_trial_does_not_depend_on_the_others_in_its_stack() -> None:
    """Bit for bit, so that results depend neither on the number of workers nor on interruptions."""
    for fields in PROBLEMS[:7]:
        recipe, segment = segment_of(fields, trials=20)
        whole = ordered(at_once(recipe, segment))
        for trials in ((3,), (19, 3), (0, 5, 7, 3, 11), tuple(range(3, 20))):
            part = ordered(at_once(recipe, replace(segment, trials=trials)))
            assert set(part) == {at for at in whole if at[0] in trials}
            for at, row in part.items():
                assert numbers(recipe, row) == numbers(recipe, whole[at])


def test_trials_that_are_left_open_hold_no_garbage() -> None:
    """They are measured with the others: garbage made the singular values of a whole stack fail now and then."""
    problem = ct.Problem(**PROBLEMS[9])
    _, moments = stacked_draws.draw_stack(problem, *(streams(3, (key,), range(6)) for key in (TRUTH, DATA)))
    with np.errstate(all="ignore"):
        found = base.get("altmin").from_params(rank=2).fit_stacked(moments)
    assert found is not None
    assert found.input_subspace is not None
    assert not found.done.any()
    assert not found.input_subspace.any()
    assert not found.weights.any()


def test_a_broken_trial_does_not_change_the_others_in_its_stack() -> None:
    """Singular rows, or values that are no numbers, in one trial leave the others done, to the last bit."""
    problem = ct.Problem(**PROBLEMS[0])
    _, moments = stacked_draws.draw_stack(problem, *(streams(3, (key,), range(6)) for key in (TRUTH, DATA)))
    for spoil in (0.0, np.inf, np.nan):
        squares = moments.squares.copy()
        squares[2, 1] *= spoil
        squares[4, 0, 1] = squares[4, 0, 0]
        spoiled = replace(moments, squares=squares)
        for rule in (*(base.get(name).from_params(rank=2) for name in METHODS[:2]), base.get(METHODS[3])()):
            with np.errstate(all="ignore"):
                expected, found = rule.fit_stacked(moments), rule.fit_stacked(spoiled)
            assert expected is not None
            assert found is not None
            assert expected.done.all()
            sound = [0, 1, 3, 5]
            assert found.done[sound].all()
            np.testing.assert_array_equal(found.weights[sound], expected.weights[sound])
            assert not found.done[2]


def test_parameters_of_the_stop_rule_are_followed() -> None:
    methods = (
        {"name": "altmin", "label": "fine", "params": {"noise_tol": 0.001}},
        {"name": "altmin", "label": "exact", "params": {"inner_tol": 0.0, "noise_tol": 0.01}},
        {"name": "altmin", "label": "given", "params": {"restarts": 0}},
        {"name": "gauss_newton", "label": "newton", "params": {"noise_tol": 0.001, "restarts": 0}},
        {"name": "altmin", "label": "rounding", "params": {"noise_tol": 0.0}},
        {"name": "altmin", "label": "short", "params": {"max_sweeps": 2}},
    )
    recipe, segment = segment_of(PROBLEMS[0], methods)
    theirs, ours = ordered(one_by_one(recipe, segment)), ordered(at_once(recipe, segment))
    for at, row in ours.items():
        for name, value in numbers(recipe, row).items():
            assert value == pytest.approx(numbers(recipe, theirs[at])[name], rel=1e-12, abs=1e-13)
    done = [sum(at[1] == index for at in ours) for index in range(len(methods))]
    assert min(done[:4]) >= 0.95 * len(segment.trials)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "altmin", "params": {"restarts": 2}},
        {"name": "altmin", "params": {"fresh_samples": True, "max_sweeps": 3}},
        {"name": "altmin", "params": {"core_penalty": 0.1}},
        {"name": "altmin", "params": {"start": "random"}},
        {"name": "altmin", "params": {"late_sweeps": 3}},
        {"name": "altmin", "params": {"rank": "auto"}},
        {"name": "altmin", "params": {"rank": 12}},  # equations of U that cost more than the calls
        {"name": "gauss_newton", "params": {"start": "second_moment"}},
        {"name": "spectral", "params": {"moment": "second_moment"}},
        {"name": "transfer"},
        {"name": "ridge"},
    ],
    ids=str,
)
def test_what_is_not_plain_is_left_to_the_ordinary_code(method: dict) -> None:
    recipe, segment = segment_of(PROBLEMS[0], (method,), trials=2)
    assert at_once(recipe, segment) == []
    with np.errstate(all="ignore"):
        rows = run_batch(recipe, segment)
    assert [numbers(recipe, row) for row in rows] == [numbers(recipe, row) for row in one_by_one(recipe, segment)]


def test_a_method_that_must_ask_exact_sweeps_is_left_to_the_ordinary_code() -> None:
    """Gauss–Newton where samples are few, with other starts or without."""
    methods = ({"name": "gauss_newton"}, {"name": "gauss_newton", "label": "alone", "params": {"restarts": 0}})
    recipe, segment = segment_of(PROBLEMS[7], methods, trials=4)
    assert stacked_trials.stack_size(recipe, segment)
    assert at_once(recipe, segment) == []


@pytest.mark.parametrize(
    "change",
    [
        {"noise_std": 0.0},
        {"covariates": "student_t"},
        {"covariates": "ar1"},
        {"sampling": "sufficient"},
        {"design": "sensing", "dim_out": 3},
        {"dim_out": 3},  # more outputs than the rank: V is not the identity
        {"pretrained_norm": 1.0},
        {"outlier_fraction": 0.2},
        {"intercept_std": 1.0},
        {"new_user_samples": 5},
        {"core_distribution": "orthogonal"},
        {"incoherence": 2.0},
        {"num_samples": 0},
        {"num_samples": (3, 0)},
        {"num_samples": (60, 29)},  # the rows that a fit looks at may be few
        {"num_users": 4, "num_samples": 11, "dim_in": 3},
        {"num_samples": 2000},
        {"num_users": 3, "num_samples": 20},  # too few rows to look isotropic
        {"num_users": 500, "dim_in": 50},
    ],
    ids=str,
)
def test_other_problems_are_drawn_one_by_one(change: dict) -> None:
    assert not stacked_draws.plain(ct.Problem(**{**PROBLEMS[0], **change}))


def test_guarantees_and_other_metrics_need_single_trials() -> None:
    recipe, segment = segment_of(PROBLEMS[0])
    assert stacked_trials.stack_size(recipe, segment) > 1
    asked = segment_of(PROBLEMS[0], metrics={"use": ["parameter_error", "coverage"]})
    assert stacked_trials.stack_size(*asked) == 0
    asked = segment_of(PROBLEMS[0], guarantee=[{"name": "oracle_inequality"}])
    assert stacked_trials.stack_size(*asked) == 0
    wide = segment_of({**PROBLEMS[0], "num_users": 10, "dim_in": 100, "num_samples": 60, "rank": 3})
    assert stacked_draws.plain(wide[1].setting)
    assert stacked_trials.stack_size(*wide) == 0
    hasty = replace(recipe, timeout=5.0)  # which a stack might not meet where a trial does
    assert stacked_trials.stack_size(hasty, segment) == 0


def test_an_error_among_trials_together_is_told_trial_by_trial(
    monkeypatch: pytest.MonkeyPatch, ran_one_by_one: list[str]
) -> None:
    recipe, segment = segment_of(PROBLEMS[0], ("altmin",), trials=3)
    expected = one_by_one(recipe, segment)

    def broken(*arguments: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(recipe.estimators[0].cls, "fit_stacked", broken)
    with np.errstate(all="ignore"):
        rows = run_batch(recipe, segment)
    assert ran_one_by_one == ["trials run one by one: ValueError: broken"]
    ran_one_by_one.clear()
    assert [numbers(recipe, row) for row in rows] == [numbers(recipe, row) for row in expected]


def test_batches_are_as_large_as_stacks_may_be() -> None:
    recipe, segment = segment_of(PROBLEMS[0], ("altmin",), trials=70)
    size = stacked_trials.stack_size(recipe, segment)
    assert 1 < size <= 64
    assert [len(each.trials) for each in batches(recipe, segment)] == [size, 70 - size]
    assert [trial for each in batches(recipe, segment) for trial in each.trials] == list(range(70))
    single = replace(recipe, metrics=("coverage",))
    assert [len(each.trials) for each in batches(single, replace(segment, trials=(4, 2)))] == [1, 1]


def test_inverses_of_small_matrices() -> None:
    """Against NumPy, for every size; what is nearly singular is said to be; the argument stays as it was."""
    rng = np.random.default_rng(1)
    for q in range(1, 9):
        half = rng.standard_normal((3, 5, q, q + 12))
        half[1, 2, -1] = half[1, 2, 0] * (1.0 + 1e-9) if q > 1 else 0.0
        stack = half @ half.swapaxes(2, 3)
        before = stack.copy()
        with np.errstate(all="ignore"):
            inverse, clear = stacked_model.inverses_of(stack)
        np.testing.assert_array_equal(stack, before)
        assert not clear[1, 2]
        assert clear.sum() >= 13
        np.testing.assert_allclose(inverse[clear], np.linalg.inv(stack[clear]), rtol=1e-9, atol=1e-11)


def test_conjugate_gradients_step_as_alone() -> None:
    """Every trial ends at its own tolerance, with the steps and the smallest Ritz value of a single solve."""
    rng = np.random.default_rng(2)
    t, d, r = 5, 6, 2
    half = rng.standard_normal((t, d * r, 3 * d * r))
    operator = half @ half.swapaxes(1, 2)
    right = rng.standard_normal((t, d, r))
    tol = np.array([0.3, 1e-2, 1e-5, 1e-12, 0.9])
    inverse = np.broadcast_to(np.diag([1.0, 0.5]), (t, r, r))
    with np.errstate(all="ignore"):
        ours = stacked_model.conjugate_gradients(operator, right, inverse, tol, 100)
    assert ours.sound.all()
    for i in range(t):

        def normal(change: np.ndarray, i: int = i) -> np.ndarray:
            return (operator[i] @ change.T.ravel()).reshape(r, d).T

        alone = conjugate_gradients(normal, right[i], lambda p: p @ inverse[0], float(tol[i]), 100)
        np.testing.assert_allclose(ours.solution[i], alone.solution, rtol=1e-9, atol=1e-12)
        assert ours.softest[i] == pytest.approx(alone.softest, rel=1e-6)


def test_a_direction_without_curvature_is_not_sound() -> None:
    operator = np.diag([1.0, 0.0, 2.0])[None]
    right = np.array([[[1.0], [1.0], [1.0]]])
    with np.errstate(all="ignore"):
        found = stacked_model.conjugate_gradients(operator, right, np.ones((1, 1, 1)), np.zeros(1), 10)
    assert not found.sound[0]


def test_metrics_of_a_stack_are_those_of_its_trials() -> None:
    rng = np.random.default_rng(3)
    problem = ct.Problem(num_users=4, num_samples=9, dim_in=5, rank=2, noise_std=0.1)
    truths = [ct.sample_truth(problem, rng) for _ in range(3)]
    estimates = [(rng.standard_normal((4, 5, 1)), haar(rng, 5, 2)) for _ in truths]
    fits = [base.Fit(status="converged", dense=w, input_subspace=u) for w, u in estimates]
    stacked = ct.Truth(
        **{
            name: np.stack([getattr(each, name) for each in truths])
            for name in ("input_subspace", "output_subspace", "cores")
        }
    )
    done = np.ones(3, dtype=bool)
    weights, bases = (np.stack(parts) for parts in zip(*estimates, strict=True))
    fit = base.StackedFit(weights, bases, np.zeros(3, dtype=int), done)
    ours = metrics.evaluate_stacked(METRICS, problem, stacked, fit)
    assert len(ours) >= 7
    for t in range(3):
        alone = metrics.evaluate(METRICS, problem, truths[t], fits[t])
        for name, values in ours.items():
            assert values[t] == pytest.approx(alone[name], rel=1e-13)
