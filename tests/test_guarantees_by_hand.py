"""Formulas of guarantees against numbers worked out by hand or drawn independently, constant by constant."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

import colora_theory as ct
from colora_theory.estimators import Fit
from colora_theory.guarantees import concentration, counting, grip, one_sweep

#: |z| > 4.9 has probability below 1e-6.
Z = 4.9


def value(name: str, **fields: object) -> float:
    return float(ct.guarantees.get(name).value(ct.Problem(**fields)))


def test_chi_square_tails_are_those_of_laurent_and_massart() -> None:
    """Lemma 1 (2000) with ‖a‖² ≤ Σa · max a: 4·3 + 2√(4·2·3·5) + 2·2·5; the lower side without the last term."""
    assert concentration.weighted_chi2_upper(4, 3.0, 2.0, 5.0) == pytest.approx(12 + 2 * math.sqrt(120) + 20)
    assert concentration.weighted_chi2_lower(4, 3.0, 2.0, 1.0) == pytest.approx(12 - 2 * math.sqrt(24))


def test_gaussian_tails_are_those_of_davidson_and_szarek() -> None:
    """With failure e^{-2} the deviation √(2 ln(1/δ)) is 2."""
    delta = math.exp(-2.0)
    assert concentration.chi_upper(9, delta) == pytest.approx(3 + 2)
    assert concentration.gaussian_norm_upper(9, 16, delta) == pytest.approx(3 + 4 + 2)
    assert concentration.scaled_norm_upper(9, 0.5, 7.0, delta) == pytest.approx(0.5 * (3 + 2) + 7)


@pytest.mark.parametrize("noise", [0.0, 0.8])
def test_the_pooled_risk_is_that_of_pooled_least_squares(noise: float) -> None:
    """Three users with fixed weights in two dimensions, N = 12: a hundred thousand draws without the package."""
    rng = np.random.default_rng(0)
    weights = np.array([[1.0, 0.0], [-0.5, 2.0], [0.3, -1.0]])
    x = rng.standard_normal((100_000, 12, 2))
    y = np.einsum("tnd,nd->tn", x, weights.repeat(4, 0)) + noise * rng.standard_normal((100_000, 12))
    found = np.linalg.solve(x.swapaxes(1, 2) @ x, x.swapaxes(1, 2) @ y[:, :, None])[:, :, 0]
    losses = ((found[:, None] - weights) ** 2).sum((1, 2))
    p = ct.Problem(num_users=3, num_samples=4, dim_in=2, rank=2, noise_std=noise)
    truth = ct.Truth(input_subspace=np.eye(2), output_subspace=np.eye(1), cores=weights[:, :, None])
    data = ct.sample_data(p, truth, rng)
    claimed = ct.guarantees.get("pooled_least_squares_risk").value(p, truth=truth, data=data)
    assert abs(losses.mean() - claimed) <= Z * losses.std() / math.sqrt(len(losses))


def test_the_genie_that_knows_the_subspace_leaves_the_posterior_variance() -> None:
    """One number with prior N(0, s²) and n measurements of variance σ²: 1/(n/σ² + 1/s²), for every entry."""
    fields = {"num_users": 2, "num_samples": (4, 9), "dim_in": 3, "rank": 1, "noise_std": 2.0, "signal_norm": 0.5}
    expected = sum(1 / (n / 4 + 4) for n in (4, 9))
    assert value("genie_known_subspace", **fields) == pytest.approx(expected)
    pair = {**fields, "rank": (2, 2), "dim_out": 2, "num_samples": 9}
    assert value("genie_known_subspace", **pair) == pytest.approx(2 * 4 / (9 / 4 + 4 / 0.25))


def test_the_genie_that_knows_the_cores() -> None:
    """r = 1: c²(d − 1)/(n c²/σ² + d − 1) with c² = Σ‖C_i‖²."""
    p = ct.Problem(num_users=3, num_samples=5, dim_in=7, rank=1, noise_std=2.0)
    truth = ct.sample_truth(p, np.random.default_rng(1))
    data = ct.sample_data(p, truth, np.random.default_rng(2))
    energy = float((truth.cores**2).sum())
    claimed = ct.guarantees.get("genie_known_cores").value(p, truth=truth, data=data)
    assert claimed == pytest.approx(energy * 6 / (5 * energy / 4 + 6))


def test_large_sample_levels_count_unequal_samples_right() -> None:
    """σ²[(r1(d−r1) + r2(p−r2))/n̄ + r1 r2 Σ 1/n_i]."""
    fields = {"num_users": 2, "num_samples": (20, 40), "dim_in": 6, "dim_out": 3, "rank": (2, 2), "noise_std": 0.5}
    expected = 0.25 * ((2 * 4 + 2 * 1) / 30 + 4 * (1 / 20 + 1 / 40))
    assert value("cramer_rao", **fields) == pytest.approx(expected)


def test_counting_thresholds() -> None:
    """r1 + r1(d−r1)/(k r2) in the regression design, r1 r2 + (r1(d−r1) + r2(p−r2))/k for sensing, rounded up."""
    assert value("counting", num_users=4, num_samples=9, dim_in=9, dim_out=3, rank=(3, 2)) == 3 + math.ceil(18 / 8)
    sensing = {"num_users": 4, "num_samples": 9, "dim_in": 9, "dim_out": 3, "rank": (3, 2), "design": "sensing"}
    assert value("counting", **sensing) == 6 + math.ceil((18 + 2) / 4)


def test_hypotheses_hold_at_their_boundary() -> None:
    """As many samples as a core has entries, as a theorem asks for, and no noise where it asks for noise."""
    few = ct.Problem(num_users=3, num_samples=(2, 50, 50), dim_in=6, rank=2, noise_std=1.0)
    assert ct.guarantees.get("cramer_rao").applies(few)
    assert not ct.guarantees.get("cramer_rao").applies(few.replace(num_samples=(1, 50, 50)))
    # one user alone shows its own image of the subspace's unknowns, 4 of 8, however many samples it has
    assert not ct.guarantees.get("cramer_rao").applies(few.replace(num_samples=(2, 2, 50)))
    split = ct.guarantees.get("spectral_split_half")
    assert split.applies(few)
    assert not split.applies(few.replace(num_samples=1))
    assert ct.guarantees.get("genie_known_cores").applies(few)
    assert not ct.guarantees.get("genie_known_cores").applies(few.replace(noise_std=0.0))


def test_recovery_is_one_for_the_truth_and_zero_for_little_more() -> None:
    p = ct.Problem(num_users=3, num_samples=9, dim_in=5, rank=2)
    truth = ct.sample_truth(p, np.random.default_rng(3))
    data = ct.sample_data(p, truth, np.random.default_rng(4))
    observed = ct.guarantees.get("local_identifiability").observed
    weakest = np.linalg.svd(truth.cores[:, :, 0], compute_uv=False)[-1]
    smallest = min(weakest, np.linalg.norm(truth.cores[:, :, 0], axis=1).min())
    direction = np.ones_like(truth.changes) / np.sqrt(truth.changes.size)
    for factor, recovered in ((0.0, 1.0), (0.9e-8, 1.0), (1.1e-8, 0.0)):
        fit = Fit(status="converged", dense=truth.changes + factor * smallest * direction)
        assert observed(p, truth, data, fit) == recovered


def test_the_noise_that_a_model_can_see() -> None:
    """√(2r) [a(√d + √(2 ln(3/η))) + b], a = σ(√n + √(2 ln(3k/η))), b = σ(√(Σn) + √(2 ln(3/η)))."""
    k, n, d, r, sigma, eta = 30, 16, 25, 2, 0.5, 0.01
    fields = {"num_users": k, "num_samples": n, "dim_in": d, "rank": r, "noise_std": sigma}
    a = sigma * (math.sqrt(n) + math.sqrt(2 * math.log(3 * k / eta)))
    b = sigma * (math.sqrt(n * k) + math.sqrt(2 * math.log(3 / eta)))
    expected = math.sqrt(2 * r) * (
        a * (math.sqrt(d) + math.sqrt(2 * math.log(3 / eta))) + min(b, math.sqrt(k) * a)
    )
    assert value("noise_moment", **fields) == pytest.approx(expected)


def test_the_gain_counts_the_unknowns_of_all_outputs() -> None:
    """k d p over r1(d − r1) + r2(p − r2) + k r1 r2."""
    fields = {"num_users": 5, "num_samples": 10**4, "dim_in": 8, "dim_out": 3, "rank": (2, 2), "noise_std": 1.0}
    assert value("collaboration_gain", **fields) == pytest.approx(5 * 8 * 3 / (2 * 6 + 2 * 1 + 5 * 4))


def test_one_step_of_the_fresh_sample_evolution() -> None:
    """φ² = r(s² + σ²)/(n − r − 1), s₊² = r(d − r)(σ² + φ²)/(nk), σ² relative to signal_norm²."""
    p = ct.Problem(num_users=5, num_samples=20, dim_in=9, rank=2, noise_std=0.6, signal_norm=2.0)
    phi2 = 2 * (0.25 + 0.09) / (14 - 3)
    expected = 2 * 7 * (0.09 + phi2) / (20 * 5)
    assert ct.guarantees.get("fresh_sample_evolution").step(0.25, p, 14, 20) == pytest.approx(expected)


def test_the_class_of_grip_has_twice_the_ranks_and_its_failure_costs() -> None:
    p = ct.Problem(num_users=8, num_samples=10**5, dim_in=9, dim_out=3, rank=(2, 2))
    assert grip.class_ranks(p) == (4, 3)
    assert grip.class_ranks(p.replace(rank=(5, 1))) == (9, 2)
    likely, sure = (grip.net_constant(p, failure) for failure in (0.5, 1e-12))
    assert likely < sure < 1.0
    assert sure**2 - likely**2 > 1e-4  # δ² grows by about 4·μ/(nk) for each unit of ln(1/η)


#: Three users whose cores are the unit vectors, in nine dimensions.
SIZES = one_sweep.CoreSizes.of(np.eye(3), 9)


def test_the_largest_core_error_has_exactly_the_stated_probability() -> None:
    """‖(XᵀX)⁻¹Xᵀe‖ of 12 rows and 3 columns exceeds the level for 10 % in a tenth of 40 000 draws."""
    rng = np.random.default_rng(6)
    step = one_sweep.core_step(SIZES, 0.0, 12, 0.7, 0.3)  # three users: each may use a tenth
    x, noise = rng.standard_normal((40_000, 12, 3)), 0.7 * rng.standard_normal((40_000, 12, 1))
    errors = np.linalg.norm(np.linalg.solve(x.swapaxes(1, 2) @ x, x.swapaxes(1, 2) @ noise)[:, :, 0], axis=1)
    assert step is not None
    assert abs((errors > step.largest).mean() - 0.1) <= Z * math.sqrt(0.1 * 0.9 / 40_000)


def test_cores_seen_from_a_tilted_subspace_shrink_by_the_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    """At sine 0.6 the smallest singular value is at least 0.8 of the true one, less the core step's error."""
    seen = []

    def record(fitted: one_sweep.FittedCores, *arguments: object) -> float:
        seen.append(fitted)
        return 0.0

    monkeypatch.setattr(one_sweep, "least_singular_value", record)
    _, step = one_sweep.sweep_bound(SIZES, 0.6, 10**6, 10**6, 0.1, 0.01)
    assert seen[0].smallest_value == pytest.approx(0.8 * 1.0 - step.operator)
    assert 0 < step.operator < 0.1


def test_equations_about_the_shared_part_by_hand() -> None:
    """Users of 1, 4 and 100 samples bring 0, 2 and (capped at d − r1) 3 samples beyond their cores."""
    few = ct.Problem(num_users=3, num_samples=(1, 4, 100), dim_in=5, dim_out=4, rank=(2, 3))
    assert counting.shared_unknowns(few) == (6, 2)  # r1 (d − r1) unknowns, min(r1, r2) equations a sample
    assert counting.spare_equations(few) == 2 * (0 + 2 + 3)
    assert counting.spare_equations(few, shift=1) == 2 * (0 + 3 + 3)
    sensed = few.replace(design="sensing", num_samples=(5, 9, 900))
    assert counting.shared_unknowns(sensed) == (6 + 3, 1)
    assert counting.spare_equations(sensed) == 0 + 3 + 2 * (3 + 1)


def test_what_rounding_hides_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = ct.guarantees.get("local_identifiability")
    problem = ct.Problem(num_users=3, num_samples=6, dim_in=4, rank=1)
    truth = ct.sample_truth(problem, np.random.default_rng(0))
    data = ct.sample_data(problem, truth, np.random.default_rng(1))
    for singular, identifiable, said in ((True, False, 0.0), (False, True, 1.0), (False, False, math.nan)):
        system = SimpleNamespace(singular=singular, identifiable=identifiable)
        monkeypatch.setattr(counting, "tangent_system", lambda truth, data, system=system: system)
        np.testing.assert_equal(claim.value(problem, truth=truth, data=data), said)
