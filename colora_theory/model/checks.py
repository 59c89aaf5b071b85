"""Arguments checked in one phrasing: what was given, what is allowed."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, Final

from colora_theory.errors import InputError, nearest

# Abstract classes are slow to ask; the ordinary types that stand before them are recognised at once.
_INTEGERS: Final = (int, Integral)
_NUMBERS: Final = (float, int, Real)
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
    if isinstance(value, bool) or not isinstance(value, _INTEGERS):
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
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        raise InputError(f"{name} must be {_allowed(low, high)}, got {value!r}.")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not math.isfinite(number) or not low <= number <= high:
        raise InputError(f"{name} must be {_allowed(low, high)}, got {number:g}.")
    return number


def check_square(name: str, value: float) -> None:
    """Raise InputError when the square of a size would be zero, or infinite, without being so."""
    if value and not 1e-150 <= value <= 1e150:
        raise InputError(f"{name} must be 0 or between 1e-150 and 1e150, got {value:g}; choose other units.")


def _allowed(low: float, high: float) -> str:
    return f"a number ≥ {low:g}" if high == math.inf else f"a number between {low:g} and {high:g}"


def check_kind(name: str, value: object, declared: str) -> Any:
    """Return `value`, as a plain Python object where `declared` ("float | None", "str", …) asks for one.

    Refuses what no comparison could judge, arrays among them, and for a "bool" whatever is not true or false;
    whether a number or a word is an allowed one is for its own check to say. A declaration with other parts than
    bool, int, float, str and None is left to whoever knows it. Raises InputError.
    """
    kinds = _kinds(declared)
    if not kinds:
        return value
    if kinds == ("bool",):
        return check_flag(name, value)
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, _INTEGERS):  # NumPy knows no integers beyond 64 bits, and floats do
        return float(value) if "int" not in kinds and abs(int(value)) < 10**300 else int(value)
    if isinstance(value, Real):
        return float(value)
    raise InputError(f"{name} must be {' or '.join(map(_WORDS.__getitem__, kinds))}, got {value!r:.100}.")


@functools.cache
def _kinds(declared: str) -> tuple[str, ...]:
    """The parts of a declaration; none where one of them is not known here."""
    kinds = tuple(declared.split(" | "))
    return kinds if _WORDS.keys() >= set(kinds) else ()


_WORDS: Final = {
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "str": "a word",
    "None": "None",
}


def check_flag(name: str, value: object) -> bool:
    """Return `value` when it is true or false; raise InputError otherwise."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {value!r}.")
    return value
