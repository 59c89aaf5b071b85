"""What produced a number: versions, BLAS, processor, commit. Written beside every run."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Final

import colora_theory


def manifest(seed: int) -> dict[str, Any]:
    """Return what is needed to repeat a run: seed, versions, BLAS, CPU, and the commit when in a git checkout."""
    import numpy
    import scipy
    from threadpoolctl import threadpool_info

    commit, dirty = _commit()
    blas = sorted(
        {f"{i['internal_api']} {i.get('version')}" for i in threadpool_info() if i["user_api"] == "blas"}
    )
    kernels = sorted({str(i.get("architecture")) for i in threadpool_info() if i["user_api"] == "blas"})
    return {
        "seed": seed,
        "colora_theory": colora_theory.__version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "blas": blas,
        "blas_kernels": kernels,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "commit": commit,
        "dirty": dirty,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


#: What bitwise equal results need to have in common: another kernel of the same BLAS sums in another order.
NUMERICAL: Final = ("colora_theory", "python", "numpy", "scipy", "blas", "blas_kernels", "cpu")


def same_numbers(stored: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a run, in all its sessions, promises bitwise what a run with the manifest `now` would give."""
    sessions = [stored, *stored.get("resumed", [])]
    return all(session.get(key, now.get(key)) == now.get(key) for session in sessions for key in NUMERICAL)


def _commit() -> tuple[str | None, bool | None]:
    folder = Path(colora_theory.__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # Installed into a folder that happens to lie in someone else's checkout: that commit says nothing about us.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    status = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD"), bool(status) if status is not None else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
