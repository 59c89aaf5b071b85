"""Many tiny problems: how long a million trials take, stored, with the engine and everything.

python benchmarks/tiny_trials.py [--trials 20000] [--jobs 2]

d = 20, k = 20, n = 40, r = 2, σ = 0.1, altmin with its default stop rule, two metrics. Prints trials per second
and what a million would take; `--trials 1000000` runs them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import colora_theory as ct


def study(trials: int) -> ct.Study:
    return ct.Study.from_dict(
        {
            "schema": 1,
            "name": "tiny_trials",
            "title": "Many tiny problems",
            "claim": "None: this measures time.",
            "seed": 1,
            "problem": {"num_users": 20, "num_samples": 40, "dim_in": 20, "noise_std": 0.1},
            "grid": {"rank": [2]},
            "estimator": [{"name": "altmin"}],
            "metrics": {"use": ["parameter_error", "subspace_distance"]},
            "run": {"trials": trials, "batch": max(1, trials // 20)},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.2f}, {args.jobs} workers")
    with tempfile.TemporaryDirectory() as folder:
        ct.run(study(200), out=Path(folder) / "warm", n_jobs=args.jobs)  # workers start, modules load
        start = time.perf_counter()
        results = ct.run(study(args.trials), out=Path(folder) / "run", n_jobs=args.jobs)
        seconds = time.perf_counter() - start
        rows = len(results.frame()) // 2
    print(
        f"{rows} trials stored in {seconds:.1f} s: {rows / seconds:.0f} per second, "
        f"{1e6 * seconds / rows / 60:.1f} minutes for a million"
    )


if __name__ == "__main__":
    main()
