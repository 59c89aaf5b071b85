"""How alternating minimisation moves: monotone, with an exact local rate, and the edges that predict it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import scipy

from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.guarantees.counting import enough_samples, of_equal_rank, smallest_scale
from colora_theory.guarantees.hypotheses import (
    equal_counts,
    homogeneous,
    isotropic_gaussian,
    noiseless,
    signal,
    vector_model,
)
from colora_theory.guarantees.sweep_map import SweepMap
from colora_theory.guarantees.tangent import tangent_system
from colora_theory.model.linalg import Array, subspace_distance, subspace_distance_fro
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth

#: Distance, relative to the smallest scale of the truth, within which a run counts as converged to it.
NEAR: Final = 1e-4


@register
class MonotoneObjective(Guarantee):
    """Alternating minimisation never raises its objective.

    Every half step minimises the objective over one block with the others fixed (or moves it downhill by
    conjugate gradients started at the present point), so the sequence of objectives over all half steps is
    non-increasing: max_t (f_{t+1} − f_t)/Σ‖y_i‖² ≤ 0.
    Hypotheses: none on the problem; the same samples in every step, and a recorded history.
    Kind: certificate. Source: block minimisation; docs/theory.md, "Monotone objective".
    """

    name = "monotone_objective"
    kind = "certificate"
    side = "upper"
    metric = "objective_increase"
    estimators = ("altmin",)
    source = "docs/theory.md#monotone-objective"
    expectation = False
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return []

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        reused = fit is not None and not fit.history.fresh_samples  # fresh samples have an objective each
        return 0.0 if reused else float("nan")

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Largest increase of the objective in any half step, in units of Σ‖y_i‖², the scale of rounding."""
        objective = np.asarray(fit.history.get("objective", []), float)
        energy = float((data.residual_responses() ** 2).sum())
        if len(objective) < 2 or energy == 0.0:
            return 0.0
        return float(np.diff(objective).max() / energy)


def core_objectives(fit: Any) -> Array:
    """Objective after every core step of a fit, with or without a full history."""
    objective = np.asarray(fit.history.get("objective", []), float)
    names = fit.history.get("half_step")
    if names is None:
        return objective
    return objective[[name == "cores" for name in names]]


@register
class LocalContractionRate(Guarantee):
    """Exact local rate of alternating minimisation.

    Near the truth, on noiseless data, the residual obeys e ← (I − Π_V)(I − Π_U)(I − Π_C) e on the range of the
    Jacobian, Π_B the projector on the columns of block B. So the residual norm and the subspace distance shrink
    per sweep, late, by exactly

        ρ = spectral radius of that product on the range of J,

    computed here as the spectral radius of the linearised sweep on (A, B), matrix-free, both designs, any
    dim_out. In the vector model ρ is the largest squared canonical correlation between the U and the core block
    once the r² gauge directions are removed.
    Hypotheses: noiseless, inside the shared model, a signal, rank J = degrees of freedom, exact block
    minimisation; a fit of the truth's ranks that converged to the truth (near the counting threshold others may
    explain the data exactly, with rates of their own; NaN then).
    Observed: the mean contraction (geometric) of the whole residual over the last quarter of the sweeps that
    altmin follows with `late_sweeps` close to its limit; a plain run ends at rounding before its slowest mode
    stands alone. Modes close below the slowest one fade like a power of the number of sweeps: 200 or more are
    advised.
    Kind: certificate (to first order in the distance, in the limit of many sweeps: 3 % allowed).
    Source: docs/theory.md, "Local rate".
    """

    name = "local_contraction_rate"
    kind = "certificate"
    side = "equality"
    metric = "contraction"
    estimators = ("altmin",)
    source = "docs/theory.md#local-rate"
    expectation = False
    per_trial = True
    tolerance = 0.03
    recording: ClassVar[dict[str, Any]] = {"late_sweeps": 200}

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [homogeneous(problem), noiseless(problem), signal(problem), enough_samples(problem)]

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        if fit is not None and not len(fit.history.get("late_contraction", [])):
            return float("nan")  # nothing was recorded that the rate could be held against
        if fit is not None and not at_the_truth(problem, truth, fit):
            return float("nan")
        return local_rate(truth, data)

    def path(self, problem: Problem, truth: Truth, data: Dataset, fit: Any, metric: str) -> Any:
        """The slope ρ, through a late point of the run on reused samples."""
        return slope_path(local_rate(truth, data), truth, fit, metric)

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Late contraction of the residual norm per sweep; NaN without a record of late sweeps."""
        factors = np.asarray(fit.history.get("late_contraction", []), float)
        late = factors[3 * len(factors) // 4 :]
        return float(np.exp(np.log(late).mean())) if len(late) else float("nan")


def at_the_truth(problem: Problem, truth: Truth, fit: Any) -> bool:
    """Whether a fit of the truth's ranks has converged to the truth, towards which its last sweeps contract."""
    if not of_equal_rank(problem, fit):
        return False
    error = float(np.linalg.norm(fit.weights - truth.weights))
    return error <= NEAR * smallest_scale(truth.cores)


def slope_path(rate: float, truth: Truth, fit: Any, metric: str) -> list[float] | None:
    """Distances of a run that contracts by `rate` per sweep, drawn through a late one of a recorded `fit`."""
    measure = {"subspace_distance": subspace_distance, "subspace_distance_fro": subspace_distance_fro}.get(metric)
    if measure is None or fit.history.fresh_samples or math.isnan(rate):
        return None
    seen = np.array([measure(u, truth.input_subspace) for u in fit.history.get("input_subspaces", [])])
    usable = np.flatnonzero(seen > 1e-10)
    if len(usable) < 3 or rate <= 0:
        return None
    anchor = int(usable[2 * len(usable) // 3])
    return [float(seen[anchor] * rate ** (t - anchor)) for t in range(len(seen))]


def local_rate(truth: Truth, data: Dataset) -> float:
    """ρ of the realised data at the truth; NaN where the Jacobian is rank deficient."""
    system = tangent_system(truth, data)
    if system is None or not system.identifiable:
        return float("nan")
    return SweepMap(truth, data).spectral_radius()


def manova_edge(a: float, b: float) -> float:
    """Upper edge (√(a(1−b)) + √(b(1−a)))² of the Jacobi (MANOVA) law; 1 when a + b ≥ 1."""
    if a + b >= 1.0:
        return 1.0
    return (math.sqrt(a * (1.0 - b)) + math.sqrt(b * (1.0 - a))) ** 2


#: Dimension of both blocks from which predicted edges were within their tolerance (blocks of 1 miss by half).
LARGE: Final = 30


class _Edge(Guarantee):
    """What both edges share: they predict the exact local rate of the realised data."""

    kind = "prediction"
    side = "equality"
    metric = "contraction"
    estimators = ("altmin",)
    expectation = True
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [
            vector_model(problem),
            homogeneous(problem),
            isotropic_gaussian(problem),
            equal_counts(problem),
            signal(problem),
            enough_samples(problem),
        ]

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        """A limit: both blocks must be large for its edge to be near the largest eigenvalue."""
        k, d, r = problem.num_users, problem.dim_in, problem.rank_in
        block = min(r * (d - r), k * r - r * r)
        told = f"the edge of a limit; a check needs r(d − r) and kr − r² of at least {LARGE}, got {block}."
        return [Hypothesis("large blocks", block >= LARGE, told)]

    def path(self, problem: Problem, truth: Truth, data: Dataset, fit: Any, metric: str) -> Any:
        """The predicted slope, through a late point of the run on reused samples."""
        return slope_path(self.realised(problem, truth, data, fit), truth, fit, metric)

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        """Exact local rate (`local_contraction_rate`) of the realised data; no fit is needed."""
        return local_rate(truth, data)


@register
class ContractionEdge(_Edge):
    """Predicted local rate for equal core norms: the edge of the Jacobi law.

    If the column spaces of the U block (gauge removed, dimension r(d−r)) and of the core block (kr − r²) were
    independent and uniform in R^N, N = nk − r², their largest squared canonical correlation would tend to

        ρ = (√(a(1−b)) + √(b(1−a)))²,   a = r(d−r)/N,   b = (kr − r²)/N.

    It reaches 1 exactly at nk = degrees of freedom: alternating minimisation contracts locally iff there are
    more equations than unknowns.
    Hypotheses: vector model, covariates N(0, I), equal counts, core norms equal (core_distribution = "unit").
    Kind: prediction – the blocks are not independent, and nothing is proved. Error seen: about 5 % (15 % allowed).
    Source: Wachter 1980 for the law; its use here is ours, docs/theory.md, "Edges".
    """

    name = "contraction_edge"
    source = "Wachter 1980 (Jacobi edge); docs/theory.md#edges"
    conservative = "a prediction: within about 5 % on the sizes tried, under-estimates for unequal core norms"
    tolerance = 0.15

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        equal = problem.core_distribution == "unit" and problem.incoherence in (None, 1.0)
        return [
            *super().conditions(problem),
            Hypothesis(
                "equal core norms", equal, f"needs core_distribution = 'unit', got {problem.core_distribution!r}."
            ),
        ]

    def formula(self, problem: Problem) -> float:
        k, n, d, r = problem.num_users, problem.counts[0], problem.dim_in, problem.rank_in
        freedom = n * k - r * r
        return manova_edge(r * (d - r) / freedom, (k * r - r * r) / freedom)


@register
class ContractionEdgeUnequal(_Edge):
    """Predicted local rate for unequal core norms: the edge of a difference of weighted Wishart matrices.

    With w_i = ‖c_i‖², the prediction is the ρ at which the upper edge of Σ_i w_i[(1−ρ) Σ_{l≤r} gg^T −
    ρ Σ_{l≤n−r} gg^T] in dimension D = r(d−r) is zero: the root of

        min over s ∈ (−1/τ_max, 0) of  −D/s + Σ_j τ_j/(1 + τ_j s) = 0,

    τ the numbers (1−ρ)w_i (r times) and −ρ w_i (n − r times). For equal w it is the Jacobi edge at large size.
    Hypotheses: vector model, covariates N(0, I), equal counts; uses the realised core norms.
    Kind: prediction – over-estimates by 0–25 % (30 % allowed). Source: Bai & Silverstein 1998 for the edge; its
    use here is ours, docs/theory.md, "Edges".
    """

    name = "contraction_edge_unequal"
    source = "Bai & Silverstein 1998 (edge equation); docs/theory.md#edges"
    conservative = "a prediction: over-estimates by 0–25 % on the sizes tried"
    tolerance = 0.3

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        weights = np.einsum("kab,kab->k", truth.cores, truth.cores)
        return unequal_edge(weights, problem.counts[0], problem.dim_in, problem.rank_in)


def unequal_edge(weights: Array, n: int, d: int, r: int) -> float:
    """ρ of `contraction_edge_unequal` for core energies `weights`, shape (k,)."""
    dimension = r * (d - r)
    if dimension == 0:
        return 0.0
    w = weights / weights.mean()

    def edge(rho: float) -> float:
        up, down = (1.0 - rho) * w, -rho * w

        def curve(s: float) -> float:
            return float(-dimension / s + (r * up / (1 + up * s)).sum() + ((n - r) * down / (1 + down * s)).sum())

        low = -1.0 / up.max()
        found = scipy.optimize.minimize_scalar(curve, bounds=(low * (1 - 1e-9), low * 1e-9), method="bounded")
        return float(found.fun)

    low, high = 1e-6, 1.0 - 1e-6
    if edge(low) <= 0:
        return 0.0
    if edge(high) >= 0:
        return 1.0
    return float(scipy.optimize.brentq(edge, low, high, xtol=1e-8))
