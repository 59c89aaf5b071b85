"""What a worker imposes on trials: one BLAS thread, no floating-point warnings, and two layers of timeouts.

The alarm raises TrialTimeout between two Python instructions and leaves the worker alive. Native code that does
not return never sees it; for that a timer of the C library ends the process, and the run records the row. In a
thread (Dask) there are no alarms, so only the second layer works.
"""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import scipy.linalg  # noqa: F401  (loads its BLAS before threadpoolctl looks for BLAS libraries)
from threadpoolctl import ThreadpoolController

T = TypeVar("T")


class TrialTimeout(BaseException):
    """Raised in a fit that takes too long; a BaseException so that no `except Exception` swallows it."""


_controller: tuple[int, ThreadpoolController] | None = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One BLAS thread: with more, sums are taken in another order and results differ in the last bits."""
    global _controller
    if _controller is None or _controller[0] != len(sys.modules):  # a new module may have brought a new BLAS
        _controller = (len(sys.modules), ThreadpoolController())
    with _controller[1].limit(limits=1):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """No floating-point warnings: what they announce is stored as the row's status."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_alarms = False  # whether this process handles SIGALRM
_armed = False  # whether an alarm that rings now is meant


@contextmanager
def alarms() -> Iterator[None]:
    """Handle SIGALRM in the body; does nothing outside the main thread."""
    global _alarms
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(signum: int, frame: Any) -> None:
        if _armed:  # a late signal must not hit whatever runs next
            raise TrialTimeout

    before = signal.signal(signal.SIGALRM, ring)
    _alarms = True
    try:
        yield
    finally:
        _alarms = False
        signal.signal(signal.SIGALRM, before)


def within(seconds: float, task: Callable[[], T]) -> T:
    """Return task(), or raise TrialTimeout after `seconds` (and again every second should the task swallow it).

    Either there is a result or the exception, never both: the caller stores what it gets, outside the alarm.
    """
    global _armed
    if not _alarms or seconds == math.inf:
        return task()
    try:
        _armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
        return task()
    finally:
        _armed = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)


class Guard:
    """End this process when a trial hangs in native code, long after its alarm should have rung.

    Before that, where the process hangs is written to the file `note`, which tells a timeout from any other death.
    """

    def __init__(self, timeout: float | None, note: str = "") -> None:
        self._timeout, self._note, self._set_at = timeout, note or os.devnull, -math.inf

    def __enter__(self) -> Guard:
        self._sink = os.open(self._note, os.O_WRONLY | os.O_CREAT, 0o600) if self._timeout else -1
        return self

    def renew(self) -> None:
        """Start counting anew, for the next trial."""
        # Setting the timer costs a thread, so not for every tiny trial.
        if self._timeout and time.perf_counter() - self._set_at > self._timeout / 4:
            self._set_at = time.perf_counter()
            faulthandler.dump_traceback_later(2 * self._timeout + 1, exit=True, file=self._sink)

    def __exit__(self, *exc: object) -> None:
        if self._timeout:
            faulthandler.cancel_dump_traceback_later()
            os.close(self._sink)
