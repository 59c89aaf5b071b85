"""Users' labels of any type, kept apart exactly: nothing is coerced to a common type on the way."""

from __future__ import annotations

import datetime
import math
from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from colora_theory.errors import InputError

#: What two labels of one user have in common; labels of different users differ in it.
Key: TypeAlias = Hashable

_ADVICE = "give one label per row, such as groups=table['user']"


def key_of(label: Any) -> Key:
    """What identifies a user: equal for equal labels of one kind; 1, True and "1" are three users.

    Numbers are equal when their values are, exactly: 1 and 1.0 are one user, 2**63 and 2**63 + 1 are two.
    """
    return ("bool", label) if isinstance(label, bool) else label


def labels_of(name: str, groups: Any, rows: int | None = None) -> list[Any]:
    """The labels of all rows as plain Python objects; `rows`: how many there must be.

    Takes lists, tuples, NumPy arrays (masked ones too) and columns of pandas, pyarrow or polars. Raises
    InputError, naming the row, for missing labels (None, NaN, NaT, NA, masked), for labels that cannot be told
    apart (not hashable), and for another number of labels than rows.
    """
    values = _listed(name, groups)
    if rows is not None and len(values) != rows:
        raise InputError(f"{name} must have shape ({rows},), one label per row, got {len(values)} labels.")
    out = [_plain(value) for value in values]
    for row, label in enumerate(out):
        kind = type(label)
        if kind is str or kind is int or kind is bool:
            continue
        if _missing(label):
            raise InputError(
                f"{name} must name a user in every row, got a missing label in row {row}; remove those rows."
            )
        try:
            hash(label)
        except TypeError:
            raise InputError(
                f"{name} must hold labels such as numbers or text, got a {kind.__name__} in row {row}; {_ADVICE}."
            ) from None
    return out


def numbered(labels: Sequence[Any]) -> tuple[list[Any], NDArray[np.int64]]:
    """Distinct labels in order of their first row, and every row's number among them.

    >>> numbered(["b", 1, "b", True])
    (['b', 1, True], array([0, 1, 0, 2]))
    """
    numbers: dict[Key, int] = {}
    distinct: list[Any] = []
    which = np.empty(len(labels), dtype=np.int64)
    for row, label in enumerate(labels):
        key = key_of(label)
        number = numbers.setdefault(key, len(distinct))
        if number == len(distinct):
            distinct.append(label)
        which[row] = number
    return distinct, which


def _listed(name: str, groups: Any) -> list[Any]:
    """The entries of a one-dimensional sequence, coerced to nothing."""
    if isinstance(groups, str | bytes | dict | set | frozenset) or not hasattr(groups, "__len__"):
        raise InputError(f"{name} must be a sequence of labels, got {type(groups).__name__}; {_ADVICE}.")
    if isinstance(groups, pd.DataFrame) or getattr(groups, "ndim", 1) != 1:
        shape = tuple(getattr(groups, "shape", ()))
        raise InputError(f"{name} must have shape (rows,), one label per row, got shape {shape}; {_ADVICE}.")
    if isinstance(groups, np.ma.MaskedArray):
        hidden = np.flatnonzero(np.ma.getmaskarray(groups))
        if len(hidden):
            raise InputError(
                f"{name} must name a user in every row, got a masked label in row {hidden[0]}; remove those rows."
            )
        groups = groups.data
    if isinstance(groups, np.ndarray):
        # dates: tolist would turn nanoseconds into integers
        return list(groups) if groups.dtype.kind in "mMV" else groups.tolist()
    for method in ("tolist", "to_pylist", "to_list"):  # pandas and extension arrays; pyarrow; polars
        if hasattr(groups, method):
            return list(getattr(groups, method)())
    return list(groups)


def _plain(label: Any) -> Any:
    if isinstance(label, np.datetime64 | np.timedelta64):
        made: Any = pd.Timestamp if isinstance(label, np.datetime64) else pd.Timedelta
        try:
            return made(label)
        except (ValueError, OverflowError):  # beyond the calendar of pandas
            return label
    return label.item() if isinstance(label, np.generic) else label


def _missing(label: Any) -> bool:
    if label is None or label is pd.NA or label is pd.NaT or label is np.ma.masked:
        return True
    if isinstance(label, float):
        return math.isnan(label)
    if isinstance(label, np.datetime64 | np.timedelta64):
        return bool(np.isnat(label))
    if isinstance(label, datetime.date | tuple | bytes):
        return isinstance(label, tuple) and any(_missing(part) for part in label)
    try:
        return bool(label != label)  # decimals, complex numbers
    except (TypeError, ValueError):
        return False
