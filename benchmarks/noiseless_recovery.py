"""Share of exact noiseless recoveries on random instances, with and without restarts.

python benchmarks/noiseless_recovery.py [--instances 300] [--seed 0] [--estimator altmin]

An instance has at least three times as many scalar observations as degrees of freedom and twice the samples
per user that its core needs; designs, dimensions, unequal ranks and unequal counts are random. In the regression
design with rank_out < dim_out the input subspace sees only the responses inside V. Instances in which that block
has fewer than twice its unknowns are reported apart: some of them cannot be recovered by anybody.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

import colora_theory as ct


def instance(rng: np.random.Generator) -> ct.Problem:
    """Draw shapes until they fit the conditions and a small memory."""
    while True:
        design, p = str(rng.choice(["regression", "sensing"])), int(rng.choice([1, 1, 2, 4, 6]))
        d, k = int(rng.integers(4, 40)), int(rng.integers(2, 80))
        r1, r2 = int(rng.integers(1, min(5, d // 2) + 1)), int(rng.integers(1, min(3, p) + 1))
        if r1 > k * r2 or r2 > k * r1:
            continue
        unknowns = r1 * (d - r1) + r2 * (p - r2) + k * r1 * r2
        outputs, needed = (p, r1) if design == "regression" else (1, r1 * r2)
        n = max(math.ceil(3 * unknowns / (k * outputs)), 2 * needed)
        if n * k * d * (p if design == "sensing" else 1) > 3e6:
            continue
        counts = n if rng.random() < 0.5 else (n, 2 * n)
        return ct.Problem(num_users=k, num_samples=counts, dim_in=d, dim_out=p, rank=(r1, r2), design=design)


def block_ratio(p: ct.Problem) -> float:
    """Observations that the input block sees, over its unknowns and the cores'."""
    seen = sum(p.counts) * (p.rank_out if p.design == "regression" else 1)
    return seen / (p.rank_in * (p.dim_in - p.rank_in) + p.num_users * p.rank_in * p.rank_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--estimator", default="altmin")
    args = parser.parse_args()
    shapes = np.random.default_rng([args.seed, 7])
    tally: dict[tuple[str, object], list[bool]] = {}
    for number in range(args.instances):
        problem = instance(shapes)
        rng = np.random.default_rng([args.seed, number])
        truth = ct.sample_truth(problem, rng)
        data = ct.sample_data(problem, truth, rng)
        ratio = block_ratio(problem)
        group = "block observations ≥ 2 x unknowns" if ratio >= 2 else "block observations < 2 x unknowns"
        for restarts in (None, 0):
            rule = ct.estimators.get(args.estimator)(rank=problem.rank, restarts=restarts)
            fit = rule.fit(data, np.random.default_rng([args.seed, number, 1]))
            worst = max(
                ct.subspace_distance(fit.input_subspace, truth.input_subspace),
                ct.subspace_distance(fit.output_subspace, truth.output_subspace),
            )
            tally.setdefault((group, restarts), []).append(worst <= 1e-10)
            if worst > 1e-10 and restarts is None:
                print(f"not recovered ({worst:.1e}, block ratio {ratio:.2f}): {problem.content()}")
    for (group, restarts), hits in sorted(tally.items(), key=str):
        how = "restarts on" if restarts is None else "no restarts"
        print(f"{args.estimator}, {group}, {how}: {sum(hits)} of {len(hits)} recovered ({np.mean(hits):.1%})")


if __name__ == "__main__":
    main()
