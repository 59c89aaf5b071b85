"""Which ranks a shared model can have: one rule for problems and estimators."""

from __future__ import annotations

from typing import Any

from colora_theory.errors import InputError
from colora_theory.model.checks import check_integer


def rank_numbers(rank: Any) -> tuple[int, ...]:
    """Return the one or two integers ≥ 1 that a rank consists of; raise InputError for anything else."""
    if rank is None:
        raise InputError("rank must be given for this estimator: one integer, or (rank_in, rank_out).")
    values = tuple(rank) if isinstance(rank, tuple | list) else (rank,)
    if len(values) not in (1, 2):
        raise InputError(f"rank must be one integer or (rank_in, rank_out), got {rank!r}.")
    return tuple(check_integer("rank", value, 1) for value in values)


def rank_pair(rank: Any, dim_in: int, dim_out: int, num_users: int) -> tuple[int, int]:
    """Return (rank_in, rank_out) of a shared model of this shape; rank_out defaults to min(rank, dim_out).

    Raises InputError for ranks that no model of this shape has: rank_in ≤ min(dim_in, num_users·rank_out),
    rank_out ≤ min(dim_out, num_users·rank_in).
    """
    numbers = rank_numbers(rank)
    r1, r2 = numbers if len(numbers) == 2 else (numbers[0], min(numbers[0], dim_out))
    if r2 > dim_out:
        raise InputError(f"rank_out must be at most dim_out = {dim_out}, got {r2}; lower it.")
    most = min(dim_in, num_users * r2)
    if r1 > most:
        raise InputError(
            f"rank must be at most min(dim_in, num_users * rank_out) = {most}, got {r1}; "
            "lower rank, or raise the smaller of the two."
        )
    if r2 > num_users * r1:
        raise InputError(
            f"rank_out must be at most num_users * rank_in = {num_users * r1}, got {r2}; lower it or add users."
        )
    return r1, r2
