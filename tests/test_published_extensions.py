"""What published figures needed of the model: entries, unequal norms, larger covariates, where LoRA starts."""

from __future__ import annotations

import numpy as np
import pytest

import colora_theory as ct
from colora_theory.errors import InputError
from colora_theory.model.metrics import evaluate

ENTRIES = ct.Problem(num_users=40, num_samples=30, dim_in=40, rank=2, covariates="one_hot")


def drawn(problem: ct.Problem, seed: int):
    rng = np.random.default_rng(seed)
    truth = ct.sample_truth(problem, rng)
    return truth, ct.sample_data(problem, truth, rng)


def test_a_sample_shows_one_entry_of_the_weight() -> None:
    truth, data = drawn(ENTRIES, 1)
    assert (np.count_nonzero(data.covariates, axis=2) == 1).all()
    where, signs = np.abs(data.covariates).argmax(2), np.sign(data.covariates.sum(2))
    seen = np.take_along_axis(truth.weights[:, :, 0], where, axis=1) * signs * np.sqrt(40)
    assert data.responses[:, :, 0] == pytest.approx(seen)
    # every entry and sign equally often: 1200 draws over 80 places; chi-squared, false alarm 1e-6
    counts = np.bincount((where + 40 * (signs > 0)).astype(int).ravel(), minlength=80)
    assert ((counts - 15.0) ** 2 / 15.0).sum() < 149.8  # quantile of 79 degrees of freedom


def test_completion_is_completed_and_agrees_with_the_entries_by_hand() -> None:
    """Independent route: alternate the two least-squares problems over the observed entries."""
    problem = ENTRIES.replace(num_samples=24)
    truth, data = drawn(problem, 2)
    fit = ct.estimators.get("altmin")(rank=2).fit(data, np.random.default_rng(0))
    assert ct.subspace_distance(fit.input_subspace, truth.input_subspace) < 1e-9
    where = np.abs(data.covariates).argmax(2)
    matrix, mask = np.zeros((40, 40)), np.zeros((40, 40), dtype=bool)
    for user in range(40):
        mask[where[user], user] = True
        matrix[where[user], user] = truth.weights[user, where[user], 0]
    u = np.linalg.svd(matrix)[0][:, :2]
    for _ in range(400):
        cores = np.stack(
            [np.linalg.lstsq(u[m], y[m], rcond=None)[0] for m, y in zip(mask.T, matrix.T, strict=True)], 1
        )
        u = np.linalg.qr(
            np.stack(
                [np.linalg.lstsq(cores[:, m].T, y[m], rcond=None)[0] for m, y in zip(mask, matrix, strict=True)]
            )
        )[0]
    assert ct.subspace_distance(u, fit.input_subspace) < 1e-6


def test_what_one_entry_a_sample_rules_out() -> None:
    with pytest.raises(InputError, match="are vectors; use design = 'regression'"):
        ct.Problem(num_users=2, num_samples=5, dim_in=4, dim_out=2, rank=1, design="sensing", covariates="one_hot")
    for name in ("exact_recovery", "local_least_squares_risk", "grip_gordon"):
        told = [h for h in ct.guarantees.get(name).conditions(ENTRIES) if not h]
        assert told, f"{name} claims something about covariates without a density"


def test_norms_of_a_ladder() -> None:
    problem = ct.Problem(
        num_users=10, num_samples=5, dim_in=50, rank=5, signal_norm=3.102418, core_distribution="ladder"
    )
    truth, _ = drawn(problem, 3)
    assert np.linalg.norm(truth.weights[:, :, 0], axis=1) == pytest.approx(0.5 * np.arange(1, 11), rel=1e-6)
    with pytest.raises(InputError, match="both fix the users' norms"):
        problem.replace(incoherence=2.0)
    with pytest.raises(InputError, match="cores that a new user can have"):
        problem.replace(new_user_samples=3)

    class Fit:
        weights = truth.weights.copy()

    Fit.weights[0] += 0.1
    Fit.weights[9] += 0.2
    got = evaluate(["weakest_user_distance", "strongest_user_distance"], problem, truth, Fit)
    assert list(got.values()) == pytest.approx([0.1 * np.sqrt(50), 0.2 * np.sqrt(50)])


@pytest.mark.parametrize("sampling", ["rows", "sufficient"])
def test_covariates_of_outliers_are_larger(sampling: str) -> None:
    problem = ct.Problem(
        num_users=20, num_samples=400, dim_in=6, rank=2, outlier_fraction=0.2, noise_std=0.5, sampling=sampling
    )
    truth, plain = drawn(problem, 4)
    _, wide = drawn(problem.replace(outlier_covariate_scale=3.0), 4)
    assert truth.outliers is not None
    assert truth.outliers.sum() == 4
    inlier = ~truth.outliers
    assert np.array_equal(plain.covariates[inlier], wide.covariates[inlier])
    assert wide.covariates[truth.outliers] == pytest.approx(3.0 * plain.covariates[truth.outliers])
    noise = [d.responses - np.einsum("knd,kdp->knp", d.covariates, truth.weights) for d in (plain, wide)]
    assert noise[0] == pytest.approx(noise[1])
    for name in ("local_least_squares_risk", "cramer_rao"):
        told = [
            str(h)
            for h in ct.guarantees.get(name).conditions(problem.replace(outlier_covariate_scale=3.0))
            if not h
        ]
        assert told, name


def test_lora_may_start_with_a_step_of_the_full_gradient() -> None:
    """First step by hand: the best approximation of rank two of 1/λ times XᵀY/n."""
    problem = ct.Problem(num_users=3, num_samples=30, dim_in=8, dim_out=5, rank=2, noise_std=0.1)
    _, data = drawn(problem, 5)
    for name in ("lora_gd", "lora_pro"):
        lora = ct.estimators.get(name)(rank=2, max_sweeps=1, start="gradient")
        fit = lora.fit(data, np.random.default_rng(0))
        for x, y, weight in zip(data.covariates, data.responses, fit.weights, strict=True):
            step = x.T @ y / np.linalg.norm(x, 2) ** 2
            u, s, v = np.linalg.svd(step)
            assert weight == pytest.approx((u[:, :2] * s[:2]) @ v[:2])
        long = ct.estimators.get(name)(rank=2, max_sweeps=2000, tol=1e-12, start="gradient", step=0.2)
        objective = long.fit(data, np.random.default_rng(0)).history.objective
        assert (np.diff(objective) <= 1e-9 * objective[0]).all()


def test_the_size_of_the_random_start() -> None:
    problem = ct.Problem(num_users=2, num_samples=30, dim_in=8, dim_out=5, rank=2, noise_std=0.1)
    _, data = drawn(problem, 6)

    def first(**settings: float):
        return (
            ct.estimators.get("lora_gd")(rank=2, max_sweeps=1, **settings)
            .fit(data, np.random.default_rng(7))
            .weights
        )

    # B after one step from zero is linear in A, and W = BA: twice the start, four times the first change
    assert first(start_scale=2.0) == pytest.approx(4.0 * first(), rel=1e-9)
    with pytest.raises(InputError, match="start"):
        ct.estimators.get("lora_gd")(start="spectral")


def test_the_angle_of_a_change_of_weight() -> None:
    problem = ct.Problem(num_users=2, num_samples=9, dim_in=5, dim_out=4, rank=2, pretrained_norm=1.0)
    truth, _ = drawn(problem, 8)

    class Fit:
        weights = truth.weights

    assert evaluate(["change_subspace_distance"], problem, truth, Fit)["change_subspace_distance"] < 1e-6
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    changes = truth.changes @ turn
    Fit.weights = truth.pretrained + changes
    expected = max(
        ct.subspace_distance(np.linalg.qr(c.T)[0][:, :2], np.linalg.qr(t.T)[0][:, :2])
        for c, t in zip(changes @ np.eye(4), truth.changes, strict=True)
    )
    got = evaluate(["change_subspace_distance"], problem, truth, Fit)["change_subspace_distance"]
    assert got == pytest.approx(expected, rel=1e-6)
