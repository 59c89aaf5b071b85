"""When collaboration pays: its gain, its saturation, and the task dissimilarity at which it stops paying."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from colora_theory.guarantees.base import Guarantee, Hypothesis, least, register
from colora_theory.guarantees.finite_sample_risk import LocalLeastSquaresRisk, OracleSubspaceRisk
from colora_theory.guarantees.hypotheses import (
    at_least,
    enough_moments,
    equal_counts,
    homogeneous,
    isotropic_gaussian,
    noisy,
    vector_model,
)
from colora_theory.guarantees.lower_bounds import small_noise
from colora_theory.model.linalg import Array, as_rows, minimum_norm
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth


def local_error(truth: Truth, data: Dataset) -> float:
    """Σ‖Ŵ_i − W_i‖² of every user's own least squares: what the gain is measured against."""
    x, y = as_rows(data.covariates), as_rows(data.residual_responses())
    weights: Array = minimum_norm(x, y)[0].reshape(truth.changes.shape)
    return float(((weights - truth.changes) ** 2).sum())


def fit_error(truth: Truth, fit: Any) -> float:
    """Σ‖Ŵ_i − W_i‖² of a fit."""
    return float(((fit.weights - truth.weights) ** 2).sum())


@register
class CollaborationGain(Guarantee):
    """Collaboration gain: by how much sharing a subspace divides the error.

    For many samples per user the error of local least squares over that of the shared model is

        k·dim / dof        (dim = d p unknowns of one user; vector model: d / (r + r(d−r)/k)),

    the ratio of their Cramér–Rao levels. It grows with k up to d p/(r1 r2) (`collaboration_saturation`).
    Observed: the ratio of the two errors in the trial (mean over trials; 25 % allowed for finite samples).
    Hypotheses: inside the shared model, covariates N(0, I), noise that leaves the subspace within reach, equal
    counts, n ≥ 10 times the unknowns.
    Kind: prediction (a ratio of large-sample levels). Source: docs/theory.md, "Collaboration gain".
    """

    name = "collaboration_gain"
    kind = "prediction"
    side = "equality"
    metric = "collaboration_gain"
    estimators = ("altmin", "gauss_newton")
    source = "docs/theory.md#collaboration-gain"
    conservative = "large samples; at small n the gain is larger, local least squares suffering more"
    per_trial = True
    tolerance = 0.25

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [
            homogeneous(problem),
            isotropic_gaussian(problem),
            equal_counts(problem),
            noisy(problem),
            small_noise(problem),
            at_least(problem, 10 * problem.num_features, "10 unknowns"),
        ]

    def formula(self, problem: Problem) -> float:
        return problem.num_users * problem.dim_in * problem.dim_out / problem.degrees_of_freedom

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Error of local least squares over the fit's."""
        return local_error(truth, data) / fit_error(truth, fit)

    def min_users(self, problem: Problem, target: float) -> int:
        """Least num_users with a gain of at least `target` (InputError when it saturates below that)."""
        fewest = max(-(-problem.rank_in // problem.rank_out), -(-problem.rank_out // problem.rank_in))
        return least(lambda k: self.formula(problem.replace(num_users=k)) >= target, fewest, 10**9)


@register
class CollaborationSaturation(Guarantee):
    """Saturation: no unbiased fit of the shared model gains more than the oracle that knows the subspaces.

    The oracle divides the error of local least squares by (its own exact risk and the oracle's)

        gain_max = E(local)/E(oracle) ≈ d p/(r1 r2)    (vector model d/r, at large n),

    however many users collaborate. Claim: E[ gain_max · error(fit) − error(local) ] ≥ 0.
    Hypotheses: covariates N(0, I), inside the shared model, noise, n ≥ unknowns + 2.
    Kind: bound on the mean (lower) for unbiased estimators, to which least squares belongs for small noise.
    Source: Cramér–Rao with fewer unknowns; docs/theory.md, "Collaboration gain". As a function of the problem
    the value is gain_max; in a trial it is 0.
    """

    name = "collaboration_saturation"
    kind = "bound"
    side = "lower"
    metric = "loss_against_saturation"
    estimators = ("altmin", "gauss_newton")
    source = "docs/theory.md#collaboration-gain"
    conservative = "the oracle pays nothing for the shared subspaces: reached only as k → ∞"
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [
            homogeneous(problem),
            isotropic_gaussian(problem),
            noisy(problem),
            at_least(problem, problem.num_features + 2, "unknowns + 2"),
        ]

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        return [enough_moments(problem, problem.num_features, "unknowns")]

    def formula(self, problem: Problem) -> float:
        return LocalLeastSquaresRisk().formula(problem) / OracleSubspaceRisk().formula(problem)

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        return 0.0

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """gain_max · error(fit) − error(local)."""
        return self.formula(problem) * fit_error(truth, fit) - local_error(truth, data)

    def trivial(self, problem: Problem) -> float:
        return -math.inf


def heterogeneous_risk(problem: Problem, angle: float) -> float:
    """Predicted per-user risk of a shared subspace when users' own ones are tilted by `angle` (vector model)."""
    d, r, k, n = problem.dim_in, problem.rank_in, problem.num_users, min(problem.users_by_count)
    # the best shared subspace follows the tilts as far as r of the k users' directions let it
    miss = (math.sin(angle) * problem.signal_norm) ** 2 * max(0.0, 1.0 - r / k)
    noise = problem.noise_std**2 + miss
    return miss + noise * (r * (d - r) / (k * (n - r)) + r / (n - r - 1))


def _tilted(problem: Problem) -> list[Hypothesis]:
    plain = problem.replace(similarity_angle=0.0).homogeneous
    return [
        vector_model(problem),
        isotropic_gaussian(problem),
        equal_counts(problem),
        at_least(problem, problem.rank_in + 2, "rank + 2"),
        Hypothesis("only own subspaces", plain, "allows similarity_angle, but no other deviation or outlier."),
    ]


def _shared_part_leads(problem: Problem) -> bool:
    """Whether the second moment of the weights is larger along U than along any of the users' own directions."""
    k, d, r, angle = problem.num_users, problem.dim_in, problem.rank_in, problem.similarity_angle
    own = math.sin(angle) ** 2 * (1.0 + math.sqrt((d - r) / k)) ** 2 / max(d - r, 1)
    return math.cos(angle) ** 2 / r >= own


@register
class HeterogeneousRisk(Guarantee):
    """Risk of collaborating with users whose subspaces differ.

    Users' own subspaces are U cos φ + E_i sin φ. With h² = (1 − r/k) sin²φ E‖c‖² (the best shared subspace follows
    the tilts in r of k directions) and τ² = σ² + h², the predicted risk of a user under one shared subspace is

        h² + τ² [ r(d−r)/(k(n−r)) + r/(n−r−1) ]:

    what is missed counts once as bias and once as noise. The value is k times that (parameter_error).
    Hypotheses: vector model, covariates N(0, I), equal counts, n ≥ r + 2, no other deviation; k(n−r) well above
    r(d−r); the shared part leads: cos²φ/r is at least sin²φ (1 + √((d−r)/k))²/(d−r), the edge of what the users'
    own parts put into one direction, or the best subspace is not near U.
    Kind: prediction (25 % allowed; it over-estimates for few users). Source: docs/theory.md, "Task similarity".
    """

    name = "heterogeneous_risk"
    kind = "prediction"
    side = "equality"
    estimators = ("altmin", "gauss_newton")
    source = "docs/theory.md#task-similarity"
    conservative = (
        "a prediction: treats the missed part as independent noise, and the subspace error to first order"
    )
    tolerance = 0.25

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        k, n, d, r = problem.num_users, min(problem.users_by_count), problem.dim_in, problem.rank_in
        enough = k * (n - r) >= 3 * r * (d - r)
        return [
            *_tilted(problem),
            Hypothesis("k(n−r) ≥ 3r(d−r)", enough, "needs three equations per unknown of the shared subspace."),
            Hypothesis("shared part leads", _shared_part_leads(problem), "needs a smaller similarity_angle."),
        ]

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        return [enough_moments(problem, problem.rank_in, "rank")]

    def formula(self, problem: Problem) -> float:
        return problem.num_users * heterogeneous_risk(problem, problem.similarity_angle)


@register
class BreakEvenAngle(Guarantee):
    """Break-even angle: beyond this dissimilarity collaboration hurts.

    The angle φ* at which `heterogeneous_risk` meets the exact risk σ² d/(n−d−1) of local least squares. As a
    function of the problem the value is φ* in radians (π/2 when collaboration always pays, 0 when never). In a
    trial the claim is that the advantage (error(local) − error(fit)) · sign(φ* − φ) is ≥ 0 in the mean.
    Hypotheses: vector model, covariates N(0, I), equal counts, n ≥ d + 2, noise, no other deviation; the sign is
    claimed only where the two predicted risks differ by a quarter.
    Kind: prediction. Source: docs/theory.md, "Task similarity".
    """

    name = "break_even_angle"
    kind = "prediction"
    side = "lower"
    metric = "signed_advantage"
    against = "similarity_angle"
    estimators = ("altmin", "gauss_newton")
    source = "docs/theory.md#task-similarity"
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [*_tilted(problem), noisy(problem), at_least(problem, problem.dim_in + 2, "dim_in + 2")]

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        return [enough_moments(problem, problem.dim_in, "dim_in")]

    def formula(self, problem: Problem) -> float:
        local = LocalLeastSquaresRisk().formula(problem) / problem.num_users

        def gap(angle: float) -> float:
            return heterogeneous_risk(problem, angle) - local

        if gap(0.0) >= 0:
            return 0.0
        return math.pi / 2 if gap(math.pi / 2) <= 0 else float(scipy.optimize.brentq(gap, 0.0, math.pi / 2))

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        local = LocalLeastSquaresRisk().formula(problem) / problem.num_users
        together = heterogeneous_risk(problem, problem.similarity_angle)
        near = max(local, together) < 1.25 * min(local, together)
        return float("nan") if near else 0.0

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Error of local least squares minus the fit's, with the sign that φ* − φ predicts."""
        sign = float(np.sign(self.formula(problem) - problem.similarity_angle))
        return sign * (local_error(truth, data) - fit_error(truth, fit))

    def trivial(self, problem: Problem) -> float:
        return -math.inf
