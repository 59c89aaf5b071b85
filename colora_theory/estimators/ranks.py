"""Ranks and starting subspaces as callers give them: checked, and completed where they may be left out."""

from __future__ import annotations

import numpy as np

from colora_theory.errors import InputError
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array, orthonormal


def resolve_rank(rank: int | tuple[int, int] | str | None, data: Dataset) -> tuple[int, int]:
    """Return (rank_in, rank_out), refusing ranks that the data's shape excludes."""
    pair = rank_numbers(rank)
    if len(pair) == 1:
        pair = (pair[0], min(pair[0], data.dim_out))
    r1, r2 = pair
    if r2 > data.dim_out:
        raise InputError(f"rank must have rank_out at most dim_out = {data.dim_out}, got {r2}; lower it.")
    most = min(data.dim_in, data.num_users * r2)
    if r1 > most:
        raise InputError(f"rank must be at most min(dim_in, num_users * rank_out) = {most}, got {r1}; lower rank.")
    if r2 > data.num_users * r1:
        raise InputError(f"rank must have rank_out at most num_users * rank_in = {data.num_users * r1}, got {r2}.")
    return r1, r2


def rank_numbers(rank: int | tuple[int, int] | str | None) -> tuple[int, ...]:
    """Return the one or two integers ≥ 1 that a rank consists of."""
    if rank is None:
        raise InputError("rank must be given for this estimator: one integer, or (rank_in, rank_out).")
    values: tuple[object, ...] = tuple(rank) if isinstance(rank, tuple | list) else (rank,)
    numbers = [int(r) for r in values if isinstance(r, int | np.integer) and not isinstance(r, bool)]
    if len(values) not in (1, 2) or len(numbers) < len(values):
        raise InputError(f"rank must be one integer or (rank_in, rank_out), got {rank!r}.")
    if min(numbers) < 1:
        raise InputError(f"rank must be at least 1, got {rank!r}.")
    return tuple(numbers)


def given_start(
    input_subspace: Array, output_subspace: Array | None, rank: tuple[int, int], data: Dataset
) -> tuple[Array, Array]:
    """Orthonormalise a start that the caller gives; V may be left out when it spans the whole output space."""
    if output_subspace is None:
        if rank[1] < data.dim_out:
            raise InputError("output_subspace must be given with input_subspace when rank_out < dim_out.")
        output_subspace = np.eye(data.dim_out)
    pairs = (("input_subspace", input_subspace, data.dim_in), ("output_subspace", output_subspace, data.dim_out))
    for (name, matrix, dim), r in zip(pairs, rank, strict=True):
        if np.shape(matrix) != (dim, r):
            raise InputError(f"{name} must have shape {(dim, r)}, got {np.shape(matrix)}.")
        if not np.isfinite(matrix).all() or np.linalg.matrix_rank(matrix) < r:
            raise InputError(f"{name} must be finite with {r} independent columns; orthonormalise it first.")
    whole = rank[1] == data.dim_out  # then V is a mere choice of axes, and the identity costs nothing
    return orthonormal(input_subspace), np.eye(data.dim_out) if whole else orthonormal(output_subspace)
