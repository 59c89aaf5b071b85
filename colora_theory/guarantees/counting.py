"""Counting equations and unknowns: what noiseless data cannot determine, and the exact local condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from colora_theory.errors import InputError
from colora_theory.guarantees.base import Guarantee, Hypothesis, least, register
from colora_theory.guarantees.hypotheses import generic_cores, homogeneous, noiseless
from colora_theory.guarantees.tangent import tangent_system
from colora_theory.model.linalg import subspace_distance
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth

#: Relative distance within which an answer is the truth itself. Any fixed radius is hit by luck, in about that
#: share of the trials (times √dim_in); this one is far below what trials can show, and far above rounding.
EXACT: Final = 1e-8


def shared_unknowns(problem: Problem) -> tuple[int, int]:
    """Unknowns of the shared part, and the equations about them in one sample beyond those of the user's core.

    Regression: Y_iV_⊥ speaks only about V, and Y_iV sees the r1(d−r1) unknowns A of U through A C_i, so that a
    sample brings rank C_i = min(r1, r2) equations. Sensing: one.
    """
    d, p, r1, r2 = problem.dim_in, problem.dim_out, problem.rank_in, problem.rank_out
    if problem.design == "regression":
        return r1 * (d - r1), min(r1, r2)
    return r1 * (d - r1) + r2 * (p - r2), 1


def spare_equations(problem: Problem, shift: int = 0) -> int:
    """Most equations about the shared unknowns that all users together can bring, with `shift` more samples each.

    A user's core takes the first r1 samples (sensing: r1 r2). Beyond that a user sees no more than its own image
    A C_i of A (sensing: and C_i Bᵀ), however many samples it has.
    """
    d, p, r1, r2 = problem.dim_in, problem.dim_out, problem.rank_in, problem.rank_out
    _, each = shared_unknowns(problem)
    most = d - r1 if problem.design == "regression" else min(r1, r2) * (d - r1 + p - r2)
    own = problem.core_unknowns - shift
    return each * sum(users * min(max(n - own, 0), most) for n, users in problem.users_by_count.items())


def enough_samples(problem: Problem) -> Hypothesis:
    """Equations at least match unknowns, in every block (necessary for local recovery)."""
    core, unknowns = problem.core_unknowns, shared_unknowns(problem)[0]
    holds = min(problem.counts) >= core and spare_equations(problem) >= unknowns
    return Hypothesis(
        "as many equations as unknowns",
        holds,
        f"needs num_samples ≥ {core} for every user and {unknowns} equations for the shared subspaces beyond "
        f"those, got num_samples = {problem.num_samples} for {problem.num_users} users.",
    )


def of_equal_rank(problem: Problem, fit: Any) -> bool:
    """Whether a fit has subspaces of the truth's dimensions."""
    if fit is None or fit.input_subspace is None or fit.output_subspace is None:
        return False
    return (fit.input_subspace.shape[1], fit.output_subspace.shape[1]) == (problem.rank_in, problem.rank_out)


@register
class Counting(Guarantee):
    """Counting threshold: below this many samples noiseless data leave the shared subspaces open.

    A sample spends itself first on the user's own core (r1 samples; sensing: r1 r2), the rest on the shared
    subspaces, block by block. The subspaces can be determined only if

        min(r1, r2) Σ_i min((n_i − r1)₊, d − r1) ≥ r1(d − r1)                              (regression),
        Σ_i min((n_i − r1 r2)₊, min(r1, r2)(d−r1+p−r2)) ≥ r1(d − r1) + r2(p − r2)          (sensing),

    for equal counts and r2 ≤ r1: n ≥ r1 + r1(d−r1)/(k r2), and n ≥ r1 r2 + (r1(d−r1) + r2(p−r2))/k; in the vector
    model nk ≥ r(d−r) + kr. With fewer the Jacobian at the truth is rank deficient for every design: a continuum of
    weights of the model, with other subspaces, explains the data, and least squares with free cores cannot tell
    the truth from them. Cores with a density: no estimator at all finds the truth with positive probability
    (`exact_recovery` is the converse). A prior on the cores can still bring an estimator near (moments of very
    many users), and a known constraint on them, such as unit norms, exactly there; so the claim is about exact
    recovery and about fits that leave the cores free.
    The value is the least common num_samples (unequal counts: the poorest user's, all users gaining equally).
    Observed: 1 if both subspaces are within 1e-8 of the truth's, else 0. Any radius is hit by luck in about that
    share of trials; luck at 1e-8 is beyond what trials can show.
    Hypotheses: every user inside the shared model; its check needs noiseless data, cores in general position and
    a fit of the truth's ranks.
    Kind: certificate (of non-identifiability). Necessary, not sufficient: the exact local condition is
    `local_identifiability`. Source: docs/theory.md, "Counting".
    """

    name = "counting"
    kind = "certificate"
    side = "threshold"
    metric = "success"
    against = "num_samples"
    estimators = ("altmin", "gauss_newton", "altgdmin", "fedrep")
    expectation = False
    per_trial = True
    source = "docs/theory.md#counting"
    conservative = "necessary only: more samples than this may still be too few for a particular method"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [homogeneous(problem)]

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        unknown = problem.rank_in < problem.dim_in
        short = min(problem.counts) < self.formula(problem)
        return [
            noiseless(problem),  # with noise "success" is a softer notion than recovery
            generic_cores(problem),
            Hypothesis("rank_in < dim_in", unknown, "with rank_in = dim_in there is no subspace to succeed in."),
            Hypothesis(
                "too few samples",
                short,
                f"num_samples is not below the threshold {self.formula(problem):g}: nothing is claimed.",
            ),
        ]

    def formula(self, problem: Problem) -> float:
        unknowns, core, fewest = shared_unknowns(problem)[0], problem.core_unknowns, min(problem.counts)
        if not unknowns:
            return float(core)
        # shifting all counts equally: enough at the latest when every user brings all it can
        low = core - max(problem.counts)
        shift = least(lambda more: spare_equations(problem, more + low) >= unknowns, 0)
        return float(fewest + low + shift)

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        short = min(problem.counts) < self.formula(problem)
        return 0.0 if short and (fit is None or of_equal_rank(problem, fit)) else float("nan")

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Whether both subspaces are exactly recovered, 1 or 0."""
        if not of_equal_rank(problem, fit):
            return 0.0
        pairs = (
            (fit.input_subspace, truth.input_subspace),
            (fit.output_subspace, truth.output_subspace),
        )
        return float(all(subspace_distance(found, true) <= EXACT for found, true in pairs))

    def min_users(self, problem: Problem) -> int:
        """Least possible number of users for which the problem's num_samples is not below the threshold.

        For unequal counts the poorest user's number stands for all.
        """
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
    generic designs and cores, it lies on a curve of weights of the model that explain the data equally well, and
    an estimator without side information meets it with probability zero. Claim for each trial, with recovery = 1
    if ‖Ŵ − W‖ ≤ 1e-8 times the smallest scale of the truth (the least singular value of either unfolding of the
    cores, or the least ‖C_i‖) and 0 otherwise:

        recovery ≤ 1 if rank J = degrees of freedom, else 0.

    The scale matters: an estimate may be close to the whole of W while the directions that the data leave open,
    which may be weak ones, are wrong. Where rounding hides the rank of J nothing is claimed.
    Hypotheses: noiseless, every user inside the shared model, cores in general position; an estimator without
    side information. Evaluated on the realised data.
    Kind: certificate. Source: constant-rank theorem; docs/theory.md, "Counting". Says nothing (vacuous) in
    trials with full rank.
    """

    name = "local_identifiability"
    kind = "certificate"
    side = "upper"
    metric = "recovery"
    expectation = False
    per_trial = True
    side_information = ()
    source = "docs/theory.md#counting"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [homogeneous(problem), noiseless(problem), generic_cores(problem)]

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        system = tangent_system(truth, data)
        if system is None:
            return float("nan")
        return 0.0 if system.singular else 1.0 if system.identifiable else float("nan")

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Whether the weights are recovered in every direction, 1 or 0."""
        return float(np.linalg.norm(fit.weights - truth.weights) <= EXACT * smallest_scale(truth.cores))

    def trivial(self, problem: Problem) -> float:
        return 1.0


def smallest_scale(cores: np.ndarray) -> float:
    """Least singular value of both unfoldings of the cores, or least ‖C_i‖_F if smaller; shape (k, r1, r2)."""
    k, r1, r2 = cores.shape
    sides = (cores.transpose(1, 0, 2).reshape(r1, k * r2), cores.transpose(2, 0, 1).reshape(r2, k * r1))
    values = [float(np.linalg.svd(side, compute_uv=False)[-1]) for side in sides]
    return min(*values, float(np.linalg.norm(cores, axis=(1, 2)).min()))
