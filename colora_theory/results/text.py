"""Numbers and tables as people read them in a terminal, and files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from colora_theory.errors import InputError


def table(head: list[str], rows: list[list[Any]]) -> list[str]:
    """Return aligned lines."""
    texts = [head, *([str(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return ["  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip() for row in texts]


def duration(seconds: float) -> str:
    """Return a time span for people: 0.2 s, 42 s, 3 min, 5.2 h, 2.1 days."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a file to write to beside `path`, and rename it to `path` when the body ends well.

    A full disk or an interruption leaves what was there before; a link in the place of `path` is replaced, not
    followed. Raises InputError for a place that cannot be written to.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}.") from None
    draft = Path(name)
    try:
        yield draft
        draft.chmod(0o666 & ~_umask())
        draft.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}.") from None
    finally:
        draft.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")
