"""Ranks and starting subspaces as callers give them: checked, and completed where they may be left out."""

from __future__ import annotations

import numpy as np

from colora_theory.errors import InputError
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array, numbers, orthonormal
from colora_theory.model.ranks import rank_pair


def is_auto(rank: object) -> bool:
    """Whether the rank is to be chosen from the data."""
    return isinstance(rank, str) and rank == "auto"


def is_zero(rank: object) -> bool:
    """Whether nothing is to be shared."""
    return isinstance(rank, int | np.integer) and not isinstance(rank, bool) and rank == 0


def resolve_rank(rank: int | tuple[int, int] | str | None, data: Dataset) -> tuple[int, int]:
    """Return (rank_in, rank_out), refusing ranks that the data's shape excludes."""
    return rank_pair(rank, data.dim_in, data.dim_out, data.num_users)


def given_start(
    input_subspace: Array, output_subspace: Array | None, rank: tuple[int, int], data: Dataset
) -> tuple[Array, Array]:
    """Orthonormalise a start that the caller gives; V may be left out when it spans the whole output space."""
    if output_subspace is None:
        if rank[1] < data.dim_out:
            raise InputError("output_subspace must be given with input_subspace when rank_out < dim_out.")
        output_subspace = np.eye(data.dim_out)
    pairs = (("input_subspace", input_subspace, data.dim_in), ("output_subspace", output_subspace, data.dim_out))
    bases = []
    for (name, given, dim), r in zip(pairs, rank, strict=True):
        matrix = given if isinstance(given, np.ndarray) and given.dtype.kind == "f" else numbers(name, given)
        if r < 1:
            raise InputError(f"{name} must have at least one column, got shape {matrix.shape}.")
        if matrix.shape != (dim, r):
            raise InputError(f"{name} must have shape {(dim, r)}, got {matrix.shape}.")
        if not np.isfinite(matrix).all() or np.linalg.matrix_rank(matrix) < r:
            raise InputError(f"{name} must be finite with {r} independent columns; orthonormalise it first.")
        bases.append(orthonormal(matrix))
    if rank[1] == data.dim_out:  # then V is a mere choice of axes, and the identity costs nothing
        bases[1] = np.eye(data.dim_out)
    return bases[0], bases[1]
