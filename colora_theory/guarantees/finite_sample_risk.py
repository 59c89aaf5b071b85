"""Exact risks of least squares at every finite size: alone, with the subspace given, and pooled."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from colora_theory.guarantees.base import Guarantee, Hypothesis, least, register
from colora_theory.guarantees.hypotheses import (
    at_least,
    enough_moments,
    equal_counts,
    gaussian,
    homogeneous,
    isotropic_gaussian,
    no_intercepts,
)
from colora_theory.guarantees.tangent import RANK_TOLERANCE
from colora_theory.model.linalg import as_rows
from colora_theory.model.problem import Problem, covariance_factor

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth


def gaussian_risk(n: int, unknowns: int, outputs: int, energy: float, noise_variance: float) -> float:
    """Risk E‖ŵ − w‖² of minimum-norm least squares with n rows N(0, I) and `unknowns` unknowns per output.

    `energy` is the sum of ‖w‖² over the outputs. NaN for |n − unknowns| ≤ 1, where the mean is infinite.
    """
    q = unknowns
    if n >= q + 2:
        return outputs * noise_variance * q / (n - q - 1)
    if n <= q - 2:
        return (1.0 - n / q) * energy + outputs * noise_variance * n / (q - n - 1)
    return float("nan")


def outlier_share(problem: Problem) -> float:
    """Share of users that are outliers, after rounding to whole users."""
    return problem.num_outliers / problem.num_users


def mean_energy(problem: Problem) -> float:
    """E‖W_i − W_0‖_F², averaged over users."""
    inlier = problem.signal_norm**2 + problem.deviation_norm**2
    share = outlier_share(problem)
    return (1.0 - share) * inlier + share * problem.outlier_norm**2


def outside_energy(problem: Problem) -> tuple[float, float]:
    """E‖W − P_U W P_V‖² and E‖(I − P_U) W V‖² of W = W_i − W_0, averaged over users (U, V Haar)."""
    d, p, r1, r2 = problem.dim_in, problem.dim_out, problem.rank_in, problem.rank_out
    tilt = (math.sin(problem.similarity_angle) * problem.signal_norm) ** 2
    whole, seen = 1.0 - r1 * r2 / (d * p), (1.0 - r1 / d) * r2 / p
    share = outlier_share(problem)
    own, foreign = problem.deviation_norm**2, problem.outlier_norm**2
    return (
        (1.0 - share) * (tilt + own * whole) + share * foreign * whole,
        (1.0 - share) * (tilt + own * seen) + share * foreign * seen,
    )


def _away_from(problem: Problem, threshold: int, what: str) -> Hypothesis:
    """No user's sample count is within one of the interpolation threshold."""
    return Hypothesis(
        f"num_samples ≥ {what} + 2 or ≤ {what} − 2",
        all(abs(n - threshold) >= 2 for n in problem.users_by_count),
        f"the mean is infinite within one sample of {what} = {threshold}; got num_samples {problem.num_samples}.",
    )


@register
class LocalLeastSquaresRisk(Guarantee):
    """Risk of local least squares: what each user achieves alone.

    With q = dim_in unknowns per output (sensing: q = dim_in · dim_out unknowns in all), covariates N(0, Σ) and
    noise σ, least squares on user i's n_i samples has, exactly and at every finite size,

        E‖Ŵ_i − W_i‖_F² = σ² p tr(Σ⁻¹) / (n_i − q − 1)                             for n_i ≥ q + 2,

    and minimum-norm least squares (of the change against W_0), with Σ = I and p′ = p outputs (sensing: 1),

        E‖Ŵ_i − W_i‖_F² = (1 − n_i/q) E‖W_i − W_0‖_F² + σ² p′ n_i / (q − n_i − 1)  for n_i ≤ q − 2:

    double descent around n = q. The value is the sum over users (metric parameter_error).
    Hypotheses: Gaussian covariates (isotropic where n_i < q), no intercepts, |n_i − q| ≥ 2. Any weights.
    Kind: identity. Source: E(XᵀX)⁻¹ = Σ⁻¹/(n−q−1) of the inverse Wishart law; the second line by rotational
    symmetry of the row space; docs/theory.md, "Local least squares".
    """

    name = "local_least_squares_risk"
    kind = "identity"
    side = "equality"
    estimators = ("full_finetuning",)
    source = "inverse Wishart moments; docs/theory.md#local-least-squares"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        q = problem.num_features
        few = min(problem.counts) < q
        return [
            isotropic_gaussian(problem) if few else gaussian(problem),
            no_intercepts(problem),
            _away_from(problem, q, "dim_in" if problem.design == "regression" else "dim_in·dim_out"),
        ]

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        what = "dim_in" if problem.design == "regression" else "dim_in·dim_out"
        return [enough_moments(problem, problem.num_features, what, outside=True)]

    def formula(self, problem: Problem) -> float:
        outputs = problem.dim_out if problem.design == "regression" else 1
        factor = covariance_factor(problem)
        # tr(Σ⁻¹)/d is 1 for isotropic covariates, and the only change that correlation makes
        spread = 1.0 if factor is None else float((np.linalg.inv(factor) ** 2).mean() * problem.dim_in)
        energy, variance = mean_energy(problem), problem.noise_std**2 * spread
        risk = partial(
            gaussian_risk, unknowns=problem.num_features, outputs=outputs, energy=energy, noise_variance=variance
        )
        return sum(users * risk(n) for n, users in problem.users_by_count.items())

    def min_samples(self, problem: Problem, target: float) -> int:
        """Least common num_samples ≥ q + 2 whose value is at most `target` (InputError when there is none)."""
        return least(
            lambda n: self.value(problem.replace(num_samples=n)) <= target, problem.num_features + 2, 10**15
        )


@register
class LeastSquaresRiskGivenDesign(Guarantee):
    """Risk of local least squares for the covariates at hand.

    Given the covariates, least squares on n_i ≥ q samples (q = dim_in; sensing: dim_in · dim_out) has, exactly,

        E[ Σ_i ‖Ŵ_i − W_i‖_F² | X ] = σ² p′ Σ_i tr(X_iᵀX_i)⁻¹,

    p′ = p outputs (sensing: 1), whatever the law of the covariates. The mean of the right-hand side over Gaussian
    covariates is `local_least_squares_risk`, which a test cannot judge at n − q below 6 since the law of the
    average has too heavy tails; given the covariates the error is a weighted sum of χ² variables with light ones.
    The value belongs to the realised trial.
    Hypotheses: every n_i ≥ q, no intercepts. Any covariates, any weights.
    Kind: identity. Source: Gauss–Markov; docs/theory.md, "Local least squares".
    """

    name = "least_squares_risk_given_design"
    kind = "identity"
    side = "equality"
    estimators = ("full_finetuning",)
    source = "docs/theory.md#local-least-squares"
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [no_intercepts(problem), at_least(problem, problem.num_features, "unknowns")]

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        values = np.linalg.svd(as_rows(data.covariates), compute_uv=False)
        outputs = problem.dim_out if problem.design == "regression" else 1
        if values.min() <= RANK_TOLERANCE * values.max():
            return float("nan")  # singular covariates (discrete laws): least squares is not unique
        return problem.noise_std**2 * outputs * float((1.0 / values**2).sum())


@register
class OracleSubspaceRisk(Guarantee):
    """Risk when both subspaces are known: what no amount of collaboration can beat.

    Least squares for the core of user i with U and V given has, with q = r1 unknowns in each of p′ = r2 outputs
    (sensing: q = r1 r2 unknowns, p′ = 1),

        E‖Ŵ_i − W_i‖_F² = σ² p′ q / (n_i − q − 1)                                   for n_i ≥ q + 2,
        E‖Ŵ_i − W_i‖_F² = (1 − n_i/q) E‖C_i‖_F² + σ² p′ n_i / (q − n_i − 1)         for n_i ≤ q − 2.

    The value is the sum over users (metric parameter_error). With the vector model this is σ² r/(n − r − 1).
    Hypotheses: covariates N(0, I), every user inside the shared model, |n_i − q| ≥ 2.
    Kind: identity. Source: `local_least_squares_risk` applied to the projected covariates, which are again
    N(0, I); docs/theory.md, "Known subspace".
    """

    name = "oracle_subspace_risk"
    kind = "identity"
    side = "equality"
    estimators = ("oracle_subspace",)
    source = "inverse Wishart moments; docs/theory.md#known-subspace"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        what = "rank_in" if problem.design == "regression" else "rank_in·rank_out"
        return [
            isotropic_gaussian(problem),
            homogeneous(problem),
            _away_from(problem, problem.core_unknowns, what),
        ]

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        what = "rank_in" if problem.design == "regression" else "rank_in·rank_out"
        return [enough_moments(problem, problem.core_unknowns, what, outside=True)]

    def formula(self, problem: Problem) -> float:
        outputs = problem.rank_out if problem.design == "regression" else 1
        energy, variance = problem.signal_norm**2, problem.noise_std**2
        risk = partial(
            gaussian_risk, unknowns=problem.core_unknowns, outputs=outputs, energy=energy, noise_variance=variance
        )
        return sum(users * risk(n) for n, users in problem.users_by_count.items())

    def min_samples(self, problem: Problem, target: float) -> int:
        """Least common num_samples ≥ q + 2 whose value is at most `target` (InputError when there is none)."""
        low = problem.core_unknowns + 2
        return least(lambda n: self.value(problem.replace(num_samples=n)) <= target, low, 10**15)


@register
class TransferRisk(Guarantee):
    """Few-shot transfer: risk of a user whose weight lies partly outside the subspace it is fitted in.

    A new user fits only a core, in a fixed subspace that misses part of its weight W. With
    b² = ‖W − P_U W P_V‖_F² and b_V² = ‖(I − P_U) W V‖_F², n ≥ q + 2,

        E‖Ŵ − W‖_F² = b² + (b_V² + r2 σ²) r1/(n − r1 − 1)        (regression, q = r1),
        E‖Ŵ − W‖_F² = b² + (b² + σ²) r1 r2/(n − r1 r2 − 1)       (sensing, q = r1 r2):

    a new user needs about r samples, not d, and pays b² once plus b² as extra noise. The fixed subspace here is
    the shared truth and the miss comes from own subspaces, deviations or outliers: E b² is a function of the
    problem. The value is the sum over users (metric parameter_error).
    Hypotheses: covariates N(0, I), no intercepts, every n_i ≥ q + 2.
    Kind: identity. Source: what is outside the subspace is independent of the projected covariates and so
    plain noise; docs/theory.md, "Transfer".
    """

    name = "transfer_risk"
    kind = "identity"
    side = "equality"
    estimators = ("oracle_subspace",)
    source = "docs/theory.md#transfer"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        q = problem.core_unknowns
        return [isotropic_gaussian(problem), no_intercepts(problem), at_least(problem, q + 2, "q + 2")]

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        return [enough_moments(problem, problem.core_unknowns, "q")]

    def formula(self, problem: Problem) -> float:
        whole, seen = outside_energy(problem)
        each = problem.users_by_count.items()
        return sum(users * self.risk(problem, n, whole, seen) for n, users in each)

    @staticmethod
    def risk(problem: Problem, n: int, outside: float, seen: float) -> float:
        """Risk of one user with n samples, b² = `outside` and b_V² = `seen`."""
        q, variance = problem.core_unknowns, problem.noise_std**2
        noise = seen + problem.rank_out * variance if problem.design == "regression" else outside + variance
        return outside + noise * q / (n - q - 1)

    def min_samples(self, problem: Problem, target: float) -> int:
        """Least common num_samples whose value is at most `target` (InputError when the bias alone exceeds it)."""
        low = problem.core_unknowns + 2
        return least(lambda n: self.value(problem.replace(num_samples=n)) <= target, low, 10**15)


@register
class PooledLeastSquaresRisk(Guarantee):
    """Risk of one pooled model for all users: the spread of the tasks never averages out.

    One least-squares weight fitted to all N = k n samples, users with weights W_i, mean W̄ and spread
    S = Σ_i ‖W_i − W̄‖_F². With q unknowns per output and p′ outputs (regression q = d, p′ = p; sensing q = dp,
    p′ = 1) and N ≥ q + 2, exactly

        E Σ_i ‖Ŵ − W_i‖_F² = S (1 + N/((N+2)(N−1)) · [(N−2)/N + (Nq−2)/(N−q−1)]) + k σ² p′ q/(N−q−1).

    S stays as k and n grow: personalisation is needed. As a function of the problem, E S = (k−1) E‖W_i − W_0‖²
    for cores that are independent between users; for one realised truth S itself is used.
    Hypotheses: covariates N(0, I), equal counts, no intercepts, N ≥ q + 2.
    Kind: identity. Source: second moments of the matrix-variate Dirichlet law of (XᵀX)^{-1/2}X_iᵀX_i(XᵀX)^{-1/2}
    and of the inverse Wishart law; docs/theory.md, "Pooled least squares".
    """

    name = "pooled_least_squares_risk"
    kind = "identity"
    side = "equality"
    estimators = ("pooled_lora",)
    source = "docs/theory.md#pooled-least-squares"
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        total, q = sum(problem.counts), problem.num_features
        return [
            isotropic_gaussian(problem),
            equal_counts(problem),
            no_intercepts(problem),
            Hypothesis("N ≥ q + 2", total >= q + 2, f"needs Σ num_samples ≥ {q + 2} (unknowns + 2), got {total}."),
            # with several outputs a pooled LoRA has a rank constraint and is not plain least squares
            Hypothesis("full rank", problem.dim_out == 1, f"needs dim_out = 1, got {problem.dim_out}."),
        ]

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        total, q = sum(problem.counts), problem.num_features
        message = f"a test of the mean needs three moments of the error: Σ num_samples ≥ {q + 6}, got {total}."
        return [Hypothesis("three moments: N ≥ q + 6", total >= q + 6, message)]

    def formula(self, problem: Problem) -> float:
        if problem.core_distribution in ("orthogonal", "equal", "clustered") or problem.num_outliers:
            return float("nan")  # users are dependent, so that E S is another number
        return self.risk(problem, (problem.num_users - 1) * mean_energy(problem))

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        return self.risk(problem, float(((truth.weights - truth.weights.mean(0)) ** 2).sum()))

    @staticmethod
    def risk(problem: Problem, spread: float) -> float:
        """The formula for a given spread S."""
        total, q = sum(problem.counts), problem.num_features
        outputs = problem.dim_out if problem.design == "regression" else 1
        extra = total / ((total + 2) * (total - 1)) * ((total - 2) / total + (total * q - 2) / (total - q - 1))
        noise = problem.num_users * problem.noise_std**2 * outputs * q / (total - q - 1)
        return spread * (1.0 + extra) + noise
