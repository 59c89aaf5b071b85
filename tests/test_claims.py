"""Counterexamples to claims that once passed their hypotheses: each kept with what is right to say about it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import draw

import colora_theory as ct
from colora_theory.estimators.base import Fit
from colora_theory.guarantees.counting import spare_equations
from colora_theory.guarantees.tangent import inverse_root, tangent_system
from colora_theory.verdicts.check import inapplicable

get = ct.guarantees.get


def altmin(problem: ct.Problem, seed: int, **params: object) -> tuple[ct.Truth, ct.Dataset, Fit]:
    truth, data = draw(problem, seed)
    fit = ct.estimators.get("altmin")(**{"rank": problem.rank, **params}).fit(data, np.random.default_rng(seed))
    return truth, data, fit


# --- counting ----------------------------------------------------------------


def test_rich_users_make_up_for_poor_ones() -> None:
    """The common threshold, 18 samples, says nothing about the poorest of unequal users."""
    problem = ct.Problem(num_users=20, num_samples=(5, 60), dim_in=100, rank=3)
    counting = get("counting")
    assert counting.value(problem.replace(num_samples=5)) == 18
    assert counting.value(problem) <= 5
    assert "too few samples" in inapplicable(counting, problem)
    truth, data, fit = altmin(problem, 0)
    assert ct.subspace_distance(fit.input_subspace, truth.input_subspace) < 1e-6
    assert math.isnan(counting.value(problem, truth=truth, data=data, fit=fit))
    assert tangent_system(truth, data).identifiable


@pytest.mark.parametrize("counts", [(2, 9), (1, 2, 30), (0, 12), (3, 3, 50), (4, 7)])
@pytest.mark.parametrize(
    "fields",
    [
        {"dim_in": 9, "rank": 2},
        {"dim_in": 7, "dim_out": 4, "rank": (1, 3)},
        {"dim_in": 8, "dim_out": 3, "rank": (3, 2)},
        {"dim_in": 6, "dim_out": 5, "rank": 2, "design": "sensing"},
    ],
)
def test_the_blockwise_threshold_is_where_the_shared_part_can_be_regular(
    counts: tuple[int, ...], fields: dict[str, object]
) -> None:
    """Shifting all counts: singular below the value, regular at it unless a user lacks samples for its core."""
    problem = ct.Problem(num_users=6, num_samples=counts, **fields)
    value = int(get("counting").value(problem))
    for shift in (value - min(counts) - 1, value - min(counts)):
        moved = tuple(n + shift for n in counts)
        if min(moved) < problem.core_unknowns:
            continue
        changed = problem.replace(num_samples=moved)
        system = tangent_system(*draw(changed, 3))
        short = min(changed.counts) < get("counting").value(changed)
        assert short == (shift < value - min(counts))
        assert system.singular == short
        assert system.identifiable != short


def test_one_user_shows_no_more_than_its_own_image() -> None:
    problem = ct.Problem(num_users=4, num_samples=(1000, 2, 2, 2), dim_in=10, rank=2)
    assert spare_equations(problem) == 8
    assert get("counting").value(problem) > 2


def test_no_radius_but_exact_recovery() -> None:
    """One sample in two dimensions: 2/π·1e-3 of the answers are within 1e-3 of the truth by luck, none exactly."""
    problem = ct.Problem(num_users=1, num_samples=1, dim_in=2, rank=1)
    counting = get("counting")
    within = 0
    for seed in range(300):
        truth, data, fit = altmin(problem, seed, restarts=0)
        within += ct.subspace_distance(fit.input_subspace, truth.input_subspace) < 0.1
        assert counting.observed(problem, truth, data, fit) <= counting.value(
            problem, truth=truth, data=data, fit=fit
        )
    assert within > 5  # so a radius is hit, in proportion to its size
    truth, data = draw(problem.replace(num_users=500, core_distribution="unit"), 1)
    near = ct.subspace_distance  # a moment estimator of very many users comes near, but not there
    tilted = np.linalg.qr(truth.input_subspace + 1e-5 * np.array([[1.0], [-1.0]]))[0]
    assert 0 < near(tilted, truth.input_subspace) < 1e-4
    fit = Fit(status="converged", input_subspace=tilted, output_subspace=np.eye(1), cores=truth.cores)
    assert counting.observed(problem, truth, data, fit) == 0.0
    wide = Fit(status="converged", input_subspace=np.eye(2), output_subspace=np.eye(1), cores=np.ones((500, 2, 1)))
    assert math.isnan(counting.realised(problem, truth, data, wide))  # all of the space contains everything


# --- local identifiability ----------------------------------------------------------------


def test_recovery_concerns_the_directions_that_are_open() -> None:
    """A fit of rank 1 is within 1e-4 of weights whose second direction is that weak, and knows nothing of it."""
    problem = ct.Problem(
        num_users=12, num_samples=3, dim_in=20, rank=2, core_distribution="orthogonal", condition_number=1e4
    )
    guarantee = get("local_identifiability")
    truth, data, _ = altmin(problem, 0, restarts=0)
    close = np.linalg.svd(truth.weights[:, :, 0].T, full_matrices=False)
    best = (close[0][:, :1] * close[1][:1]) @ close[2][:1]
    fit = Fit(status="converged", dense=best.T[:, :, None])
    assert np.linalg.norm(fit.weights - truth.weights) < 1e-3 * np.linalg.norm(truth.weights)
    assert guarantee.value(problem, truth=truth, data=data, fit=fit) == 0.0
    assert guarantee.observed(problem, truth, data, fit) == 0.0


@pytest.mark.parametrize("design", ["regression", "sensing"])
@pytest.mark.parametrize("condition", [1.0, 1e4, 1e6, 1e7])
def test_weak_directions_do_not_make_a_regular_problem_singular(condition: float, design: str) -> None:
    problem = ct.Problem(
        num_users=12,
        num_samples=30,
        dim_in=8,
        dim_out=1 if design == "regression" else 3,
        rank=2,
        design=design,
        core_distribution="orthogonal",
        condition_number=condition,
    )
    truth, data = draw(problem, 2)
    system = tangent_system(truth, data)
    assert system.identifiable
    assert not system.singular
    assert get("local_identifiability").value(problem, truth=truth, data=data) == 1.0
    few = problem.replace(num_samples=2 if design == "regression" else 4)
    assert tangent_system(*draw(few, 2)).singular


def test_an_undecided_rank_is_no_claim() -> None:
    problem = ct.Problem(num_users=6, num_samples=20, dim_in=5, rank=2)
    truth, data = draw(problem, 1)
    u = truth.input_subspace
    direction = u[:, 0]
    squeezed = data.covariates - (1 - 1e-6) * (data.covariates @ direction)[:, :, None] * direction
    changed = ct.Dataset(covariates=squeezed, responses=squeezed @ truth.weights, counts=data.counts)
    system = tangent_system(truth, changed)
    assert not system.identifiable
    assert not system.singular
    assert math.isnan(get("local_identifiability").value(problem, truth=truth, data=changed))


def test_inverse_roots_of_badly_conditioned_moments() -> None:
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.standard_normal((3, 3)))[0], np.linalg.qr(rng.standard_normal((40, 3)))[0]
    for scale in ([1.0, 0.5, 0.1], [1.0, 1e-5, 1e-7]):
        stack = ((left * scale) @ right.T).reshape(3, 20, 2).transpose(1, 0, 2)
        root = inverse_root(stack)
        np.testing.assert_allclose(root @ left * scale, left, atol=1e-7)
    assert inverse_root(np.ones((5, 2, 1))) is None


# --- descent ----------------------------------------------------------------


@pytest.mark.parametrize("history", [False, True])
def test_singular_steps_never_raise_the_objective(history: bool) -> None:
    """Rounding in singular steps made the objective rise 3 000-fold, and the last, worse point was returned."""
    problem = ct.Problem(
        num_users=1, num_samples=3, dim_in=12, rank=3, dim_out=3, noise_std=0.01, core_distribution="equal"
    )
    guarantee = get("monotone_objective")
    for seed in range(60):
        truth, data, fit = altmin(problem, seed, keep_history=history)
        assert guarantee.observed(problem, truth, data, fit) <= 1e-13
        assert fit.history["objective"][-1] <= fit.history["objective"].min() * (1 + 1e-12)


def test_the_local_rate_is_about_runs_that_end_at_the_truth() -> None:
    """As many equations as unknowns: another interpolant has a rate of its own."""
    problem = ct.Problem(num_users=3, num_samples=(2, 8, 1), dim_in=5, dim_out=5, rank=1, design="sensing")
    rate = get("local_contraction_rate")
    ends = {True: 0, False: 0}
    for seed in range(30):
        truth, data, fit = altmin(problem, seed, late_sweeps=20, max_sweeps=300)
        if not len(fit.history["late_contraction"]):
            continue
        at_truth = bool(np.linalg.norm(fit.weights - truth.weights) < 1e-6)
        ends[at_truth] += 1
        assert math.isnan(rate.value(problem, truth=truth, data=data, fit=fit)) != at_truth
    assert min(ends.values()) > 0


# --- levels and lower bounds ----------------------------------------------------------------


def test_the_subspace_level_stays_below_what_a_sine_can_be() -> None:
    """At σ = 3 the first-order level is 10, against squared sines of at most 2: nothing is claimed."""
    loud = ct.Problem(num_users=4, num_samples=40, dim_in=10, rank=2, noise_std=3.0)
    for name in ("cramer_rao", "cramer_rao_subspace"):
        assert "small noise" in inapplicable(get(name), loud)
        assert inapplicable(get(name), loud.replace(noise_std=0.05)) == ""
    middle = loud.replace(noise_std=0.5)
    truth, data, fit = altmin(middle, 0)
    level = get("cramer_rao_subspace").value(middle, truth=truth, data=data)
    assert level > 0.02
    assert math.isnan(get("cramer_rao_subspace").value(middle, truth=truth, data=data, fit=fit))


def test_the_level_is_exact_where_the_model_is_linear() -> None:
    """rank_in = dim_in: every user alone, and E error = σ² tr(XᵀX)⁻¹ given the design, at any noise."""
    problem = ct.Problem(num_users=4, num_samples=9, dim_in=2, rank=2, noise_std=2.0)
    assert get("cramer_rao").applies(problem)
    verdict = ct.testing.assert_guarantee("cramer_rao", problem, trials=600, params={"noise_tol": 0.0})
    assert abs(verdict.observed / verdict.claimed - 1) < 0.15


@pytest.mark.parametrize("name", ["genie_known_cores", "local_identifiability"])
def test_lower_bounds_are_not_about_estimators_that_are_told(name: str) -> None:
    noise = 0.0 if name == "local_identifiability" else 0.5
    samples = 12 if noise else 3
    problem = ct.Problem(num_users=6, num_samples=samples, dim_in=20, rank=2, noise_std=noise)
    with pytest.raises(AssertionError, match="oracle_subspace is told input_subspace, output_subspace"):
        ct.testing.assert_guarantee(name, problem, estimator="oracle_subspace", trials=8)
    told = [g.name for g in ct.guarantees.all() if g.told_too_much(ct.estimators.get("oracle_subspace"))]
    assert set(told) >= {"genie_known_cores", "minimax_subspace_rate", "local_identifiability"}
    assert "genie_known_subspace" not in told  # its genie reveals just that


def test_lower_bounds_leave_the_oracle_out_in_studies(tmp_path) -> None:
    raw = {
        "schema": 1,
        "name": "oracle",
        "title": "x",
        "claim": "x",
        "seed": 1,
        "problem": {"num_users": 3, "num_samples": 12, "dim_in": 40, "rank": 2},
        "grid": {"noise_std": [1.0]},
        "estimator": [{"name": "oracle_subspace"}, {"name": "altmin"}],
        "metrics": {"use": ["parameter_error"]},
        "guarantee": [
            {"name": "genie_known_cores"},
            {"name": "genie_known_cores", "estimator": "oracle_subspace"},
        ],
        "run": {"trials": 12},
    }
    found = ct.check(ct.run(ct.Study.from_dict(raw), out=tmp_path))
    status = {(v.estimator, v.where): v.status for v in found}
    assert status["oracle_subspace", "overall"] == "not applicable"
    assert ("altmin", "overall") in status


# --- what the fields come to ----------------------------------------------------------------


def test_no_signal_and_other_ranks_are_outside_one_sweep() -> None:
    problem = ct.Problem(num_users=60, num_samples=80, dim_in=10, rank=1, noise_std=0.05, core_distribution="unit")
    params = {"fresh_samples": True, "max_sweeps": 2, "keep_history": True}
    for name in ("one_sweep", "sweep_trajectory", "fresh_sample_evolution"):
        silent = problem.replace(signal_norm=0.0)
        assert not get(name).applies(silent)
        truth, data, fit = altmin(silent, 0, **params)
        assert math.isnan(get(name).value(silent, truth=truth, data=data, fit=fit))
    truth, data, fit = altmin(problem, 0, **{**params, "rank": 2})
    for name in ("one_sweep", "sweep_trajectory"):
        assert math.isnan(get(name).value(problem, truth=truth, data=data, fit=fit))


def test_a_share_of_outliers_that_rounds_to_none_is_none() -> None:
    problem = ct.Problem(num_users=10, num_samples=20, dim_in=8, rank=2, noise_std=0.1)
    assert problem.replace(outlier_fraction=0.01).homogeneous
    assert not problem.replace(outlier_fraction=0.06).homogeneous
    assert problem.replace(similarity_angle=0.3, signal_norm=0.0).homogeneous
    assert not problem.replace(similarity_angle=0.3).homogeneous
    assert get("oracle_inequality").applies(problem.replace(outlier_fraction=0.01))
    truth = ct.sample_truth(problem.replace(outlier_fraction=0.01), np.random.default_rng(0))
    shared = truth.input_subspace @ truth.cores @ truth.output_subspace.T
    np.testing.assert_allclose(truth.changes, shared, atol=1e-15)


@pytest.mark.parametrize("design", ["regression", "sensing"])
@pytest.mark.parametrize("counts", [0, 1, (1, 0, 4), (0, 2)])
def test_users_with_few_samples_or_none_raise_no_array_errors(counts: object, design: str) -> None:
    """Empty parts of a split used to end in "cannot reshape array of size 0"."""
    for users in (1, 3):
        if isinstance(counts, tuple) and len(counts) > users:
            continue
        problem = ct.Problem(num_users=users, num_samples=counts, dim_in=4, dim_out=3, rank=1, design=design)
        truth, data = draw(problem, 0)
        for name in ct.estimators.names():
            cls = ct.estimators.get(name)
            params = {"rank": 1} if "rank" in cls.parameters() else {}
            params |= {side: getattr(truth, side) for side in cls.side_information}
            try:
                fit = cls(**params).fit(data, np.random.default_rng(0))
            except ct.InputError:
                continue
            assert np.isfinite(fit.weights).all(), name
