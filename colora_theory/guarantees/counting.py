"""Counting equations and unknowns: where no method can recover, and the exact local condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from colora_theory.errors import InputError
from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.guarantees.hypotheses import homogeneous, noiseless
from colora_theory.guarantees.tangent import tangent_system
from colora_theory.model.metrics import SUCCESS_DISTANCE, relative_error
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth


def shared_unknowns(problem: Problem) -> tuple[int, int]:
    """Unknowns of the shared part and the equations per spare sample that speak about them.

    Regression: Y_iV_⊥ speaks only about V, so the r1(d−r1) unknowns of U face r2 equations per sample.
    """
    d, p, r1, r2 = problem.dim_in, problem.dim_out, problem.rank_in, problem.rank_out
    if problem.design == "regression":
        return r1 * (d - r1), r2
    return r1 * (d - r1) + r2 * (p - r2), 1


def enough_samples(problem: Problem) -> Hypothesis:
    """Equations at least match unknowns, in every block (necessary for local recovery)."""
    core = problem.core_unknowns
    unknowns, each = shared_unknowns(problem)
    holds = min(problem.counts) >= core and sum(n - core for n in problem.counts) * each >= unknowns
    return Hypothesis(
        "as many equations as unknowns",
        holds,
        f"needs num_samples ≥ {core} for every user and {unknowns} equations for the shared subspaces beyond "
        f"those, got num_samples = {problem.num_samples} for {problem.num_users} users.",
    )


@register
class Counting(Guarantee):
    """Counting threshold: below this many samples per user no method recovers.

    A sample spends itself first on the user's own core (r1 samples; sensing: r1 r2), the rest on the shared
    subspaces. Local recovery needs at least as many equations as unknowns in both:

        n ≥ r1 + r1(d − r1)/(k r2)                               (regression: Y_iV_⊥ speaks about V alone),
        n ≥ r1 r2 + (r1(d − r1) + r2(p − r2))/k                  (sensing),

    rounded up. With fewer, the Jacobian at the truth is rank deficient for every design: a continuum of other
    weights explains noiseless data equally well. In the vector model this is nk ≥ r(d − r) + kr.
    The value is the least common num_samples; the problem's own num_samples plays no role.
    Hypotheses: every user inside the shared model; its check needs noiseless data.
    Kind: certificate (of impossibility). Necessary, not sufficient: the exact local condition is
    `local_identifiability`. Source: docs/theory.md, "Counting".
    """

    name = "counting"
    kind = "certificate"
    side = "threshold"
    metric = "success"
    against = "num_samples"
    expectation = False
    source = "docs/theory.md#counting"
    conservative = "necessary only: more samples than this may still be too few for a particular method"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [homogeneous(problem)]

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        unknown = problem.rank_in < problem.dim_in
        return [
            noiseless(problem),  # with noise "success" is a softer notion than recovery
            Hypothesis("rank_in < dim_in", unknown, "with rank_in = dim_in there is no subspace to succeed in."),
        ]

    def formula(self, problem: Problem) -> float:
        unknowns, each = shared_unknowns(problem)
        return float(problem.core_unknowns - (-unknowns // (each * problem.num_users)))

    def min_users(self, problem: Problem) -> int:
        """Least possible number of users for which the problem's num_samples is not below the threshold."""
        r1, r2 = problem.rank_in, problem.rank_out
        fewest = max(-(-r1 // r2), -(-r2 // r1))  # fewer users cannot span the shared subspaces
        spare = min(problem.counts) - problem.core_unknowns
        unknowns, each = shared_unknowns(problem)
        if spare < 0 or (spare == 0 and unknowns):
            raise InputError(
                f"no number of users helps: num_samples must be above {problem.core_unknowns}, "
                f"got {min(problem.counts)}; raise num_samples."
            )
        return max(fewest, -(-unknowns // (each * spare))) if unknowns else fewest


@register
class LocalIdentifiability(Guarantee):
    """Exact local condition: without a full-rank Jacobian at the truth there is no recovery.

    Let J be the Jacobian of all responses in (U, C_i, V) at the truth. The truth is locally the only weight that
    explains noiseless data if rank J = r1(d−r1) + r2(p−r2) + k r1 r2 (degrees of freedom). Otherwise, for
    generic designs, it is not isolated and no method can tell it from its neighbours. Claim for each trial, with
    recovery = 1 if ‖Ŵ − W‖ ≤ 10⁻³ ‖W − W_0‖ for the stacked weights and 0 otherwise:

        recovery ≤ 1 if rank J = degrees of freedom, else 0.

    Hypotheses: noiseless, every user inside the shared model. Evaluated on the realised data.
    Kind: certificate. Source: constant-rank theorem; docs/theory.md, "Counting". Says nothing (vacuous) in
    trials with full rank.
    """

    name = "local_identifiability"
    kind = "certificate"
    side = "upper"
    metric = "recovery"
    expectation = False
    per_trial = True
    source = "docs/theory.md#counting"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [homogeneous(problem), noiseless(problem)]

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        system = tangent_system(truth, data)
        return float(system is not None and system.identifiable)

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Whether the weights are recovered, 1 or 0."""
        return float(relative_error(problem, truth, fit) <= SUCCESS_DISTANCE)

    def trivial(self, problem: Problem) -> float:
        return 1.0
