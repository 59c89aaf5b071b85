"""The one way in which this package refuses input."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Input that is refused before any work; the message says what was given, what is allowed, what to do."""

    #: Names and values of a megabyte are not repeated whole.
    MOST = 1500

    def __init__(self, message: str = "") -> None:
        half = self.MOST // 2
        # what comes from a damaged file or a hostile name must not move the cursor or forge lines
        text = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(message))
        super().__init__(text if len(text) <= self.MOST else f"{text[:half]} […] {text[-half:]}")


class EngineError(RuntimeError):
    """The machinery that computes is gone (not merely one worker); what is stored stays stored."""


def expect(name: str, value: object, kind: type | tuple[type, ...], advice: str) -> None:
    """Refuse a `value` that is not of the `kind`; `advice` says what to do.

    >>> expect("data", [1, 2], dict, "name the columns")
    Traceback (most recent call last):
    colora_theory.errors.InputError: data must be a dict, got list; name the columns.
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        allowed = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
        raise InputError(f"{name} must be a {allowed}, got {type(value).__name__}; {advice}.")


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return a hint naming the allowed word closest to `name`, or listing all of them.

    >>> nearest("altmim", ["altmin", "spectral"])
    "did you mean 'altmin'?"
    """
    words = sorted(allowed)
    name = name[:200]  # the comparison takes time with the square of the length
    close = difflib.get_close_matches(name, words, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(words) or 'nothing'}."


def known(where: str, name: Any, allowed: Iterable[str]) -> None:
    """Refuse a name that is not allowed, saying where it stands and which one is nearest."""
    if not isinstance(name, str):
        raise InputError(f"{where} must be a name, got {name!r}.")
    if name not in allowed:
        raise InputError(f"{where}: unknown name {name!r}; {nearest(name, allowed)}")
