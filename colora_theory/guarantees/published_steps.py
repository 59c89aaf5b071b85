"""Published contraction factors of single steps: each is compared with the worst step of a recorded run.

Tags as in `published`, whose table holds the rates and thresholds.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.guarantees.hypotheses import (
    equal_counts,
    homogeneous,
    isotropic_gaussian,
    noiseless,
    sensing,
    vector_model,
)
from colora_theory.guarantees.published import diversity
from colora_theory.model.linalg import Array, subspace_distance
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth


def _recorded(fit: Any) -> list[Array]:
    return [] if fit is None else list(fit.history.get("input_subspaces", []))


def worst_contraction(fit: Any, truth: Truth, floor: float = 1e-10) -> float:
    """Largest ratio of successive subspace distances above `floor`; NaN without a recorded history."""
    distances = [subspace_distance(u, truth.input_subspace) for u in _recorded(fit)]
    ratios = [b / a for a, b in itertools.pairwise(distances) if b > floor]
    return max(ratios) if ratios else float("nan")


class _Contraction(Guarantee):
    """Noiseless contraction factor per step; the number of samples it needs is known up to a constant only."""

    kind = "rate"
    side = "upper"
    metric = "worst_contraction"
    per_trial = True
    conservative = "constant (and logarithms) unspecified"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [
            vector_model(problem),
            isotropic_gaussian(problem),
            equal_counts(problem),
            homogeneous(problem),
            noiseless(problem),
        ]

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Largest contraction factor of the distance in any recorded step."""
        return worst_contraction(fit, truth)


@register
class FedRepContraction(_Contraction):
    """FedRep contracts linearly: dist₊ ≤ √(1 − η E₀ σ̄²_min/2) dist.

    One gradient step with QR on U after exact cores, fresh batches, noiseless; σ̄² the eigenvalues of
    Σ c_ic_iᵀ/k, step η ≤ 1/(4σ̄²_max), E₀ = 1 − dist₀². The value takes the largest step,
    √(1 − E₀/(8κ²)), with the realised start; as a function of the problem E₀ = 1.
    Hypotheses: vector model, covariates N(0, I), noiseless, n ≳ κ⁴r³ log k/E₀² + κ⁴r²d/(E₀²k) (constant open).
    Kind: rate. Source: Collins, Hassani, Mokhtari & Shakkottai 2021, arXiv 2102.07078.
    """

    name = "fedrep_contraction"
    estimators = ("fedrep",)
    source = "Collins, Hassani, Mokhtari & Shakkottai 2021, arXiv 2102.07078"
    tag = "R 88"

    def formula(self, problem: Problem) -> float:
        return self._factor(problem, 1.0)

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        run = _recorded(fit)
        if not run:
            return float("nan")
        return self._factor(problem, 1.0 - subspace_distance(run[0], truth.input_subspace) ** 2)

    @staticmethod
    def _factor(problem: Problem, start: float) -> float:
        values = diversity(problem)
        return math.sqrt(1.0 - start * float(values[-1] / values[0]) / 8.0)


@register
class AltGDMinContraction(_Contraction):
    """AltGDmin contracts linearly: dist_t ≤ (1 − 0.84 c_η/κ²)^t dist_0, c_η ≤ 0.9.

    From dist_0 ≤ 0.016/(√r κ²), one projected gradient step on U after exact cores, of length c_η over the largest
    curvature. The value takes c_η = 0.5, the default step of altgdmin; longer steps up to 0.9 contract faster.
    (A preconditioned step has 1 − 0.89 c_η.)
    Hypotheses: vector model, covariates N(0, I), noiseless, the start as stated (checked on the recorded run; the
    claim is NaN otherwise), N ≥ Cκ⁴μ²(d+k) r(κ⁴r + log(1/ε)) with C open.
    Kind: rate. Source: Vaswani et al. (AltGDmin), arXiv 2102.10217, 2306.17782 and the column-wise version.
    """

    name = "altgdmin_contraction"
    estimators = ("altgdmin",)
    source = "Nayer & Vaswani, arXiv 2102.10217, 2306.17782"
    tag = "V"
    step = 0.5

    def formula(self, problem: Problem) -> float:
        return 1.0 - 0.84 * self.step / self._condition(problem)

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        run = _recorded(fit)
        if not run:
            return float("nan")
        start = subspace_distance(run[0], truth.input_subspace)
        near = start <= 0.016 / (math.sqrt(problem.rank_in) * self._condition(problem))
        return self.formula(problem) if near else float("nan")

    @staticmethod
    def _condition(problem: Problem) -> float:
        values = diversity(problem)
        return float(values[0] / values[-1])


@register
class MatrixSensingContraction(_Contraction):
    """Matrix sensing: every half step of alternating minimisation contracts the distance by 4 or more.

    One user (a single matrix), noiseless, δ_{2r} < (σ_r/σ_1)²/(100 r) for the design: each half step contracts by
    at least 4 without resampling, so a sweep by at least 16. Value: 1/16.
    Hypotheses: sensing design, one user, noiseless; the isometry constant is not computed (samples open).
    Kind: rate. Source: Jain, Netrapalli & Sanghavi 2013, arXiv 1212.0467.
    """

    name = "matrix_sensing_contraction"
    estimators = ("altmin",)
    source = "Jain, Netrapalli & Sanghavi 2013, arXiv 1212.0467"
    tag = "R 92"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [
            sensing(problem),
            Hypothesis("one user", problem.num_users == 1, f"needs num_users = 1, got {problem.num_users}."),
            isotropic_gaussian(problem),
            homogeneous(problem),
            noiseless(problem),
        ]

    def formula(self, problem: Problem) -> float:
        return 1.0 / 16.0


@register
class GaussNewtonOrder(_Contraction):
    """Riemannian Gauss–Newton converges quadratically to the noise floor: e₊ ≤ c₁ e²/λ + c₂ ξ.

    Without noise the logarithm of the distance doubles per step, late. Value: the order 2; observed: the order
    log e_{t+1}/log e_t of the last step above rounding (distances relative to 1).
    Hypotheses: noiseless, inside the shared model.
    Kind: rate (lower bound on the order). Source: Luo & Zhang 2021, arXiv 2104.12031 (abstract).
    """

    name = "gauss_newton_order"
    side = "lower"
    metric = "convergence_order"
    tolerance = 0.1
    estimators = ("gauss_newton",)
    source = "Luo & Zhang 2021, arXiv 2104.12031"
    tag = "V"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [homogeneous(problem), noiseless(problem)]

    def formula(self, problem: Problem) -> float:
        return 2.0

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Largest observed order of convergence of the recorded subspaces."""
        distances = [subspace_distance(u, truth.input_subspace) for u in _recorded(fit)]
        pairs = itertools.pairwise(distances)
        orders = [math.log(b) / math.log(a) for a, b in pairs if 1e-13 < b < a < 0.1]
        return max(orders) if orders else float("nan")
