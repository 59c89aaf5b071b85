"""Arguments checked in one phrasing: what was given, what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, Final

from colora_theory.errors import InputError, nearest

#: Sizes and counts beyond this are slips.
MOST: Final = 10**15


def check_word(name: str, value: object, words: Iterable[str]) -> str:
    """Return `value` when it is one of `words`; raise InputError with the nearest word otherwise."""
    allowed = tuple(words)
    if not isinstance(value, str) or value not in allowed:
        hint = nearest(str(value), allowed)
        hint = f"; {hint}" if hint.startswith("did you mean") else "."
        raise InputError(f"{name} must be one of {', '.join(allowed)}, got {value!r}{hint}")
    return value


def check_integer(name: str, value: object, low: int, high: int = MOST) -> int:
    """Return `value` as an int when it is an integer in [low, high]; raise InputError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} must be an integer ≥ {low}, got {value!r}.")
    number = int(value)
    if number < low:
        raise InputError(f"{name} must be an integer ≥ {low}, got {number}.")
    if number > high:
        most = "10^15" if high == MOST else str(high)
        raise InputError(f"{name} must be at most {most}, got {number if number < 10**30 else 'far more'}.")
    return number


def check_real(name: str, value: object, low: float = 0.0, high: float = math.inf) -> float:
    """Return `value` as a float when it is a finite number in [low, high]; raise InputError otherwise."""
    allowed = f"a number ≥ {low:g}" if high == math.inf else f"a number between {low:g} and {high:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{name} must be {allowed}, got {value!r}.")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not math.isfinite(number) or not low <= number <= high:
        raise InputError(f"{name} must be {allowed}, got {number:g}.")
    return number


def check_flag(name: str, value: object) -> bool:
    """Return `value` when it is true or false; raise InputError otherwise."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {value!r}.")
    return value


def known(where: str, name: Any, allowed: Iterable[str]) -> None:
    """Refuse a name that is not allowed, saying where it stands and which one is nearest."""
    if not isinstance(name, str):
        raise InputError(f"{where} must be a name, got {name!r}.")
    if name not in allowed:
        raise InputError(f"{where}: unknown name {name!r}; {nearest(name, allowed)}")
