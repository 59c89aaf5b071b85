"""How often default altmin ends in a worse minimum than Gauss–Newton started at the truth, and at what cost.

    python benchmarks/local_minima.py [--sets 100] [--params '{"restarts": 0}']

A fit is worse when its objective is more than 0.1 % above that of `gauss_newton` started at the truth. "told"
counts the worse fits whose status or message says so: not converged, singular, or starts that disagree.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

import colora_theory as ct

CASES = {
    "few users (k=3, n=15, d=20)": {"num_users": 3, "num_samples": 15, "dim_in": 20, "rank": 2},
    "nk = 1.2 dof": {"num_users": 10, "num_samples": 10, "dim_in": 20, "rank": 3},
    "nk = 1.2 dof, many users": {"num_users": 40, "num_samples": 6, "dim_in": 20, "rank": 3},
    "regression, rank (4, 1)": {"num_users": 8, "num_samples": 14, "dim_in": 16, "dim_out": 4, "rank": (4, 1)},
    "regression, rank (1, 3)": {"num_users": 8, "num_samples": 4, "dim_in": 12, "dim_out": 5, "rank": (1, 3)},
    "sensing near the threshold": {
        "num_users": 3,
        "num_samples": 11,
        "dim_in": 6,
        "dim_out": 5,
        "rank": 2,
        "design": "sensing",
    },
    "plenty (k=20, n=40, d=20)": {"num_users": 20, "num_samples": 40, "dim_in": 20, "rank": 3},
}


def compare(problem: ct.Problem, sets: int, params: dict[str, object]) -> tuple[int, int, int, float]:
    """Worse fits, those of them called converged, those that are told, and seconds of all altmin fits."""
    rule = ct.estimators.get("altmin")(rank=problem.rank, **params)
    worse = converged = told = 0
    seconds = 0.0
    for seed in range(sets):
        truth = ct.sample_truth(problem, np.random.default_rng([seed, 1]))
        data = ct.sample_data(problem, truth, np.random.default_rng([seed, 2]))
        sides = {"input_subspace": truth.input_subspace, "output_subspace": truth.output_subspace}
        best = ct.estimators.get("gauss_newton")(rank=problem.rank, restarts=0, **sides).fit(data)
        start = time.process_time()
        fit = rule.fit(data, np.random.default_rng([seed, 3]))
        seconds += time.process_time() - start
        if fit.history["objective"][-1] > 1.001 * best.history["objective"][-1]:
            worse += 1
            converged += fit.status == "converged"
            told += fit.status != "converged" or bool(fit.message)
    return worse, converged, told, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--params", type=json.loads, default={})
    parser.add_argument("--noise", type=float, default=0.1)
    options = parser.parse_args()
    print("| case | worse | of these converged | told | seconds |\n|---|---:|---:|---:|---:|")
    for name, fields in CASES.items():
        problem = ct.Problem(noise_std=options.noise, **fields)
        worse, converged, told, seconds = compare(problem, options.sets, options.params)
        print(f"| {name} | {worse} of {options.sets} | {converged} | {told} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
