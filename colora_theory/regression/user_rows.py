"""Rows of users in internal units: those of some, of several together, of nobody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colora_theory.estimators.marginal_likelihood import RotatedRows
from colora_theory.model.linalg import Array

_BY_USER = ("x", "y", "squares", "rest", "counts")


def take(rows: RotatedRows, users: NDArray[np.int64]) -> RotatedRows:
    """The rows of some users."""
    return replace(
        rows,
        x=rows.x[users],
        y=rows.y[users],
        squares=rows.squares[users],
        rest=rows.rest[users],
        counts=rows.counts[users],
    )


def nobody(rows: RotatedRows) -> RotatedRows:
    """The rows of a user that has none."""
    one = take(rows, np.zeros(1, dtype=np.int64))
    zeros: dict[str, Any] = {name: np.zeros_like(getattr(one, name)) for name in _BY_USER}
    return replace(one, **zeros)


def joined(
    first: RotatedRows, *others: RotatedRows, put: tuple[NDArray[np.int64], RotatedRows] | None = None
) -> RotatedRows:
    """The rows of all users together; `put` first replaces those of some users by the first ones of others."""
    every = (first, *others, *([put[1]] if put else []))
    most = max(each.x.shape[1] for each in every)

    def padded(values: Array) -> Array:
        if values.ndim == 1 or values.shape[1] == most:
            return values
        widths = [(0, 0)] * values.ndim
        widths[1] = (0, most - values.shape[1])
        return np.pad(values, widths)

    changes: dict[str, Any] = {}
    for name in _BY_USER:
        mine = padded(getattr(first, name))
        if put is not None and len(put[0]):
            mine = mine.copy()
            mine[put[0]] = padded(getattr(put[1], name))[: len(put[0])]
        changes[name] = np.concatenate([mine, *(padded(getattr(each, name)) for each in others)])
    return replace(first, **changes)
