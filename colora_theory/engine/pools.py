"""Where chunks of trials are computed: local worker processes, a Dask cluster, or this process.

Each pool takes one task at a time per slot and reports through concurrent.futures. A local slot is an executor of
its own with one process: when that process dies we know which chunk it was working on, and no other chunk is lost.
joblib.Parallel is one call for all tasks, which fails as a whole when a process dies and does not say which task
it was; so a local slot is a `loky` executor, the one that joblib runs on, and Dask is reached through its client.
A new backend is a class with the methods of `Pool`, registered in `BACKENDS` at the end of this file.
"""

from __future__ import annotations

import atexit
import math
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, Final, Protocol

from colora_theory.errors import EngineError, InputError
from colora_theory.model.checks import check_word

CONNECT_SECONDS: Final = 10.0
#: How long a run waits for new workers when none is left: on a loaded machine one takes minutes to start.
WORKERLESS_SECONDS: Final = 300.0
#: How long stopping one local worker may take.
STOP_SECONDS: Final = 10.0


class Pool(Protocol):
    """What a run needs of a pool."""

    slots: int
    in_worker: bool  # whether a fit that hangs may end its process
    isolating: bool  # whether a dying task is never mistaken for another one under way
    shares_files: bool  # whether workers can leave a note in a folder of this machine

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Start a task; only called while fewer than `slots` are under way."""
        ...

    def collect(self, future: Future[Any]) -> Any:
        """Return a finished task's result, or, when its worker died, a text saying how."""
        ...

    def watch(self, say: Callable[[str], None]) -> None:
        """Called while nothing finishes: `say` what is wrong, and raise EngineError when it stays so."""
        ...

    def close(self) -> None:
        """Stop everything now; tasks under way are dropped."""
        ...


def open_pool(backend: str, n_jobs: int, scheduler: str | None) -> Pool:
    """Return the pool for a backend; raise InputError for conflicting options."""
    if scheduler is not None and backend != "dask":
        raise InputError(f"--scheduler needs --backend dask, got --backend {backend}.")
    return BACKENDS[backend](n_jobs, scheduler)


def worker_count(n_jobs: int, backend: str = "loky") -> int:
    """Return the number of local workers that `n_jobs` means (-1: one per core); raise InputError for others."""
    check_word("backend", backend, BACKENDS)
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, int) or not (n_jobs == -1 or 1 <= n_jobs <= 1024):
        raise InputError(f"n_jobs must be an integer from 1 to 1024, or -1 for all cores, got {n_jobs!r}.")
    return len(os.sched_getaffinity(0)) if n_jobs == -1 else n_jobs


class InlinePool:
    """This process itself: for debugging. A fit that kills its process kills the study (which can be resumed)."""

    slots, in_worker, isolating, shares_files = 1, False, True, False

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future

    def collect(self, future: Future[Any]) -> Any:
        return future.result()

    def watch(self, say: Callable[[str], None]) -> None:
        pass

    def close(self) -> None:
        pass


class LokyPool:
    """`n_jobs` local processes. Kept warm between studies, because starting one costs the imports."""

    in_worker = isolating = shares_files = True

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
        if isinstance(error, BrokenProcessPool) or not isinstance(error, Exception):
            return _first_line(error)
        raise EngineError(f"a worker could not take its task: {_first_line(error)}") from error

    def watch(self, say: Callable[[str], None]) -> None:
        """A local process that dies fails its task at once; there is nothing to wait for."""

    def close(self) -> None:
        for slot in self._slot.values():
            _discard(slot)
        self._slot.clear()


_executors: dict[int, Any] = {}


def _executor(slot: int) -> Any:
    if slot not in _executors:
        from loky import ProcessPoolExecutor

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
    """Stop a slot's process; bounded, because this also runs while the program ends."""
    if slot in _executors:
        stop = partial(_executors.pop(slot).shutdown, wait=True, kill_workers=True)
        thread = threading.Thread(target=stop, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # since Python 3.12 none starts while the program ends, and loky has stopped by then
            stop()
        else:
            thread.join(timeout=STOP_SECONDS)


def _start_worker(parent: int) -> None:
    """Ctrl-C is for the parent to handle; and a worker whose parent was killed ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


class DaskPool:
    """A running Dask cluster, through its concurrent.futures interface.

    Dask itself re-runs tasks of lost workers.
    """

    in_worker, isolating = True, False  # Dask counts a lost worker against all tasks that were waiting at it
    shares_files = False

    def __init__(self, scheduler: str | None) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise InputError("--backend dask needs Dask; install colora_theory[dask].") from None
        address = _reachable(scheduler)
        try:
            self._client: Any = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError, ImportError) as error:
            raise InputError(f"no Dask scheduler answers at {scheduler}: {_first_line(error)}.") from None
        self._executor = self._client.get_executor(pure=False)
        self.slots = 2 * max(1, sum(self._client.nthreads().values()))  # one computing, one waiting beside it
        self._asked, self._alone_since = time.monotonic(), math.inf

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

    def watch(self, say: Callable[[str], None]) -> None:
        now = time.monotonic()
        if now - self._asked < 2.0:
            return
        self._asked = now
        try:
            workers = len(self._client.nthreads())
        except Exception as error:
            raise EngineError(f"the Dask scheduler no longer answers: {_first_line(error)}") from error
        if workers:
            self._alone_since = math.inf
        elif self._alone_since == math.inf:
            self._alone_since = now
            say(f"no Dask worker is left; waiting {WORKERLESS_SECONDS:g} s for new ones")
        elif now - self._alone_since > WORKERLESS_SECONDS:
            raise EngineError(
                f"the Dask cluster has had no worker for {WORKERLESS_SECONDS:g} s; everything finished is stored, "
                "and the same command resumes"
            )

    def close(self) -> None:
        self._executor.shutdown(wait=False)
        self._client.close(timeout=STOP_SECONDS)


def _reachable(address: str | None) -> str:
    """The address of a scheduler that takes connections; Dask's own attempt takes longer to fail."""
    found = re.fullmatch(r"(?:(tcp|tls)://)(\[[0-9A-Fa-f:.]+\]|[\w.-]+):(\d{1,5})/?", address or "")
    if found is None or not 0 < int(found[3]) < 65536:
        raise InputError(
            f"--backend dask needs --scheduler ADDRESS, for example tcp://127.0.0.1:8786, got {address!r:.100}."
        )
    try:
        socket.create_connection((found[2].strip("[]"), int(found[3])), timeout=CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise InputError(f"no Dask scheduler answers at {address}: {error}.") from None
    return found[0]


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


#: How a pool is opened, from the number of jobs and the scheduler's address.
BACKENDS: Final[dict[str, Callable[[int, str | None], Pool]]] = {
    "loky": lambda n_jobs, scheduler: LokyPool(n_jobs),
    "dask": lambda n_jobs, scheduler: DaskPool(scheduler),
    "inline": lambda n_jobs, scheduler: InlinePool(),
}
