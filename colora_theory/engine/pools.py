"""Where chunks of trials are computed: local worker processes, a Dask cluster, or this process.

Each pool takes one task at a time per slot and reports through concurrent.futures. A local slot is an executor of
its own with one process: when that process dies we know which chunk it was working on, and no other chunk is lost.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Final, Protocol

from colora_theory.errors import EngineError, InputError

BACKENDS = ("loky", "dask", "inline")
CONNECT_SECONDS: Final = 10.0


class Pool(Protocol):
    """What the sweep needs of a pool."""

    slots: int
    in_worker: bool  # whether a fit that hangs may end its process
    isolating: bool  # whether a dying task is never mistaken for another one under way

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Start a task; only called while fewer than `slots` are under way."""
        ...

    def collect(self, future: Future[Any]) -> Any:
        """Return a finished task's result, or, when its worker died, a text saying how."""
        ...

    def close(self) -> None:
        """Stop everything now; tasks under way are dropped."""
        ...


def open_pool(backend: str, n_jobs: int, scheduler: str | None) -> Pool:
    """Return the pool for a backend; raise InputError for conflicting options."""
    if scheduler is not None and backend != "dask":
        raise InputError(f"--scheduler needs --backend dask, got --backend {backend}.")
    if backend == "dask":
        if not scheduler or "://" not in scheduler:
            raise InputError(
                f"--backend dask needs --scheduler ADDRESS, for example tcp://127.0.0.1:8786, got {scheduler!r}."
            )
        return DaskPool(scheduler)
    return InlinePool() if backend == "inline" else LokyPool(n_jobs)


class InlinePool:
    """This process itself: for debugging. A fit that kills its process kills the study (which can be resumed)."""

    slots, in_worker, isolating = 1, False, True

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future

    def collect(self, future: Future[Any]) -> Any:
        return future.result()

    def close(self) -> None:
        pass


class LokyPool:
    """`n_jobs` local processes. Kept warm between studies, because starting one costs the imports."""

    in_worker = isolating = True

    def __init__(self, n_jobs: int) -> None:
        self.slots = n_jobs
        self._free = list(range(n_jobs))[::-1]
        self._slot: dict[Future[Any], int] = {}

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        slot = self._free.pop()
        future = _executor(slot).submit(function, *args)
        self._slot[future] = slot
        return future

    def collect(self, future: Future[Any]) -> Any:
        slot = self._slot.pop(future)
        self._free.append(slot)
        error = future.exception()
        if error is None:
            return future.result()
        _discard(slot)  # the process is gone, or in a state we cannot know
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        if isinstance(error, TerminatedWorkerError) or not isinstance(error, Exception):
            return _first_line(error)
        raise EngineError(f"a worker could not take its task: {_first_line(error)}") from error

    def close(self) -> None:
        for slot in self._slot.values():
            _discard(slot)
        self._slot.clear()


_executors: dict[int, Any] = {}


def _executor(slot: int) -> Any:
    if slot not in _executors:
        from joblib.externals.loky import ProcessPoolExecutor

        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
        _executors[slot] = ProcessPoolExecutor(
            max_workers=1, initializer=_start_worker, initargs=(os.getpid(),), env=dict.fromkeys(threads, "1")
        )
    return _executors[slot]


@atexit.register
def _discard_all() -> None:
    for slot in list(_executors):
        _discard(slot)


def _discard(slot: int) -> None:
    if slot in _executors:
        _executors.pop(slot).shutdown(wait=True, kill_workers=True)


def _start_worker(parent: int) -> None:
    """Ctrl-C is for the parent to handle; and a worker whose parent was killed ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


class DaskPool:
    """A running Dask cluster, through its concurrent.futures interface. Dask itself re-runs tasks of lost workers.

    joblib's Dask backend is the same cluster behind joblib.Parallel, which gives up the whole call when one task
    is lost; a study must lose no more than that task.
    """

    in_worker, isolating = True, False  # Dask blames all tasks that were waiting at a lost worker

    def __init__(self, scheduler: str) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise InputError("--backend dask needs Dask; install colora_theory[dask].") from None
        try:
            self._client: Any = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, ImportError) as error:
            raise InputError(f"no Dask scheduler answers at {scheduler}: {error}.") from None
        self._executor = self._client.get_executor(pure=False)
        self.slots = 2 * max(1, sum(self._client.nthreads().values()))  # one computing, one waiting beside it

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = self._executor.submit(function, *args)
        return future

    def collect(self, future: Future[Any]) -> Any:
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker as error:  # it took several workers with it
            return _first_line(error)
        except (Exception, CancelledError) as error:
            raise EngineError(f"the Dask cluster could not carry out a task: {_first_line(error)}") from error

    def close(self) -> None:
        self._executor.shutdown(wait=False)
        self._client.close()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
