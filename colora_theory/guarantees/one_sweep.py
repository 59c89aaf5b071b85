"""One sweep of alternating minimisation with fresh samples: a bound with explicit constants, and its iteration.

Derived step by step in docs/theory.md, "One sweep"; every inequality has its own Monte Carlo test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.guarantees.concentration import (
    chi_mean,
    chi_upper,
    gaussian_norm_upper,
    smallest_abs_sum,
    weighted_chi2_upper,
)
from colora_theory.guarantees.hypotheses import (
    equal_counts,
    homogeneous,
    isotropic_gaussian,
    signal,
    vector_model,
)
from colora_theory.model.linalg import Array, subspace_distance
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth

#: Number of events that one sweep's bound excludes, each of probability at most η/EVENTS.
EVENTS = 10


@dataclass(frozen=True)
class CoreSizes:
    """What the bound needs to know of the true cores C (r × k)."""

    users: int
    rank: int
    dim: int
    largest: float
    smallest_value: float
    largest_value: float
    frobenius: float
    abs_sum: float

    @classmethod
    def of(cls, cores: Array, dim: int) -> CoreSizes:
        """Measure cores of shape (k, r) in dimension `dim`."""
        values = np.linalg.svd(cores, compute_uv=False)
        return cls(
            users=len(cores),
            rank=cores.shape[1],
            dim=dim,
            largest=float(np.linalg.norm(cores, axis=1).max()),
            smallest_value=float(values[-1]) if len(values) == cores.shape[1] else 0.0,
            largest_value=float(values[0]),
            frobenius=float(np.linalg.norm(cores)),
            abs_sum=smallest_abs_sum(cores),
        )


@dataclass(frozen=True)
class CoreStep:
    """Bounds after the core step: max‖f_i‖, (Σ‖f_i‖²)^{1/2}, ‖F‖_op, and the total error Σ‖θ̂_i − θ_i‖²."""

    largest: float
    frobenius: float
    operator: float
    error: float


def core_step(sizes: CoreSizes, distance: float, n1: int, noise_std: float, each: float) -> CoreStep | None:
    """Errors f_i of the cores fitted in a subspace at `distance`; None when n1 is too small to say anything.

    Four events of probability at most `each`: max, sum, smallest singular values of X_iU, operator norm.
    """
    k, r = sizes.users, sizes.rank
    m = n1 - r + 1
    if m <= 4:
        return None
    tau2 = (distance * sizes.largest) ** 2 + noise_std**2
    total = (distance * sizes.frobenius) ** 2 + k * noise_std**2
    largest = math.sqrt(tau2 * r / m * float(scipy.stats.f.isf(each / k, r, m)))
    variance = 2.0 * r * (r + m - 2) / ((m - 2) ** 2 * (m - 4))
    # Cantelli's one-sided form of Chebyshev's inequality
    square = total * r / (m - 2) + math.sqrt(tau2 * total * variance * (1.0 / each - 1.0))
    operator = math.sqrt(square)
    margin = math.sqrt(n1) - math.sqrt(r) - math.sqrt(2.0 * math.log(k / each))
    if margin > 0:
        square = min(square, weighted_chi2_upper(r, total, tau2, math.log(1.0 / each)) / margin**2)
        operator = min(math.sqrt(square), math.sqrt(tau2) / margin * gaussian_norm_upper(k, r, each))
    square = min(square, k * largest**2)
    error = (distance * sizes.frobenius) ** 2 + square
    return CoreStep(largest, math.sqrt(square), min(operator, math.sqrt(square)), error)


@dataclass(frozen=True)
class FittedCores:
    """Bounds on the fitted cores Ĉ (r × k)."""

    rank: int
    largest: float
    smallest_value: float
    largest_value: float
    frobenius: float
    abs_sum: float


def least_singular_value(fitted: FittedCores, k: int, n2: int, b: int, removed: int, each: float) -> float:
    """Lower bound g(b, ν) on σ_min(PΦ): Φ has rows ĉ_i ⊗ h_ij, h ∈ R^b, P projects out ν = `removed` dimensions.

    P is independent of Φ. The better of an ε-net and Gordon's theorem; fails with probability at most `each`.
    """
    if b == 0:
        return math.inf
    r_b = b * fitted.rank
    top, cap = fitted.largest_value**2, fitted.largest**2
    low_energy = fitted.smallest_value**2
    best = 0.0
    for epsilon in np.exp(np.linspace(math.log(1e-3), math.log(0.7), 40)):
        x = r_b * math.log(1.0 + 2.0 / epsilon) + math.log(3.0 / each)
        low = n2 * low_energy - 2.0 * math.sqrt(n2 * cap * low_energy * x)
        low -= cap * (math.sqrt(removed) + math.sqrt(2.0 * x)) ** 2
        if low > 0:
            high = weighted_chi2_upper(n2, top, cap, x)
            best = max(best, math.sqrt(low) - epsilon * math.sqrt(high) / (1.0 - epsilon))
    tail = math.sqrt(2.0 * math.log(2.0 / each))
    mean = (
        chi_mean(n2) * fitted.abs_sum - fitted.largest_value * math.sqrt(k / 2) - math.sqrt(b) * fitted.frobenius
    )
    gordon = mean / math.sqrt(k) - min(fitted.largest, fitted.largest_value / math.sqrt(k)) * tail
    gone = fitted.largest * (math.sqrt(removed) + math.sqrt(r_b) + tail) if removed else 0.0
    if gordon > gone:
        best = max(best, math.sqrt(gordon**2 - gone**2))
    return best


def sweep_bound(
    sizes: CoreSizes, distance: float, n1: int, n2: int, noise_std: float, failure: float
) -> tuple[float, CoreStep | None]:
    """Bound on the distance after one sweep from `distance`, and on its core step; (1, …) when vacuous.

    n1 fresh rows per user for the cores, n2 further ones for U; fails with probability at most `failure`.
    """
    k, r, d = sizes.users, sizes.rank, sizes.dim
    each = failure / EVENTS
    log = math.log(1.0 / each)
    if distance >= 1.0:
        return 1.0, None
    step = core_step(sizes, distance, n1, noise_std, each)
    if step is None:
        return 1.0, None
    q = math.sqrt(1.0 - distance**2)
    smallest = q * sizes.smallest_value - step.operator
    if smallest <= 0:
        return 1.0, step
    fitted = FittedCores(
        rank=r,
        largest=sizes.largest + step.largest,
        smallest_value=smallest,
        largest_value=sizes.largest_value + step.operator,
        frobenius=sizes.frobenius + step.frobenius,
        abs_sum=q * sizes.abs_sum - math.sqrt(k) * step.operator,
    )
    carried, worst = (step.frobenius / q) ** 2, (step.largest / q) ** 2
    noise = math.sqrt(weighted_chi2_upper(n2, carried + k * noise_std**2, worst + noise_std**2, log))
    across = least_singular_value(fitted, k, n2, d - r, r * r, each)
    along = least_singular_value(fitted, k, n2, r, (d - r) * r, each)
    if across <= 0 or along <= 0:
        return 1.0, step
    inside = math.sqrt(weighted_chi2_upper(n2, carried, worst, log)) + noise_std * chi_upper(r * r, each)
    shrink = 1.0 - inside / along
    if shrink <= 0:
        return 1.0, step
    tangent = chi_upper(d - r, each) * fitted.largest * noise / (across**2 * shrink)
    return tangent / math.sqrt(1.0 + tangent**2), step


def trajectory(
    sizes: CoreSizes, distance: float, rows: int, noise_std: float, sweeps: int, failure: float
) -> list[float]:
    """Proved distances before the first and after each sweep, `rows` fresh rows per half step."""
    out = [distance]
    for _ in range(sweeps):
        out.append(sweep_bound(sizes, out[-1], rows, rows, noise_std, failure / sweeps)[0])
    return out


class _Sweeps(Guarantee):
    """What both share: they judge a run on fresh samples whose subspaces were recorded."""

    kind = "bound"
    side = "upper"
    metric = "subspace_distance"
    estimators = ("altmin",)
    expectation = False
    failure_probability = 0.01
    per_trial = True
    conservative = "several times the observed distance; vacuous (1) when users or samples are few"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [
            vector_model(problem),
            homogeneous(problem),
            isotropic_gaussian(problem),
            equal_counts(problem),
            signal(problem),
        ]

    @staticmethod
    def _run(fit: Any) -> list[Array]:
        """Subspaces of a recorded run on fresh samples, the start first; empty otherwise."""
        if fit is None or not fit.history.fresh_samples:
            return []
        return list(fit.history.input_subspaces or [])

    def _proved(self, problem: Problem, truth: Truth, fit: Any, sweeps: int) -> float:
        course = self._course(problem, truth, fit, sweeps)
        return course[-1] if course else float("nan")

    def _course(self, problem: Problem, truth: Truth, fit: Any, sweeps: int = 0) -> list[float]:
        """Proved distances along a recorded run on fresh samples; empty for any other run."""
        subspaces = self._run(fit)
        if len(subspaces) < 2 or subspaces[0].shape != truth.input_subspace.shape:
            return []  # the proof is about a fit of the truth's rank
        rows = problem.counts[0] // (2 + 2 * (len(subspaces) - 1))
        start = subspace_distance(subspaces[0], truth.input_subspace)
        sizes = CoreSizes.of(truth.cores[:, :, 0], problem.dim_in)
        sweeps = sweeps or len(subspaces) - 1
        return trajectory(sizes, start, rows, problem.noise_std, sweeps, self.failure_probability)


@register
class OneSweep(_Sweeps):
    """One sweep of alternating minimisation on fresh samples, with explicit constants.

    Vector model, covariates N(0, I). Start: a subspace at distance s < 1 from U. Cores from n1 fresh rows per
    user, then U from n2 further ones. With e = η/10, probability ≥ 1 − η and the bounds of docs/theory.md
    ("One sweep") on the fitted cores Ĉ and the noise w that the U step sees,

        tan θ₊ ≤ (√(d−r) + √(2 ln(1/e))) ĉ_max w / ( g(d−r, r²)² (1 − a_E) ),    dist₊ = sin θ₊,

    g(b, ν) a lower bound on the least singular value of the rows ĉ_i ⊗ h_ij, h ∈ R^b, after an independent
    projection of rank ν was removed, and a_E < 1 bounding the part of the error inside U.
    The value uses the realised start and true cores; observed: the distance after the first sweep.
    Hypotheses: vector model, covariates N(0, I), equal counts, inside the shared model, a signal, a run of altmin
    with the truth's rank, fresh_samples and keep_history. Sufficient rows are as good: their parts are
    independent and exact in law.
    Kind: bound with probability 1 − η (η = 0.01), proved here. Source: docs/theory.md, "One sweep".
    """

    name = "one_sweep"
    source = "docs/theory.md#one-sweep"

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        return self._proved(problem, truth, fit, 1)

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Distance after the first sweep; NaN for a run on reused samples."""
        run = self._run(fit)
        return subspace_distance(run[1], truth.input_subspace) if len(run) > 1 else float("nan")


@register
class SweepTrajectory(_Sweeps):
    """Proved trajectory of alternating minimisation on fresh samples, from any start short of orthogonal.

    `one_sweep` iterated: η is divided among the sweeps, and each sweep starts from the distance that the one
    before was proved to reach. The value is the proved final distance; observed: the final distance.
    Hypotheses: those of `one_sweep`.
    Kind: bound with probability 1 − η (η = 0.01), proved here. Source: docs/theory.md, "One sweep".
    """

    name = "sweep_trajectory"
    source = "docs/theory.md#one-sweep"

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        return self._proved(problem, truth, fit, 0)

    def path(self, problem: Problem, truth: Truth, data: Dataset, fit: Any, metric: str) -> Any:
        """Proved distances before the first and after each sweep of a run on fresh samples."""
        return self._course(problem, truth, fit) or None if metric == "subspace_distance" else None

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Final distance; NaN for a run on reused samples."""
        run = self._run(fit)
        return subspace_distance(run[-1], truth.input_subspace) if len(run) > 1 else float("nan")
