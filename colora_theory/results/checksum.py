"""Hashes of rows: whether the numbers in a store are still those that were written."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

_pack = struct.Struct("<d").pack


def row_hash(row: Sequence[Any]) -> int:
    """64-bit hash of one row: cell key, estimator key, trial, status, message, then numbers or None.

    The hashes of a group of rows are summed modulo 2^64, so that their order does not matter.
    """
    cell, estimator, trial, status, message, *values = row
    parts = []
    for text in (cell, estimator, str(trial), status, message):
        blob = str(text).encode("utf-8", "surrogatepass")
        parts += [len(blob).to_bytes(4, "little"), blob]
    for value in values:
        if type(value) is float and abs(value) < math.inf:
            parts.append(_pack(value))
        else:
            parts.append(_unusual(value))
    return int.from_bytes(blake2b(b"".join(parts), digest_size=8).digest(), "little")


def _unusual(value: Any) -> bytes:
    """A missing number; or, since a damaged store may hold anything in the place of one, whatever it is."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308 * 10
    return b"n" if value is None else _pack(value) if number else repr(value).encode()
