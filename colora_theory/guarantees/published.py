"""Published rates and thresholds whose constants the sources leave open: one table.

`value` is the rate without its constant. A verdict calibrates the constant on one part of a grid and tests on the
rest; a threshold is drawn over phase diagrams and not tested. `tag` says how well the statement was verified: V
against a copy of the source, V2 against another text's paraphrase, R nn from memory with nn % confidence.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.guarantees.grip import class_incoherence
from colora_theory.guarantees.hypotheses import (
    at_least,
    enough_moments,
    equal_counts,
    homogeneous,
    isotropic_gaussian,
    noiseless,
    noisy,
    sensing,
    signal,
    vector_model,
)
from colora_theory.model.linalg import Array
from colora_theory.model.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published statement: what a guarantee's attributes say, its rate, and its hypotheses."""

    name: str
    statement: str
    source: str
    tag: str
    rate: Callable[[Problem], float]
    needs: Callable[[Problem], list[Hypothesis]]
    metric: str = "subspace_distance"
    estimators: tuple[str, ...] = ()
    side: str = "upper"
    side_information: tuple[str, ...] | None = None


class PublishedRate(Guarantee):
    """A row of the table as a guarantee."""

    kind = "rate"
    conservative = "constant (and logarithms) unspecified"
    row: ClassVar[Row]

    @property
    def statement(self) -> str:
        """The statement of the row."""
        return inspect.cleandoc(self.row.statement)

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return self.row.needs(problem)

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        if self.metric != "mean_user_error":  # distances are bounded
            return []
        return [enough_moments(problem, problem.rank_in, "rank")]

    def formula(self, problem: Problem) -> float:
        return self.row.rate(problem)


def diversity(problem: Problem) -> Array:
    """Eigenvalues, largest first, of Σ C_iC_iᵀ/k in the population (exact for orthogonal cores)."""
    r = problem.rank_in
    spectrum = problem.condition_number ** (-2.0 * np.arange(r) / max(r - 1, 1))
    return np.asarray(problem.signal_norm**2 * spectrum / spectrum.sum())


def _vector(problem: Problem) -> list[Hypothesis]:
    return [vector_model(problem), isotropic_gaussian(problem), equal_counts(problem), homogeneous(problem)]


def _shared(problem: Problem) -> list[Hypothesis]:
    return [isotropic_gaussian(problem), equal_counts(problem), homogeneous(problem)]


def _enough_for_moments(problem: Problem) -> list[Hypothesis]:
    enough = problem.signal_norm > 0 and min(problem.counts) > 0 and _moment_distance(problem) <= 1.0
    quiet = problem.noise_std <= problem.signal_norm
    return [
        Hypothesis("N ≥ d r κ̄/ν", enough, "needs more samples: the claimed distance must be below 1."),
        Hypothesis("bounded noise", quiet, f"needs noise_std ≤ signal_norm, got {problem.noise_std:g}."),
    ]


def _square(problem: Problem) -> Hypothesis:
    enough = min(problem.counts) >= problem.rank_in**2
    return Hypothesis("n ≥ r²", enough, f"needs num_samples ≥ {problem.rank_in**2}, got {problem.num_samples}.")


def _two_equations(problem: Problem) -> Hypothesis:
    enough = problem.num_observations >= 2 * problem.degrees_of_freedom
    return Hypothesis("N ≥ 2 dof", enough, "needs two equations per unknown.")


def _bounded_users(problem: Problem) -> Hypothesis:
    bounded = problem.core_distribution != "gaussian" and problem.signal_norm > 0 and min(problem.counts) > 0
    return Hypothesis("bounded users", bounded, "needs core_distribution 'unit' or 'orthogonal'.")


def _new_task(problem: Problem) -> list[Hypothesis]:
    enough = min(problem.counts) >= 2 * problem.rank_in
    return [
        *_vector(problem),
        noisy(problem),
        Hypothesis("n₂ ≳ r", enough, f"needs num_samples ≥ {2 * problem.rank_in} for the new task."),
    ]


def _moment_distance(problem: Problem) -> float:
    values = diversity(problem) / problem.signal_norm**2
    kappa = float(values.sum() / (problem.rank_in * values[-1]))
    return math.sqrt(kappa * problem.dim_in * problem.rank_in / (float(values[-1]) * sum(problem.counts)))


def _minimax_distance(problem: Problem) -> float:
    total, smallest = sum(problem.counts), float(diversity(problem)[-1])
    worst = max(1.0 / (smallest * total), problem.dim_in * problem.rank_in / total)
    return problem.noise_std * math.sqrt(worst)


def _risk(problem: Problem, shared: int) -> float:
    """σ² (d · shared/N + r/n): the shared part, and the user's own."""
    n = problem.counts[0]
    return problem.noise_std**2 * (problem.dim_in * shared / (n * problem.num_users) + problem.rank_in / n)


def _transfer_risk(problem: Problem) -> float:
    r, n = problem.rank_in, problem.counts[0]
    distance2 = problem.noise_std**2 * problem.dim_in * r / sum(problem.counts)
    return distance2 + problem.noise_std**2 * r / n


def _distinct_pairs_distance(problem: Problem) -> float:
    b2, noise = problem.signal_norm**2, problem.noise_std**2
    spread = b2 * b2 + b2 * noise + noise**2 / problem.counts[0]
    return math.sqrt(problem.dim_in * spread / sum(problem.counts)) / float(diversity(problem)[-1])


def _colora_samples(problem: Problem) -> float:
    r1, r2, k = problem.rank_in, problem.rank_out, problem.num_users
    out = problem.dim_out * r2 if problem.dim_out > 1 else 0
    return class_incoherence(problem) * (problem.dim_in * r1 + out + k * r1 * r2) / k


def _tucker_samples(problem: Problem) -> float:
    r1, r2, k = problem.rank_in, problem.rank_out, problem.num_users
    r3 = min(k, r1 * r2)
    unknowns = r1 * r2 * r3 + problem.dim_in * r1 + problem.dim_out * r2 + k * r3
    return 4.0 * math.log(3.0) * unknowns / k


TABLE: Final = (
    Row(
        name="method_of_moments_rate",
        estimators=("spectral",),
        source="Tripuraneni, Jin & Jordan 2021, arXiv 2002.11684",
        tag="R 85",
        rate=_moment_distance,
        needs=lambda p: [*_vector(p), *_enough_for_moments(p)],
        statement="""Method of moments: distance Õ(√(κ̄ d r/(ν N))).

    The r leading eigenvectors of (1/N)Σ y²xxᵀ have, with high probability, dist ≤ Õ(√(κ̄ d r/(νN))), N = nk,
    ν = λ_r of Σ c_ic_iᵀ/k, κ̄ = tr(Σ c_ic_iᵀ/k)/(rν), energies relative to signal_norm². The source states it
    for unit-energy signals and bounded noise; N ≳ polylog · d r κ̄/ν.
    Hypotheses: vector model, covariates N(0, I), N ≥ d r κ̄/ν, noise_std ≤ signal_norm.
    Kind: rate. Source: Tripuraneni, Jin & Jordan 2021, arXiv 2002.11684.""",
    ),
    Row(
        name="minimax_subspace_rate",
        side="lower",
        source="Tripuraneni, Jin & Jordan 2021, arXiv 2002.11684",
        tag="R 85",
        rate=_minimax_distance,
        needs=lambda p: [*_vector(p), noisy(p), signal(p), at_least(p, 1, "1")],
        side_information=(),
        statement="""Minimax lower bound for the subspace: Ω(max(√(1/(νN)), √(d r/N))).

    For any estimator that sees the data alone there are subspaces for which, with probability at least 1/4,
    dist ≥ c σ max(√(1/(νN)), √(d r/N)), ν = λ_r(Σ c_ic_iᵀ/k). (The factor σ is ours; the source fixes σ = 1.)
    Hypotheses: vector model, covariates N(0, I), noise.
    Kind: rate (lower). Source: Tripuraneni, Jin & Jordan 2021, arXiv 2002.11684.""",
    ),
    Row(
        name="altmin_prediction_rate",
        metric="mean_user_error",
        estimators=("altmin",),
        source="Thekumparampil, Jain, Netrapalli & Oh 2021, arXiv 2105.08306",
        tag="V2",
        rate=lambda p: _risk(p, p.rank_in**2),
        needs=lambda p: [*_vector(p), noisy(p), _square(p)],
        statement="""Alternating minimisation with fresh samples: prediction error of the shared part ∝ d r²/N.

    With Ω(r²) samples per user, the excess risk of a user is Õ(σ² (d r²/N + r/n)): the shared part as in the
    source (d r²/N), the user's own part that every method pays.
    Hypotheses: vector model, covariates N(0, I), noise, n ≥ r².
    Kind: rate (a factor r above the optimal d r/N). Source: Thekumparampil, Jain, Netrapalli & Oh 2021,
    arXiv 2105.08306.""",
    ),
    Row(
        name="optimal_error_rate",
        metric="mean_user_error",
        estimators=("altmin", "gauss_newton"),
        source="TPGD, arXiv 2605.00473",
        tag="V",
        rate=lambda p: _risk(p, p.rank_in),
        needs=lambda p: [*_vector(p), noisy(p), _two_equations(p)],
        statement="""Optimal average error of the shared part: σ² d r/N, plus the user's own r/n.

    Likelihood methods reach d r²/N in general; the optimal average error is σ² d r/N. The user's own part σ² r/n
    is added here, which every method pays.
    Hypotheses: vector model, covariates N(0, I), noise, more equations than unknowns.
    Kind: rate. Source: TPGD, arXiv 2605.00473 (excerpt).""",
    ),
    Row(
        name="distinct_pairs_rate",
        estimators=("spectral",),
        source="Duchi, Feldman, Hu & Talwar 2022",
        tag="V",
        rate=_distinct_pairs_distance,
        needs=lambda p: [*_vector(p), _bounded_users(p)],
        statement="""Spectral estimator on distinct pairs: distance O(log³ · √(d(b⁴ + b²σ² + σ⁴/n)/(N λ_r²))).

    b bounds ‖θ_i‖ (signal_norm here), λ_r = σ_r² the smallest eigenvalue of Σ θ_iθ_iᵀ/k on U.
    Hypotheses: vector model, covariates N(0, I), equal norms (core_distribution "unit" or "orthogonal").
    Kind: rate. Source: Duchi, Feldman, Hu & Talwar 2022.""",
    ),
    Row(
        name="new_task_rate",
        metric="mean_user_error",
        estimators=("transfer",),
        source="Du, Hu, Kakade, Lee & Lei 2021, arXiv 2002.09434",
        tag="V",
        rate=lambda p: _risk(p, p.rank_in),
        needs=_new_task,
        statement="""A new task after representation learning: risk Õ(d r/N + r/n₂).

    N samples of earlier tasks learn the subspace, n₂ = num_samples of the new task fit its core (noise one in the
    source; σ² here).
    Hypotheses: vector model, covariates N(0, I), noise, n₂ ≳ r.
    Kind: rate. Source: Du, Hu, Kakade, Lee & Lei 2021, arXiv 2002.09434.""",
    ),
    Row(
        name="transfer_distance_rate",
        metric="mean_user_error",
        estimators=("transfer",),
        source="Tripuraneni, Jin & Jordan 2021, arXiv 2002.11684",
        tag="R 85",
        rate=_transfer_risk,
        needs=_new_task,
        statement="""Transfer from an estimated subspace: excess risk Õ(δ² + r/n₂) at distance δ.

    The exact form for a fixed subspace is `transfer_risk`; here δ² = σ² d r/N, the optimal rate for the subspace,
    is put in, with energies relative to signal_norm².
    Hypotheses: vector model, covariates N(0, I), noise, n₂ ≳ r log n₂.
    Kind: rate. Source: Tripuraneni, Jin & Jordan 2021, arXiv 2002.11684.""",
    ),
    Row(
        name="altgdmin_samples",
        estimators=("altgdmin",),
        side="threshold",
        source="Nayer & Vaswani, arXiv 2102.10217, 2306.17782",
        tag="V",
        rate=lambda p: (p.dim_in + p.num_users) * p.rank_in**2 * math.log(1e3) / p.num_users,
        needs=lambda p: [*_vector(p), noiseless(p)],
        statement="""AltGDmin's sample complexity: N ≳ (d + k) r² log(1/ε).

    Value: N/k with constant one and ε = 1e-3, the success distance.
    Hypotheses: vector model, covariates N(0, I), noiseless.
    Kind: rate (threshold in num_samples). Source: Nayer & Vaswani, arXiv 2102.10217, 2306.17782 (abstract).""",
    ),
    Row(
        name="colora_samples",
        estimators=("altmin",),
        side="threshold",
        source="Magakyan et al. 2026, arXiv 2602.07218; our reconstruction, docs/theory.md#grip",
        tag="V summary only",
        rate=_colora_samples,
        needs=_shared,
        statement="""CoLoRA's sample complexity under GRIP: nk ≳ μ((d+p)r + k r²).

    The paper proves convergence of alternating minimisation for shared adapters with personal r × r cores under
    a GRIP condition and sufficient task similarity. Its definition was not available: this is our reconstruction
    of a condition the CoLoRA paper names (`grip_net`), up to its constant. Value: μ((d+p)r + k r1 r2)/k with
    r = max(r1, r2).
    Hypotheses: covariates N(0, I), equal counts, inside the shared model.
    Kind: rate (threshold in num_samples). Source: Magakyan, Reisizadeh, Park, Parrilo & Ozdaglar 2026,
    arXiv 2602.07218 (summary); docs/theory.md, "GRIP".""",
    ),
    Row(
        name="tucker_rip_samples",
        side="threshold",
        source="Rauhut, Schneider & Stojanac 2017, arXiv 1602.05217",
        tag="R 95",
        rate=_tucker_samples,
        needs=lambda p: [sensing(p), *_shared(p)],
        statement="""Restricted isometry for Tucker tensors: m ≳ δ⁻²(r³ + 3 n r) log 3.

    For one dense Gaussian ensemble on n × n × n tensors of rank (r, r, r). Here the weights of all users form a
    d × p × k tensor, measured user by user, which is a harder ensemble: the number is a lower reference.
    Value, per user, with constant one, δ = 1/2, r3 = min(k, r1 r2): (r1 r2 r3 + d r1 + p r2 + k r3) log 3/(k δ²).
    Hypotheses: sensing design, covariates N(0, I), equal counts, inside the shared model.
    Kind: rate (threshold in num_samples). Source: Rauhut, Schneider & Stojanac 2017, arXiv 1602.05217.""",
    ),
    Row(
        name="nuclear_norm_samples",
        estimators=("nuclear_norm",),
        side="threshold",
        source="Recht, Fazel & Parrilo 2010; Candès & Plan 2011",
        tag="V",
        rate=lambda p: float((p.dim_in + p.dim_out) * max(p.rank_in, p.rank_out)),
        needs=lambda p: [sensing(p), *_shared(p)],
        statement="""Nuclear-norm recovery of one matrix: m ≳ (d + p) r.

    δ_{5r} < 1/10 makes nuclear-norm minimisation exact, and m ≥ D n r Gaussian measurements suffice for it. Value:
    (d + p) r, the scale, for each user on its own.
    Hypotheses: sensing design, covariates N(0, I), equal counts, inside the shared model.
    Kind: rate (threshold in num_samples). Source: Recht, Fazel & Parrilo 2010; Candès & Plan 2011.""",
    ),
)


for _row in TABLE:
    _own = {name: getattr(_row, name) for name in ("name", "metric", "estimators", "side", "source", "tag")}
    if _row.side == "threshold":
        _own |= {"metric": "success", "against": "num_samples"}
    _own |= {
        "row": _row,
        "side_information": _row.side_information,
        "__doc__": _row.statement,
        "__module__": __name__,
    }
    register(type(_row.name, (PublishedRate,), _own))
