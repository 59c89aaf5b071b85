"""Does this user belong? A test per user that its weight lies in the model that the others share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from colora_theory.errors import InputError
from colora_theory.estimators.base import get
from colora_theory.estimators.frozen_subspace import fit_in_subspaces
from colora_theory.estimators.rank_selection import choose_pair
from colora_theory.estimators.sampling_errors import Design
from colora_theory.estimators.shared_model import SharedModel, degrees_of_freedom
from colora_theory.model.checks import check_real
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array, least_squares

#: p-values below which a user is left out when the shared model is fitted again, and most such rounds.
_SUSPECT, _ROUNDS = 1e-3, 10
#: Residual degrees of freedom of users' own fits from which on they estimate the noise.
_ENOUGH = 20


@dataclass(frozen=True, eq=False)
class Alignment:
    """Who belongs to the shared model.

    Attributes
    ----------
    p_values : shape (num_users,); 1 for users with too few samples to disagree.
    flagged : shape (num_users,), users found outside at the wanted false discovery rate.
    statistics : shape (num_users,), what the shared model misses over what noise makes of it, 1 on average inside.
    noise_std : the noise's estimated standard deviation.
    """

    p_values: Array
    flagged: NDArray[np.bool_]
    statistics: Array
    noise_std: float


def alignment_test(
    data: Dataset,
    rank: int | tuple[int, int] | str = "auto",
    *,
    false_discovery: float = 0.05,
    rng: np.random.Generator | None = None,
) -> Alignment:
    """Test for every user that W_i − W_0 = U C_i Vᵀ with the subspaces that the others share.

    The statistic is the share of user i's response that a weight of its own explains and the shared model does
    not, S_i = RSS_i(shared) − RSS_i(own), over its mean under the hypothesis, σ̂² (m_i ∓ a_i): m_i the unknowns (at
    most the samples) less those of a core, a_i = tr(J_iᵀJ_i (Σ_j J_jᵀJ_j)⁺) what estimating U and V takes away
    from a user who took part in it, or adds for one who did not. It is referred to F(m_i − a_i, f), or F(m_i, f).
    σ̂² comes from the residuals of users' own fits where they leave enough (n > d), else from those of the shared
    model: then the test asks whether a user misses it by more than the others do. Users far outside are left out
    and the model is fitted again, so that they do not bend it. Flagged are users by Benjamini & Hochberg's rule.

    To first order in the error of the subspaces: for k n well above the degrees of freedom, and noise of one size.

    Parameters
    ----------
    rank : r, (rank_in, rank_out) or "auto" (see `rank_selection.choose_rank`).
    false_discovery : expected share of users inside among the flagged, in (0, 1).
    rng : splits sufficient rows and serves restarts.

    Raises InputError for a rank that the shapes exclude, and when no observation is left over.
    """
    check_real("false_discovery", false_discovery, 1e-12, 1.0 - 1e-12)
    pair = choose_pair(rank, data, rng)
    used = np.ones(data.num_users, dtype=bool)
    least = max(2, -(-pair[0] // pair[1]), -(-pair[1] // pair[0])) + 1
    for _ in range(_ROUNDS):
        found = _tested(data, pair, used, rng)
        again = used & ~(found.p_values < _SUSPECT)
        if again.sum() == used.sum() or again.sum() < max(least, 0.5 * data.num_users):
            break
        used = again
    return Alignment(found.p_values, step_up(found.p_values, false_discovery), found.statistics, found.noise_std)


def _tested(
    data: Dataset, pair: tuple[int, int], used: NDArray[np.bool_], rng: np.random.Generator | None
) -> Alignment:
    """p-values against the model that the users of `used` share."""
    shared = get("gauss_newton").from_params(rank=pair).fit(data.take(used), rng)
    assert shared.input_subspace is not None
    assert shared.output_subspace is not None
    fit = fit_in_subspaces(data, shared.input_subspace, shared.output_subspace)
    assert fit.cores is not None
    design = Design(data, shared.input_subspace, shared.output_subspace, fit.cores)
    model = design.model
    parts = [design.information(i) for i in range(model.k)]
    total = np.sum([part[0] for part, mine in zip(parts, used, strict=True) if mine], axis=0)
    inverse = np.linalg.pinv(total, rcond=1e-10, hermitian=True)
    taken = np.array([float(np.vdot(inverse, part[0])) for part in parts])
    misfit = np.array([part[1] for part in parts])
    own, ranks = _alone(model)
    outputs = model.y.shape[2]
    unknowns = ranks * outputs - np.minimum(ranks * outputs, pair[0] * pair[1])
    spare = (model.counts - ranks) * outputs
    if spare.sum() >= _ENOUGH:
        freedom, variance = float(spare.sum()), float(own.sum() / spare.sum())
    else:
        freedom = float(model.counts[used].sum() * outputs) - degrees_of_freedom(model, fit.cores[used])
        if freedom <= 0:
            raise InputError(
                "the alignment test needs more observations than the shared model has unknowns; lower rank."
            )
        variance = float(misfit[used].sum()) / freedom
    mean = variance * np.maximum(unknowns - np.where(used, taken, -taken), 1e-3 * np.maximum(unknowns, 1.0))
    free = unknowns - np.where(used, taken, 0.0)
    statistics = np.where(unknowns > 0, np.maximum(misfit - own, 0.0) / np.maximum(mean, 1e-300), 0.0)
    p_values = np.where(free > 0.5, scipy.stats.f.sf(statistics, np.maximum(free, 0.5), freedom), 1.0)
    return Alignment(p_values, p_values < 0.0, statistics, float(np.sqrt(variance)))


def _alone(model: SharedModel) -> tuple[Array, Array]:
    """Squared residual of every user's own least squares, and the rank of its covariates."""
    squares, ranks = np.empty(model.k), np.empty(model.k)
    for block in model.rounds:
        solution = least_squares(model.x[block], model.y[block])[0]
        squares[block] = ((model.y[block] - model.x[block] @ solution) ** 2).sum((1, 2))
        values = np.linalg.svd(model.x[block], compute_uv=False)
        ranks[block] = (values > values[:, :1] * max(model.x.shape[1:]) * np.finfo(float).eps).sum(1)
    return squares, ranks


def step_up(p_values: Array, rate: float) -> NDArray[np.bool_]:
    """Benjamini & Hochberg 1995: reject the largest set whose i-th smallest p-value is at most rate·i/k.

    >>> step_up(np.array([0.01, 0.5, 0.02, 0.9]), 0.05)
    array([ True, False,  True, False])
    """
    order = np.argsort(p_values)
    below = np.flatnonzero(p_values[order] <= rate * np.arange(1, len(order) + 1) / len(order))
    out = np.zeros(len(order), dtype=bool)
    if len(below):
        out[order[: below[-1] + 1]] = True
    return out
