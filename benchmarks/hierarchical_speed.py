"""Seconds of `hierarchical` with rank = "auto" against the time to draw the covariates; how they grow with users.

python benchmarks/hierarchical_speed.py [B] [users] [--seeds 2]

B      d=500, k=200, n=200, r=5, σ=0.1, subspaces shared exactly and 0.3 rad apart: fit ÷ draw
users  k from 10³ to 10⁵ at d=50, n=20, r=3, σ=0.3: fit ÷ draw and microseconds per user
Processor time, which other work on the machine changes less than the clock. Run with OMP_NUM_THREADS=1 and
OPENBLAS_NUM_THREADS=1; `draw` is what NumPy needs for the Gaussian covariates alone, in the same process.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np

import colora_theory as ct

LARGE = ct.Problem(num_users=200, num_samples=200, dim_in=500, rank=5, noise_std=0.1)
MANY = ct.Problem(num_users=1000, num_samples=20, dim_in=50, rank=3, noise_std=0.3)
WORK = {
    "B": [LARGE, LARGE.replace(similarity_angle=0.3)],
    "users": [MANY.replace(num_users=10**e) for e in (3, 4, 5)],
}


def measure(problem: ct.Problem, seed: int) -> tuple[float, float, object]:
    """Seconds to draw the covariates, seconds to fit, and the rank found."""
    rng = np.random.default_rng(seed)
    truth = ct.sample_truth(problem, rng)
    data = ct.sample_data(problem, truth, rng)
    begun = time.process_time()
    rng.standard_normal(data.covariates.shape)
    drawn = time.process_time() - begun
    begun = time.process_time()
    fit = ct.estimators.get("hierarchical")().fit(data)
    return drawn, time.process_time() - begun, fit.history["rank"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", default=list(WORK))
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    ct.estimators.get("hierarchical")().fit(ct.sample_data(*_small()))  # imports are not measured
    print(f"load average {os.getloadavg()[0]:.1f}")
    for name in args.work:
        for problem in WORK[name]:
            draws, fits, ranks = zip(*(measure(problem, seed) for seed in range(args.seeds)), strict=True)
            draw, fit = float(np.median(draws)), float(np.median(fits))
            print(
                f"{name:6s} k={problem.num_users:<7}angle={problem.similarity_angle:<4g} draw {draw:7.3f} s  "
                f"fit {fit:7.2f} s  fit/draw {fit / draw:6.1f}  {1e6 * fit / problem.num_users:7.0f} µs per user  "
                f"ranks {ranks}",
                flush=True,
            )


def _small() -> tuple[ct.Problem, ct.Truth, np.random.Generator]:
    problem, rng = (
        ct.Problem(num_users=5, num_samples=8, dim_in=4, rank=1, noise_std=0.1),
        np.random.default_rng(0),
    )
    return problem, ct.sample_truth(problem, rng), rng


if __name__ == "__main__":
    main()
