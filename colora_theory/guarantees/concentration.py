"""The inequalities that the bounds are made of; each has its own Monte Carlo test (tests/test_lemmas.py)."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaln


def chi_mean(n: float) -> float:
    """E‖N(0, I_n)‖ = √2 Γ((n+1)/2)/Γ(n/2)."""
    if n > 1e4:  # the logarithms would cancel; the series is exact to 1e-13 here
        return math.sqrt(n) * (1.0 - 1.0 / (4.0 * n) + 1.0 / (32.0 * n * n))
    return math.sqrt(2.0) * math.exp(float(gammaln((n + 1) / 2) - gammaln(n / 2)))


def chi_upper(n: float, failure: float) -> float:
    """Level that ‖N(0, I_n)‖ exceeds with probability at most `failure`: √n + √(2 ln(1/failure))."""
    return math.sqrt(n) + math.sqrt(2.0 * math.log(1.0 / failure))


def weighted_chi2_upper(copies: float, total: float, largest: float, x: float) -> float:
    """Level that Σ_i a_i χ²_m exceeds with probability ≤ e^{−x} (Laurent & Massart 2000, Lemma 1).

    m = `copies` degrees of freedom each, `total` = Σ a_i, `largest` = max a_i:
    mΣa + 2√(m a_max Σa x) + 2 a_max x.
    """
    return copies * total + 2.0 * math.sqrt(copies * largest * total * x) + 2.0 * largest * x


def quadratic_form_upper(trace: float, square: float, largest: float, x: float) -> float:
    """Level that Σ_j w_j g_j², g ~ N(0, I), exceeds with probability ≤ e^{−x} (Laurent & Massart 2000, Lemma 1).

    `trace` = Σ w_j, `square` ≥ Σ w_j², `largest` ≥ max w_j: Σw + 2√(x Σw²) + 2 x max w.
    """
    return trace + 2.0 * math.sqrt(x * square) + 2.0 * largest * x


def quadratic_form_chernoff(weights: np.ndarray, x: float) -> float:
    """The same level from all weights w_j ≥ 0, by Chernoff: the least of many λ of (2x − Σ ln(1 − 2λw_j))/(2λ)."""
    top = float(weights.max(initial=0.0))
    if top == 0.0:
        return 0.0
    twice = np.geomspace(0.01, 0.99, 60) / top
    return float(((2.0 * x - np.log1p(-np.outer(twice, weights)).sum(1)) / twice).min())


def weighted_chi2_lower(copies: float, total: float, largest: float, x: float) -> float:
    """Level below which Σ_i a_i χ²_m falls with probability ≤ e^{−x}: mΣa − 2√(m a_max Σa x)."""
    return copies * total - 2.0 * math.sqrt(copies * largest * total * x)


def gaussian_norm_upper(rows: int, columns: int, failure: float) -> float:
    """Level that ‖G‖_op of a standard Gaussian matrix exceeds with probability ≤ `failure` (Davidson–Szarek)."""
    return math.sqrt(rows) + math.sqrt(columns) + math.sqrt(2.0 * math.log(1.0 / failure))


def scaled_norm_upper(rows: int, largest: float, total: float, failure: float) -> float:
    """Level that ‖G diag(a)‖_op, G with `rows` rows, exceeds with probability ≤ `failure` (Chevet).

    `largest` = max |a_i|, `total` = ‖a‖₂: √rows · max|a| + ‖a‖₂ + max|a| √(2 ln(1/failure)).
    """
    return largest * (math.sqrt(rows) + math.sqrt(2.0 * math.log(1.0 / failure))) + total


def smallest_abs_sum(cores: np.ndarray) -> float:
    """Lower bound on min over unit v of Σ_i |vᵀc_i|, `cores` of shape (k, r); exact for r ≤ 2.

    On a cone of constant signs the sum is linear in v, so its minimum over the sphere is attained where v is
    orthogonal to r − 1 of the c_i. For r = 3 a grid of the half sphere, less its covering radius times the
    Lipschitz constant √k σ_max; beyond, σ_min²/max‖c_i‖.
    """
    k, r = cores.shape
    values = np.linalg.svd(cores, compute_uv=False)
    plain = float(values[-1] ** 2 / np.linalg.norm(cores, axis=1).max()) if k >= r else 0.0
    if r == 1:
        return float(np.abs(cores).sum())
    if r == 2:
        norms = np.linalg.norm(cores, axis=1, keepdims=True)
        turned = np.column_stack([-cores[:, 1], cores[:, 0]])[norms[:, 0] > 0] / norms[norms[:, 0] > 0]
        return min(float(np.abs(cores @ v).sum()) for v in turned)
    if r == 3:
        steps = 160
        theta = (np.arange(steps) + 0.5) * math.pi / steps
        low = math.inf
        for polar in theta:
            v = np.stack(
                [np.sin(polar) * np.cos(theta), np.sin(polar) * np.sin(theta), np.full(steps, np.cos(polar))]
            )
            low = min(low, float(np.abs(cores @ v).sum(0).min()))
        radius = math.sqrt(2.0) * math.pi / (2 * steps)
        return max(plain, low - radius * math.sqrt(k) * float(values[0]))
    return plain
