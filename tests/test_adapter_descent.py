"""Adapters trained by gradients: LoRA-Pro's identities, and whose course follows full fine-tuning's."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import draw
from scipy.linalg import solve_sylvester

import colora_theory as ct
from colora_theory.estimators.lora_gradient import adjusted_gradients, diagonal_sylvester

get = ct.estimators.get


def test_lora_pro_imitates_the_full_gradient() -> None:
    """sBg_A' + sg_B'A = g − (I − P_B) g (I − P_A), and the Sylvester solution makes the factors move least."""
    rng = np.random.default_rng(0)
    k, d, p, r, s = 20, 7, 5, 2, 1.7
    g, b, a = (rng.standard_normal(shape) for shape in ((k, d, p), (k, d, r), (k, r, p)))
    down_b, down_a = adjusted_gradients(g, b, a, s)
    outside = (np.eye(d) - b @ np.linalg.pinv(b)) @ g @ (np.eye(p) - np.linalg.pinv(a) @ a)
    np.testing.assert_allclose(s * b @ down_a + s * down_b @ a, g - outside, atol=1e-12)
    full_b, full_a = s * g @ a.swapaxes(1, 2), s * b.swapaxes(1, 2) @ g
    least = ((down_b - full_b) ** 2).sum((1, 2)) + ((down_a - full_a) ** 2).sum((1, 2))
    for _ in range(5):
        x = 0.1 * rng.standard_normal((k, r, r))
        other = ((down_b - b @ x - full_b) ** 2).sum((1, 2)) + ((down_a + x @ a - full_a) ** 2).sum((1, 2))
        assert (other >= least - 1e-9).all()


def test_the_sylvester_equations_are_solved_as_scipy_does() -> None:
    rng = np.random.default_rng(1)
    b, a, right = (rng.standard_normal(shape) for shape in ((30, 9, 3), (30, 3, 8), (30, 3, 3)))
    left, above = b.swapaxes(1, 2) @ b, a @ a.swapaxes(1, 2)
    got = diagonal_sylvester(*np.linalg.eigh(left), *np.linalg.eigh(above), right)
    reference = [solve_sylvester(*each) for each in zip(left, above, right, strict=True)]
    np.testing.assert_allclose(got, reference, atol=1e-12)


def test_lora_pro_starts_with_the_reachable_part_of_the_full_gradient() -> None:
    """At B = 0 nothing but the row space of A is reached; no pseudo-inverse may blow up there."""
    rng = np.random.default_rng(2)
    g, a = rng.standard_normal((4, 7, 5)), rng.standard_normal((4, 2, 5))
    down_b, down_a = adjusted_gradients(g, np.zeros((4, 7, 2)), a, 1.7)
    np.testing.assert_allclose(1.7 * down_b @ a, g @ np.linalg.pinv(a) @ a, atol=1e-12)
    assert not down_a.any()


@pytest.mark.parametrize("rank", [2, 4])
def test_lora_pro_stays_closer_to_full_fine_tuning_than_lora(rank: int) -> None:
    """At one step length for all three, in every one of 20 draws and summed over the whole course."""
    p = ct.Problem(num_users=5, num_samples=60, dim_in=10, dim_out=6, rank=2, noise_std=0.05)
    for seed in range(20):
        _, data = draw(p, 20 + seed)
        paths = {
            name: get(name)(keep_history=True, max_sweeps=40, step=0.2, **extra)
            .fit(data, np.random.default_rng(seed))
            .history["weight_changes"]
            for name, extra in (
                ("full_finetuning_gd", {}),
                ("lora_gd", {"rank": rank}),
                ("lora_pro", {"rank": rank}),
            )
        }
        pro, plain = (
            sum(
                float(np.linalg.norm(one - full))
                for one, full in zip(paths[name], paths["full_finetuning_gd"], strict=True)
            )
            for name in ("lora_pro", "lora_gd")
        )
        assert pro < plain
