"""Identities of low-rank adapters' gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import solve_sylvester

from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.model.dataset import adjoint
from colora_theory.model.linalg import Array
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth


def lora_pro_gradients(gradient: Array, b: Array, a: Array, scale: float) -> tuple[Array, Array]:
    """LoRA-Pro's replacement (g_A′, g_B′) of the adapter's gradients for W = W_0 + s B A, full gradient g (d, p).

    g_A = s Bᵀg, g_B = s g Aᵀ; g_A′ = s⁻²(BᵀB)⁻¹g_A + XA, g_B′ = s⁻²(I − P_B) g_B (AAᵀ)⁻¹ − BX with X from the
    Sylvester equation BᵀB X + X AAᵀ = −s⁻²(BᵀB)⁻¹ g_A Aᵀ.
    """
    g_a, g_b = scale * b.T @ gradient, scale * gradient @ a.T
    inner, outer = b.T @ b, a @ a.T
    solved = np.linalg.solve(inner, g_a) / scale**2
    x = solve_sylvester(inner, outer, -solved @ a.T)
    beyond = g_b - b @ np.linalg.solve(inner, b.T @ g_b)
    return solved + x @ a, beyond @ np.linalg.inv(outer) / scale**2 - b @ x


@register
class LoraProGradient(Guarantee):
    """LoRA-Pro's equivalent gradient is the full gradient less what no adapter step can reach.

    For W = W_0 + sBA with B (d × r) and A (r × p) of full rank, full gradient g, and the replaced adapter
    gradients g_A′, g_B′ of LoRA-Pro (any X, in particular its Sylvester solution),

        s B g_A′ + s g_B′ A = g − (I − P_B) g (I − P_A),

    P_B, P_A the projectors on the column space of B and the row space of A. Checked for every user at
    B = U[:, :r], A = (2V)ᵀ[:r] of the truth, r = rank_out, s = 2, g the gradient of the squared loss at W_0.
    Observed: the relative residual in Frobenius norm; claimed: 0.
    Hypotheses: rank_in ≥ rank_out.
    What is checked are the replaced gradients as written here, an independent route: the estimator's own first
    step is held against the right-hand side in tests/test_adapter_descent.py.
    Kind: certificate (an algebraic identity). Source: Wang, Liang et al. 2024 (LoRA-Pro), arXiv 2407.18242;
    docs/theory.md, "LoRA-Pro".
    """

    name = "lora_pro_gradient"
    kind = "certificate"
    side = "upper"
    metric = "gradient_residual"
    tag = "V2"
    source = "arXiv 2407.18242; docs/theory.md#lora-pro"
    expectation = False
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        enough = problem.rank_in >= problem.rank_out
        return [Hypothesis("rank_in ≥ rank_out", enough, f"needs rank_in ≥ rank_out, got {problem.rank!r}.")]

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        return 0.0

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        """Largest relative residual of the identity over the users."""
        b = truth.input_subspace[:, : problem.rank_out] * np.linspace(1.0, 2.0, problem.rank_out)
        a, scale, worst = 2.0 * truth.output_subspace.T, 2.0, 0.0
        outside_b = np.eye(problem.dim_in) - b @ np.linalg.pinv(b)
        outside_a = np.eye(problem.dim_out) - np.linalg.pinv(a) @ a
        for gradient in -2.0 * adjoint(data, data.residual_responses()):
            g_a, g_b = lora_pro_gradients(gradient, b, a, scale)
            reached = scale * b @ g_a + scale * g_b @ a
            residual = reached - gradient + outside_b @ gradient @ outside_a
            size = float(np.linalg.norm(gradient))
            worst = max(worst, float(np.linalg.norm(residual)) / size if size else 0.0)
        return worst
