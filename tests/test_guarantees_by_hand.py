"""Formulas of guarantees against numbers worked out by hand or drawn independently, constant by constant."""

from __future__ import annotations

import math

import numpy as np
import pytest

import colora_theory as ct
from colora_theory.guarantees import concentration

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
