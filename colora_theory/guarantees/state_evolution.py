"""State evolutions of alternating minimisation when every half step sees samples of its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.guarantees.hypotheses import (
    equal_counts,
    homogeneous,
    isotropic_gaussian,
    signal,
    vector_model,
)
from colora_theory.model.linalg import subspace_distance_fro
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth


class _Evolution(Guarantee):
    """What both state evolutions share: iterate a map from the realised start, compare the final mean sine²."""

    kind = "prediction"
    side = "equality"
    metric = "mean_squared_sine"
    estimators = ("altmin",)
    expectation = True
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        even = problem.core_distribution == "orthogonal" and problem.condition_number == 1.0
        return [
            vector_model(problem),
            homogeneous(problem),
            isotropic_gaussian(problem),
            equal_counts(problem),
            signal(problem),
            Hypothesis(
                "orthogonal cores",
                even,
                "needs core_distribution = 'orthogonal' with condition_number = 1, got "
                f"{problem.core_distribution!r}, {problem.condition_number:g}.",
            ),
        ]

    def step(self, s2: float, problem: Problem, core_rows: int, shared_rows: int) -> float:
        """Mean squared sine after a sweep with that many fresh rows in the core and in the U step."""
        raise NotImplementedError

    def trajectory(self, problem: Problem, start: float, sweeps: int, rows: tuple[int, int]) -> list[float]:
        """Mean squared sines before the first and after each of `sweeps` sweeps."""
        out = [start]
        for _ in range(sweeps):
            out.append(min(1.0, self.step(out[-1], problem, *rows)))
        return out

    def formula(self, problem: Problem) -> float:
        """Level at which the evolution settles with num_samples fresh rows in every half step."""
        n = problem.counts[0]
        return self.trajectory(problem, 0.01, 500, (n, n))[-1]

    def _course(self, problem: Problem, truth: Truth, fit: Any) -> list[float]:
        """Mean squared sines along a recorded run on fresh samples; empty for any other run."""
        subspaces = [] if fit is None else fit.history.get("input_subspaces", [])
        if len(subspaces) < 2 or not fit.history.fresh_samples:  # or nothing was recorded
            return []
        if subspaces[0].shape != truth.input_subspace.shape:
            return []  # the evolution is that of a fit of the truth's rank
        start = subspace_distance_fro(subspaces[0], truth.input_subspace) ** 2 / problem.rank_in
        sweeps = len(subspaces) - 1
        rows = problem.counts[0] // (2 + 2 * sweeps)
        return self.trajectory(problem, start, sweeps, (rows, rows))

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        course = self._course(problem, truth, fit)
        return course[-1] if course else float("nan")

    def path(self, problem: Problem, truth: Truth, data: Dataset, fit: Any, metric: str) -> Any:
        """Predicted Frobenius distances of a run on fresh samples."""
        if metric != "subspace_distance_fro":
            return None
        return [math.sqrt(problem.rank_in * s2) for s2 in self._course(problem, truth, fit)] or None

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Mean squared sine of the principal angles at the end."""
        return subspace_distance_fro(fit.input_subspace, truth.input_subspace) ** 2 / problem.rank_in


@register
class FreshSampleEvolution(_Evolution):
    """State evolution of alternating minimisation with fresh samples in every half step, first order.

    With s² the mean squared sine per direction, n rows per half step and unit-energy orthogonal cores (energies
    are measured against signal_norm²: σ² below is noise_std²/signal_norm²),

        φ² = r(s²+σ²)/(n−r−1),    s₊² = r(d−r)(σ²+φ²)/(nk).

    Hypotheses: vector model, covariates N(0, I), equal counts, orthogonal cores with κ = 1, fresh samples
    (altmin with fresh_samples and keep_history). As a function of the problem the value is the settled level
    with num_samples rows per half step.
    Kind: prediction (leading order in 1/n; 40 % allowed while the error is still falling).
    Source: docs/theory.md, "Fresh samples".
    """

    name = "fresh_sample_evolution"
    source = "docs/theory.md#fresh-samples"
    conservative = "a prediction: first order, within about 40 % in transit and 10 % when settled"
    tolerance = 0.4

    def step(self, s2: float, problem: Problem, core_rows: int, shared_rows: int) -> float:
        d, r, k = problem.dim_in, problem.rank_in, problem.num_users
        noise = (problem.noise_std / problem.signal_norm) ** 2
        if core_rows <= r + 1:
            return 1.0
        phi2 = r * (s2 + noise) / (core_rows - r - 1)
        return r * (d - r) * (noise + phi2) / (shared_rows * k)


@register
class AlignedFreshSampleEvolution(_Evolution):
    """State evolution with fresh samples, with the alignment of the cores taken into account.

    As `fresh_sample_evolution`, but the estimated core keeps only the aligned part: c² = 1 − s²,
    v = c²/r + φ²/r, M = (c/r)/v, e² = r(1/r − c²/(r²v)), Δ = (d−r)(σ²+e²)/(v(nk − dr − 1)),

        s₊² = Δ/(M² + Δ).

    Hypotheses: those of `fresh_sample_evolution` and nk > dr + 1.
    Kind: prediction (10 % when settled; 40 % allowed). Source: docs/theory.md, "Fresh samples".
    """

    name = "aligned_fresh_sample_evolution"
    source = "docs/theory.md#fresh-samples"
    conservative = "a prediction: treats the errors of different users as independent of the U step's design"
    tolerance = 0.4

    def step(self, s2: float, problem: Problem, core_rows: int, shared_rows: int) -> float:
        d, r, k = problem.dim_in, problem.rank_in, problem.num_users
        noise = (problem.noise_std / problem.signal_norm) ** 2
        if core_rows <= r + 1 or shared_rows * k <= d * r + 1:
            return 1.0
        phi2 = r * (s2 + noise) / (core_rows - r - 1)
        c2 = max(0.0, 1.0 - s2)
        energy = (c2 + phi2) / r
        kept = math.sqrt(c2) / r / energy
        missed = r * (1.0 / r - c2 / (r * r * energy))
        delta = (d - r) * (noise + missed) / (energy * (shared_rows * k - d * r - 1))
        return delta / (kept * kept + delta)
