"""How much memory a problem's data need, how much is free here, and making many objects at once."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from colora_theory.errors import InputError

if TYPE_CHECKING:
    from colora_theory.model.problem import Problem

#: A trial holds the data, and about as much again while they are drawn and fitted.
COPIES: Final = 2
#: Bytes that are not worth asking how much is free.
_HARMLESS: Final = 1 << 27


def trial_bytes(problem: Problem) -> int:
    """Return the memory one trial needs at least, in bytes."""
    k, d, p = problem.num_users, problem.dim_in, problem.dim_out
    rows = problem.num_samples if isinstance(problem.num_samples, int) else max(problem.num_samples)
    if problem.design == "regression":
        rows = d + p if problem.sampling == "sufficient" else rows
        row = d + p
    else:
        rows = d * p + 1 if problem.sampling == "sufficient" else rows
        row = d * p + 1
    return 8 * (COPIES * k * rows * row + 3 * k * d * p)


def available_bytes() -> int:
    """Return the memory that is free here, cgroup limits included."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        free = min(free, int(limit) - int(used))
    return free


def size(number: float) -> str:
    """Return a number of bytes for people: 3.2 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"


def refuse_too_large(problem: Problem) -> None:
    """Raise InputError for a problem whose data alone do not fit into the memory that is free."""
    need = trial_bytes(problem) / COPIES
    if need < _HARMLESS:
        return
    if need > (free := available_bytes()):
        n = problem.num_samples if isinstance(problem.num_samples, int) else min(problem.num_samples)
        gaussian = problem.covariate_law.gaussian and n >= problem.num_features
        advice = "" if problem.sampling == "sufficient" or not gaussian else ", or set sampling = 'sufficient'"
        raise InputError(
            f"the data of this problem need {size(need)} of memory, and {size(free)} are free; make the problem "
            f"smaller{advice}."
        )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


@contextmanager
def without_collection() -> Iterator[None]:
    """Make many objects, all of which stay: Python would look through them for garbage again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
