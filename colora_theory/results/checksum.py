"""Hashes of rows: whether the numbers in a store are still those that were written."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any


def row_hash(row: Sequence[Any]) -> int:
    """64-bit hash of one row: cell key, estimator key, trial, status, message, then numbers or None.

    The hashes of a group of rows are summed modulo 2^64, so that their order does not matter.
    """
    cell, estimator, trial, status, message, *values = row
    digest = blake2b(digest_size=8)
    for text in (cell, estimator, str(trial), status, message):
        blob = str(text).encode("utf-8", "surrogatepass")
        digest.update(len(blob).to_bytes(4, "little") + blob)
    for value in values:
        # a damaged store may hold anything in the place of a number
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308 * 10
        digest.update(b"n" if value is None else struct.pack("<d", value) if number else repr(value).encode())
    return int.from_bytes(digest.digest(), "little")
