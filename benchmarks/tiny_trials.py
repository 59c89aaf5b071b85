"""Many tiny problems: trials one by one and together, and how long a million of them take, stored.

python benchmarks/tiny_trials.py [--trials 20000] [--jobs 2] [--sizes]

d = 20, k = 20, n = 40, r = 2, σ = 0.1, altmin with its default stop rule, two metrics. Prints trials per second
and what a million would take; `--trials 1000000` runs them. `--sizes` compares, on one core and in turn, trials
one by one with trials together over sizes and methods, and the latter with drawing their normal numbers alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import colora_theory as ct
from colora_theory.engine.trial import Recipe, Segment, run_batch, run_trial

SIZES = [(20, 40, 20, 2), (10, 20, 10, 2), (50, 30, 10, 2), (20, 100, 20, 3), (20, 60, 30, 2), (50, 60, 30, 5)]


def study(trials: int, k: int = 20, n: int = 40, d: int = 20, r: int = 2, method: str = "altmin") -> ct.Study:
    return ct.Study.from_dict(
        {
            "schema": 1,
            "name": "tiny_trials",
            "title": "Many tiny problems",
            "claim": "None: this measures time.",
            "seed": 1,
            "problem": {"num_users": k, "num_samples": n, "dim_in": d, "noise_std": 0.1},
            "grid": {"rank": [r]},
            "estimator": [{"name": method}],
            "metrics": {"use": ["parameter_error", "subspace_distance"]},
            "run": {"trials": trials, "batch": max(1, trials // 20)},
        }
    )


def compare(sizes: tuple[int, int, int, int], method: str, rounds: int = 5, trials: int = 64) -> str:
    """One line: microseconds per trial one by one and together, their ratio, and the share of drawing."""
    made = study(trials, *sizes, method=method)
    recipe, cell = Recipe.of(made), made.cells[0]
    whole = Segment(0, cell.words, cell.setting, tuple(range(trials)), (0,))
    k, n, d, _ = sizes
    block, rng = np.empty(k * n * (d + 1)), np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"alone": [], "together": [], "normals": []}
    for _ in range(rounds + 1):
        for name in seconds:
            start = time.process_time()
            if name == "alone":
                for trial in whole.trials[: trials // 4]:
                    run_trial(recipe, replace(whole, trials=(trial,)), trial)
            elif name == "together":
                run_batch(recipe, whole)
            else:
                for _ in range(trials):
                    rng.standard_normal(out=block)
            spent = time.process_time() - start
            seconds[name].append(spent / (trials // 4 if name == "alone" else trials))
    alone, both, normals = (1e6 * statistics.median(each[1:]) for each in seconds.values())
    size = f"k={k:<3} n={n:<4} d={d:<3} r={sizes[3]}  {method:15}"
    times = f"one by one {alone:6.0f} µs, together {both:6.0f} µs: {alone / both:4.1f} times as fast"
    return f"{size} {times}; its normal numbers alone take {normals / both:.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sizes", action="store_true", help="compare one by one and together instead")
    args = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.2f}, {args.jobs} workers")
    if args.sizes:
        for method in ("altmin", "gauss_newton", "spectral", "full_finetuning"):
            for sizes in SIZES:
                print(compare(sizes, method), flush=True)
        return
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
