"""Random coefficients: the best linear estimator's level, the posterior mean's risk, and where shrinking helps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.guarantees.hypotheses import at_least, isotropic, no_intercepts, noisy
from colora_theory.model.linalg import Array
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth


def prior_variances(problem: Problem) -> tuple[tuple[float, int], ...]:
    """Eigenvalues of the covariance of W_i − W_0 given U and V, with multiplicities.

    Inside U ⊗ V, outside U but inside V, and outside V: cores, tilts and deviations, isotropic in their spaces.
    """
    d, p, r1, r2 = problem.dim_in, problem.dim_out, problem.rank_in, problem.rank_out
    energy, stray = problem.signal_norm**2, problem.deviation_norm**2 / (d * p)
    inside = (math.cos(problem.similarity_angle) ** 2) * energy / (r1 * r2)
    tilt = (math.sin(problem.similarity_angle) ** 2) * energy / (max(d - r1, 1) * r2)
    return (inside + stray, r1 * r2), (tilt + stray, (d - r1) * r2), (stray, d * (p - r2))


def prior_covariance(problem: Problem, truth: Truth) -> Array:
    """Covariance Γ of vec(W_i − W_0), rows one after the other, given the true subspaces; shape (d p, d p)."""
    u = truth.input_subspace @ truth.input_subspace.T
    v = truth.output_subspace @ truth.output_subspace.T
    (inside, _), (tilted, _), (outside, _) = prior_variances(problem)
    d, p = len(u), len(v)
    shared = inside * np.kron(u, v) + tilted * np.kron(np.eye(d) - u, v)
    return np.asarray(shared + outside * np.kron(np.eye(d), np.eye(p) - v))


def user_rows(data: Dataset, i: int) -> tuple[Array, Array]:
    """User i's rows for vec(W), shape (n p, d p) or (n, d p), and its responses less those of W_0."""
    x, y = data.covariates[i], data.residual_responses()[i]
    if data.design == "sensing":
        return x.reshape(len(x), data.dim_in * data.dim_out), y
    p = y.shape[1]
    return np.einsum("na,op->noap", x, np.eye(p)).reshape(len(x) * p, data.dim_in * p), y.ravel()


def shrinkage(rows: Array, prior: Array, variance: float) -> tuple[Array, Array]:
    """Posterior covariance P = Γ − ΓXᵀ(XΓXᵀ + σ²I)⁻¹XΓ and the gain B with posterior mean B y."""
    seen = rows @ prior @ rows.T + variance * np.eye(len(rows))
    try:
        gain = np.linalg.solve(seen, rows @ prior).T
    except np.linalg.LinAlgError:  # more rows than unknowns, and a noise that rounding swallows
        gain = (np.linalg.pinv(seen, hermitian=True) @ rows @ prior).T
    return prior - gain @ rows @ prior, np.asarray(gain, dtype=np.float64)


def _random_users(problem: Problem) -> list[Hypothesis]:
    drawn = problem.core_distribution in ("gaussian", "unit") and problem.incoherence is None
    return [
        no_intercepts(problem),
        noisy(problem),
        Hypothesis("exchangeable users", drawn, "needs cores drawn alike: 'gaussian' or 'unit', no incoherence."),
        Hypothesis("no outliers", not problem.outlier_fraction, "needs outlier_fraction = 0."),
    ]


@register
class BayesLevel(Guarantee):
    """Bayes level: no estimator that is linear in the responses beats the posterior covariance on average.

    Given U and V, vec(W_i − W_0) has mean 0 and covariance Γ (cores s²/(r1 r2) inside U ⊗ V, tilts outside U,
    deviations everywhere). Averaged over the users and the noise, every estimator linear in the responses has

        E Σ_i ‖Ŵ_i − W_i‖_F² ≥ Σ_i tr P_i,    P_i = (X_iᵀX_i/σ² + Γ⁻¹)⁻¹                            (per trial),

    with equality for P_iX_iᵀy_i/σ²; where cores and deviations are Gaussian, every estimator whatever. As a
    function of the problem (isotropic covariates): Σ_i tr (n_i I/σ² + Γ⁻¹)⁻¹, smaller by Jensen's inequality.
    Hypotheses: users drawn alike, no outliers, no intercepts, σ > 0.
    Kind: bound on the mean (lower). Source: best linear prediction; docs/theory.md, "Empirical Bayes".
    """

    name = "bayes_level"
    kind = "bound"
    side = "lower"
    estimators = ("full_finetuning", "oracle_subspace")
    source = "docs/theory.md#empirical-bayes"
    conservative = (
        "knows the subspaces, the variances and the noise; for other than linear estimators only if Gaussian"
    )
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return _random_users(problem)

    def formula(self, problem: Problem) -> float:
        if not isotropic(problem):
            return float("nan")
        precision = 1.0 / problem.noise_std**2
        return sum(
            users * size / (n * precision + 1.0 / variance)
            for n, users in problem.users_by_count.items()
            for variance, size in prior_variances(problem)
            if variance
        )

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        prior = prior_covariance(problem, truth)
        return sum(
            float(np.trace(shrinkage(user_rows(data, i)[0], prior, problem.noise_std**2)[0]))
            for i in range(data.num_users)
        )


@register
class PosteriorRisk(Guarantee):
    """Posterior risk: what shrinking by a known prior costs and saves, for every fixed truth.

    With gain B_i = ΓX_iᵀ(X_iΓX_iᵀ + σ²I)⁻¹ the posterior mean B_iy_i has, for any W_i and given the covariates,

        E‖B_iy_i − w_i‖² = σ² ‖B_i‖_F² + ‖(I − B_iX_i) w_i‖²,    w_i = vec(W_i − W_0):

    variance plus squared bias. Observed: the squared error of B_iy_i in the trial, summed over users; the fit is
    not used. Hypotheses: users drawn alike (to have a Γ), no outliers, no intercepts, σ > 0.
    Kind: identity. Source: linear estimation; docs/theory.md, "Empirical Bayes".
    """

    name = "posterior_risk"
    kind = "identity"
    side = "equality"
    metric = "posterior_error"
    estimators = ("full_finetuning",)
    source = "docs/theory.md#empirical-bayes"
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return _random_users(problem)

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        prior, variance, total = prior_covariance(problem, truth), problem.noise_std**2, 0.0
        for i in range(data.num_users):
            rows, weight = user_rows(data, i)[0], truth.changes[i].ravel()
            gain = shrinkage(rows, prior, variance)[1]
            total += variance * float((gain**2).sum()) + float(((weight - gain @ (rows @ weight)) ** 2).sum())
        return total

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Squared error of the posterior means, summed over users."""
        prior, total = prior_covariance(problem, truth), 0.0
        for i in range(data.num_users):
            rows, y = user_rows(data, i)
            gain = shrinkage(rows, prior, problem.noise_std**2)[1]
            total += float(((gain @ y - truth.changes[i].ravel()) ** 2).sum())
        return total


@register
class SteinEllipsoid(Guarantee):
    """Stein's ellipsoid: exactly where shrinking by a known prior beats tuning alone, for every fixed truth.

    For a user with covariates of full column rank, the mean squared error matrix of local least squares exceeds
    that of the posterior mean (so that shrinking helps in every direction at once) if and only if

        w_iᵀ (2Γ + σ²(X_iᵀX_i)⁻¹)⁻¹ w_i ≤ 1,    w_i = vec(W_i − W_0).

    Γ may be wrong: the larger it is, the larger the ellipsoid, the smaller the gain. Observed: the least excess
    risk of local least squares over the posterior mean among the users inside the ellipsoid, both exact given the
    covariates, in units of the former; the claim is that it is ≥ 0 (trials without such users count as 0).
    Hypotheses: users drawn alike, no outliers, no intercepts, σ > 0, n ≥ unknowns.
    Kind: certificate. Source: Theobald 1974, Farebrother 1976; docs/theory.md, "Empirical Bayes".
    """

    name = "stein_ellipsoid"
    kind = "certificate"
    side = "lower"
    metric = "least_advantage"
    estimators = ("full_finetuning",)
    source = "Theobald 1974; docs/theory.md#empirical-bayes"
    conservative = "in every direction at once: in total squared error shrinking helps on a larger set"
    expectation = False
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [*_random_users(problem), at_least(problem, problem.num_features, "unknowns")]

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        return 0.0

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Least relative excess risk of local least squares among the users inside the ellipsoid."""
        prior, variance, least = prior_covariance(problem, truth), problem.noise_std**2, math.inf
        for i in range(data.num_users):
            rows, weight = user_rows(data, i)[0], truth.changes[i].ravel()
            gram = rows.T @ rows
            if np.linalg.cond(gram) > 1e12:  # local least squares is not defined (covariates of a discrete law)
                continue
            local = variance * np.linalg.inv(gram)
            ellipsoid = 2.0 * prior + local
            if np.linalg.cond(ellipsoid) > 1e12:  # rounding hides whether the weight is inside
                continue
            if weight @ np.linalg.solve(ellipsoid, weight) > 1.0:
                continue
            gain = shrinkage(rows, prior, variance)[1]
            risk = variance * float((gain**2).sum()) + float(((weight - gain @ (rows @ weight)) ** 2).sum())
            least = min(least, 1.0 - risk / float(np.trace(local)))
        return least if math.isfinite(least) else 0.0

    def trivial(self, problem: Problem) -> float:
        return -math.inf


@register
class IntervalCoverage(Guarantee):
    """Interval coverage: 95 % intervals cover 95 % of the users' weights.

    Ŵ_i ± 1.96 standard errors, entry by entry, cover the share 0.95 of all entries of all users' weights, averaged
    over trials (2 percentage points allowed): posterior deviations with the subspaces' own uncertainty for
    `hierarchical`, the Cramér–Rao level at the estimate for `altmin` and `gauss_newton` (inside the shared model
    only, where k n is well above the degrees of freedom), exact ones for `full_finetuning` (n > unknowns).
    Hypotheses: no intercepts, no outliers, σ > 0, n ≥ unknowns + 2, k n ≥ 2 × the degrees of freedom, k ≥ 20, and
    n · signal_norm² ≥ 10 σ² · rank_in · rank_out: where the data say little of a core, its prior decides, and
    cores of unit norm have no normal one.
    Kind: prediction. Source: docs/theory.md, "Empirical Bayes".
    """

    name = "interval_coverage"
    kind = "prediction"
    side = "equality"
    metric = "coverage"
    estimators = ("hierarchical", "full_finetuning")
    source = "docs/theory.md#empirical-bayes"
    conservative = "first order in the error of the subspaces, averaged over entries: a single user's may differ"
    per_trial = True
    tolerance = 0.02 / 0.95
    LEVEL = 0.95

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        enough = problem.num_observations >= 2 * problem.degrees_of_freedom and problem.num_users >= 20
        own = problem.rank_in * problem.rank_out
        reached = min(problem.counts) * problem.signal_norm**2 >= 10.0 * problem.noise_std**2 * own
        return [
            no_intercepts(problem),
            noisy(problem),
            at_least(problem, problem.num_features + 2, "unknowns + 2"),
            Hypothesis("no outliers", not problem.outlier_fraction, "needs outlier_fraction = 0."),
            Hypothesis("many observations", enough, "needs k ≥ 20 and k n ≥ 2 × the degrees of freedom."),
            Hypothesis("cores within reach", reached, "needs n · signal_norm² ≥ 10 σ² · rank_in · rank_out."),
        ]

    def formula(self, problem: Problem) -> float:
        return self.LEVEL

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Share of entries inside their intervals; NaN for a fit without standard errors."""
        if fit.standard_errors is None:
            return float("nan")
        return float((np.abs(fit.weights - truth.weights) <= 1.959963984540054 * fit.standard_errors).mean())
