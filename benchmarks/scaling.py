"""How cost and memory grow: with samples (sufficient rows), with users, with the dimension.

python benchmarks/scaling.py [samples] [users] [dimension]

samples    drawing and fitting 50 users, d=50, r=3, n from 10³ to 10⁹ with sufficient rows: seconds and peak memory
users      k from 10³ to 10⁵ at d=50, r=3, n=20: seconds per user, peak memory over the data's
dimension  d=2000, k=100, n=100, r=5: peak memory over the data's

Every measurement runs in a process of its own; memory is its peak resident set less that of the bare imports.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

WORK = {
    "samples": [
        dict(num_users=50, dim_in=50, rank=3, noise_std=0.1, sampling="sufficient", num_samples=10**e)
        for e in (3, 5, 7, 9)
    ],
    "users": [dict(num_users=10**e, dim_in=50, rank=3, noise_std=0.1, num_samples=20) for e in (3, 4, 5)],
    "dimension": [dict(num_users=100, dim_in=2000, rank=5, noise_std=0.1, num_samples=100)],
}


def measure(fields: dict[str, object]) -> None:
    """Child process: draw, fit, print one JSON line."""
    import numpy as np

    import colora_theory as ct
    import colora_theory.estimators.gauss_newton

    problem, rank = ct.Problem(**fields), fields["rank"]
    small = ct.Problem(num_users=10, num_samples=20, dim_in=5, rank=rank, noise_std=0.1, sampling=problem.sampling)
    warm = ct.sample_truth(small, np.random.default_rng(0))
    ct.estimators.get("gauss_newton")(rank=rank).fit(
        ct.sample_data(small, warm, np.random.default_rng(0)), np.random.default_rng(0)
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        truth = ct.sample_truth(problem, rng)
        start = time.perf_counter()
        data = ct.sample_data(problem, truth, rng)
        drawn = time.perf_counter()
        fit = ct.estimators.get("gauss_newton")(rank=rank).fit(data, rng)
        times.append((drawn - start, time.perf_counter() - drawn))
        size, status = data.covariates.nbytes + data.responses.nbytes, fit.status
        distance = ct.subspace_distance(fit.input_subspace, truth.input_subspace)
        del data, fit  # or two data sets would be in memory at once
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    draw, solve = (sorted(column)[1] for column in zip(*times, strict=True))
    print(json.dumps(dict(draw=draw, fit=solve, peak=peak, data=size, distance=distance, status=status)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", default=list(WORK))
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for name in args.work:
        for fields in WORK[name]:
            command = [sys.executable, __file__, "--measure", json.dumps(fields)]
            got = json.loads(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)
            each = 1e6 * got["fit"] / fields["num_users"]
            print(
                f"{name:10s} k={fields['num_users']:<7} n={fields['num_samples']:<11} d={fields['dim_in']:<5} "
                f"draw {got['draw']:8.4f} s  fit {got['fit']:8.4f} s ({each:.1f} µs per user)  "
                f"data {got['data'] / 1e6:.1f} MB  peak/data {got['peak'] / got['data']:.2f}  "
                f"{got['status']} {got['distance']:.1e}"
            )


if __name__ == "__main__":
    main()
