"""Numbers and tables as people read them in a terminal."""

from __future__ import annotations

from typing import Any


def table(head: list[str], rows: list[list[Any]]) -> list[str]:
    """Return aligned lines."""
    texts = [head, *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(head))]
    return ["  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip() for row in texts]


def duration(seconds: float) -> str:
    """Return a time span for people: 0.2 s, 42 s, 3 min, 5.2 h, 2.1 days."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"


def size(number: float) -> str:
    """Return a number of bytes for people: 3.2 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"
