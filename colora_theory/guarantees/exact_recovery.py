"""Exact recovery with probability one: when a zero residual proves that the fit is the truth."""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from colora_theory.guarantees.base import Guarantee, Hypothesis, least, register
from colora_theory.guarantees.counting import of_equal_rank
from colora_theory.guarantees.hypotheses import generic_cores, homogeneous, noiseless
from colora_theory.model.dataset import predict
from colora_theory.model.linalg import Array
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth

#: Root mean square residual, relative to the responses', that counts as zero; relative error that counts as wrong.
INTERPOLATES: Final = 1e-10
WRONG: Final = 1e-3


@lru_cache(maxsize=4096)
def _options(r1: int, r2: int, shared: int, n: int) -> dict[tuple[int, int], int]:
    """What a user can do about a subspace L of dimension `shared` in R^{r1}: {(codimension, agreements): gain}.

    The wrong weight of a user agrees with the true one on κ of its r2 output directions; its core maps a
    q-dimensional space of directions into L (q above the generic dimension costs codimension). Each remaining
    direction frees r1 unknowns of the core and binds n equations. Only the largest gain of each kind is kept.
    """
    generic = max(0, shared + r2 - r1)
    images = range(generic, min(shared, r2) + 1) if r2 <= r1 else (generic,)
    best: dict[tuple[int, int], int] = {}
    for q in images:
        cost = q * (r1 - r2 - shared + q) if r2 <= r1 else 0
        for kappa in range(q + 1):
            gain = kappa * (q - kappa) + (r1 - n) * (r2 - kappa) - cost
            key = (cost, min(kappa, shared))
            best[key] = max(best.get(key, gain), gain)
    return best


def _most(options: dict[tuple[int, int], int], users: int, budget: int, span: int, start: Array) -> Array:
    """Best totals over `users` equal users, by codimension used (rows) and agreements counted (columns)."""
    free = max(gain for (cost, _), gain in options.items() if cost == 0)
    able = min(users, budget + span)  # no more of them can do anything but the best that costs nothing
    totals = start + free * (users - able)
    for _ in range(able):
        new = np.full_like(totals, -np.inf)
        for (cost, agreed), gain in options.items():
            if cost > budget:
                continue
            moved = totals[: budget + 1 - cost] + gain
            for column in range(span + 1):
                into = min(span, column + agreed)
                np.maximum(new[cost:, into], moved[:, column], out=new[cost:, into])
        totals = new
    return totals


def regression_excess(counts: Counter[int], d: int, r1: int, r2: int) -> float:
    """Largest dimension, over all strata, of the wrong weights that explain the data; negative: there are none."""
    worst = -math.inf
    for shared in range(r1):
        budget = shared * (r1 - shared)
        totals = np.full((budget + 1, shared + 1), -np.inf)
        totals[0, 0] = 0.0
        for n, users in sorted(counts.items()):
            totals = _most(_options(r1, r2, shared, n), users, budget, shared, totals)
        worst = max(worst, budget + (r1 - shared) * (d - r1) + float(totals[:, shared].max()))
    return worst


def sensing_excess(counts: Counter[int], d: int, p: int, r1: int, r2: int) -> float:
    """The same for sensing, where a user agrees entirely or not at all."""
    ordered = np.sort(np.fromiter(counts.elements(), float)) - r1 * r2
    bound = np.concatenate([[0.0], np.cumsum(ordered)])  # equations of the poorest users beyond their cores
    worst, users = -math.inf, len(ordered)
    for agreed in range(users):
        seen_in, seen_out = min(r1, agreed * min(r1, r2)), min(r2, agreed * min(r1, r2))
        if (seen_in, seen_out) == (r1, r2):
            break  # both subspaces are the true ones, and the equations for the cores linear
        free = (r1 - seen_in) * (d - r1) + (r2 - seen_out) * (p - r2)
        worst = max(worst, free - float(bound[users - agreed]))
    return worst


def recovers(problem: Problem, shift: int = 0) -> bool:
    """Whether the theorem's condition holds for the problem's counts, each increased by `shift`."""
    counts = Counter({n + shift: users for n, users in problem.users_by_count.items()})
    d, p, r1, r2 = problem.dim_in, problem.dim_out, problem.rank_in, problem.rank_out
    if min(counts) < problem.core_unknowns:
        return False
    if problem.design == "regression":
        return regression_excess(counts, d, r1, r2) < 0
    return sensing_excess(counts, d, p, r1, r2) < 0


@register
class ExactRecovery(Guarantee):
    """Exact recovery with probability one: a zero residual proves that the fit is the truth.

    Noiseless data, covariates with a joint density, cores in general position. With enough samples the following
    has probability one: every weight of the model (ranks r1, r2) that explains the data exactly is the truth. So a
    fit with zero residual is certified, whatever method found it. Enough is, with counts sorted upwards,

        n_i ≥ r and Σ_{i ≤ k−j} (n_i − r) ≥ (r − j)(d − r) + 1,  j = 0 … r − 1                      (vector model),
        n_i ≥ r1 r2 and Σ_{i ≤ k−t} (n_i − r1 r2) ≥ (r1 − j_t)(d − r1) + (r2 − l_t)(p − r2) + 1     (sensing),

    j_t = min(r1, t min(r1, r2)), l_t = min(r2, t min(r1, r2)), for all t with (j_t, l_t) ≠ (r1, r2); regression
    with several outputs: n_i ≥ r1, and the maximum over the strata of docs/theory.md, computed here, is negative
    (for one stratum it says min(r1, r2) Σ(n_i − r1) ≥ r1(d − r1) + 1). That is one equation above `counting`. No
    constants, and nothing about how hard the fit is to find. (One matrix: n ≥ r(d + p − r) + 1, which for d = p
    is the 2dr − r² + 1 of Eldar, Needell & Plan 2012.)
    The value is the least common num_samples (unequal counts: the poorest user's, all users gaining equally).
    Observed, in trials whose fit has the truth's ranks and a relative residual of at most 1e-10: 1 if its relative
    error exceeds 1e-3, else 0; claimed: 0.
    Hypotheses: inside the shared model, cores in general position, covariates with a density; its check needs
    noiseless data and enough samples.
    Kind: certificate (probability one). Source: dimension of the incidence set of wrong weights, ours;
    docs/theory.md, "Exact recovery". Compare Gesmundo, Grosdos & Uschmajew 2025 (arXiv 2505.24328) and Breiding
    et al. 2021 (arXiv 2108.13208): dim + 1 generic measurements identify a generic point of a variety.
    """

    name = "exact_recovery"
    kind = "certificate"
    side = "threshold"
    metric = "wrong_interpolant"
    against = "num_samples"
    expectation = False
    per_trial = True
    source = "docs/theory.md#exact-recovery"
    conservative = "sufficient: for several outputs the count of strata may ask for more than is needed"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        smooth = problem.covariate_law.density
        return [
            homogeneous(problem),
            generic_cores(problem),
            Hypothesis(
                "covariates with a density",
                smooth,
                f"needs covariates with a density, got {problem.covariates!r}.",
            ),
        ]

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        message = "num_samples is below the threshold: nothing is claimed."
        return [noiseless(problem), Hypothesis("enough samples", recovers(problem), message)]

    def formula(self, problem: Problem) -> float:
        low = problem.core_unknowns - min(problem.counts)
        return float(min(problem.counts) + low + least(lambda more: recovers(problem, low + more), 0))

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        if not recovers(problem) or (fit is not None and not of_equal_rank(problem, fit)):
            return float("nan")
        return 0.0 if fit is None or relative_residual(data, fit) <= INTERPOLATES else float("nan")

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Whether a fit that explains the data is not the truth, 1 or 0."""
        wrong = np.linalg.norm(fit.weights - truth.weights) > WRONG * np.linalg.norm(truth.changes)
        return float(wrong and relative_residual(data, fit) <= INTERPOLATES)


def relative_residual(data: Dataset, fit: Any) -> float:
    """Norm of the residual relative to that of the responses less W_0's predictions; 0 without responses."""
    size = float(np.linalg.norm(data.residual_responses()))
    missed = float(np.linalg.norm(data.responses - predict(data.covariates, fit.weights)))
    return missed / size if size else float(missed > 0)
