"""Choosing the shared rank from the data: cross-validation with the one-standard-error rule."""

from __future__ import annotations

import numpy as np

from colora_theory.errors import InputError
from colora_theory.estimators.base import get
from colora_theory.estimators.ranks import is_auto, resolve_rank
from colora_theory.estimators.tuning import squared_errors
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array

#: Ranks without improvement after which the search ends.
_PATIENCE = 2


def choose_rank(data: Dataset, rng: np.random.Generator | None = None, most: int | None = None) -> int:
    """Return the shared rank that predicts best on samples it was not fitted to.

    Every user's samples are split in two independent halves. For r = 1, 2, … (rank_out = min(r, dim_out)) the
    shared model is fitted to the first half by `gauss_newton`, and its squared prediction errors e_i(r) on the
    second half are compared user by user. The best rank has the least mean error; chosen is the smallest rank
    whose mean excess over it, mean_i(e_i(r) − e_i(best)), is within one standard error of that mean. Errors at the
    level of rounding count as equal. The search ends after two ranks without improvement.

    Parameters
    ----------
    data : at least two samples per user.
    rng : splits sufficient rows and serves restarts.
    most : largest rank to try; None: what the shapes and half of the smallest sample count allow.

    Raises InputError when no rank can be fitted to half of the samples.
    """
    first, second = data.split(2, rng)
    outputs = min(data.dim_out, data.num_users)
    limit = min(data.dim_in, data.num_users * outputs, int(first.counts.min()))
    if data.design == "sensing":  # a core has r·min(r, p) unknowns
        limit = max((r for r in range(1, limit + 1) if r * min(r, outputs) <= first.counts.min()), default=0)
    limit = limit if most is None else min(limit, most)
    if limit < 1 or second.counts.min() < 1:
        raise InputError(
            f"rank = 'auto' needs at least two samples per user, got {int(data.counts.min())} sample(s); give the "
            "rank, or add samples."
        )
    rule = get("gauss_newton")
    errors: list[Array] = []
    floor = 1e-20 * float((second.residual_responses() ** 2).sum())
    for rank in range(1, limit + 1):
        fit = rule.from_params(rank=(rank, min(rank, outputs)), noise_tol=1e-2, max_sweeps=30).fit(first, rng)
        errors.append(np.maximum(squared_errors(second, fit.weights), floor))
        if rank - int(np.argmin([e.mean() for e in errors])) > _PATIENCE:
            break
    best = int(np.argmin([e.mean() for e in errors]))
    for rank, error in enumerate(errors[:best], start=1):
        excess = error - errors[best]
        if len(excess) > 1 and excess.mean() <= excess.std(ddof=1) / np.sqrt(len(excess)):
            return rank
    return best + 1


def choose_pair(
    rank: int | tuple[int, int] | str | None, data: Dataset, rng: np.random.Generator | None
) -> tuple[int, int]:
    """Return (rank_in, rank_out), chosen from the data when `rank` is "auto"."""
    if is_auto(rank):
        return resolve_rank(choose_rank(data, rng), data)
    return resolve_rank(rank, data)
