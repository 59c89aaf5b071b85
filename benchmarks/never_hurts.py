"""Does collaboration by `hierarchical` ever hurt? Its mean error over that of the best simpler method.

python benchmarks/never_hurts.py [--quick] [--seed 1] [--trials 12] [--users 5 40] [--samples 4 15] [--dims 10]
                                 [--angles 0 0.3 1]

Rivals: altmin at the true rank, full_finetuning, ridge tuned by generalised cross-validation, and robust_multitask
at the true rank tuned by cross-validation. Rank 2, σ = 0.3, cores of unit norm, users' subspaces turned away from
the shared one by each angle. The least of the four is taken after averaging over trials, in hindsight. A row is
one size; a limit is 1.05 where k·n ≥ 2·dof (marked *) and 1.15 elsewhere; "!" marks a cell above its limit by more
than twice the standard error of the ratio, "?" one above it by less; "B" and a number: over the Bayes level of the
prior's first two moments, where there are 100 users or more and 15 samples. --quick: few trials of the sizes up to
40 users.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import colora_theory as ct

ANGLES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0)
RIVALS = {
    "altmin": {"rank": 2},
    "full_finetuning": {},
    "ridge": {},
    "robust_multitask": {"rank": 2, "tune": "cv"},
}


def errors(users: int, samples: int, dim: int, angle: float, seed: int) -> list[float]:
    """The Bayes level, then mean squared error per user of hierarchical and of every rival, on one data set."""
    problem = ct.Problem(
        num_users=users,
        num_samples=samples,
        dim_in=dim,
        rank=2,
        noise_std=0.3,
        similarity_angle=angle,
        core_distribution="unit",
    )
    truth = ct.sample_truth(problem, np.random.default_rng([seed, 1]))
    data = ct.sample_data(problem, truth, np.random.default_rng([seed, 2]))
    out = [ct.guarantees.get("bayes_level").value(problem, truth=truth, data=data) / users]
    for name, params in {"hierarchical": {}, **RIVALS}.items():
        fit = ct.estimators.get(name)(**params).fit(data, np.random.default_rng(seed))
        out.append(float(((fit.weights - truth.weights) ** 2).sum()) / users)
    return out


def ratio(table: np.ndarray) -> tuple[float, float, int]:
    """Mean error over the least mean of a rival, its standard error (first order), and which rival it is."""
    means = table.mean(0)
    best = 1 + int(np.argmin(means[1:]))
    value = means[0] / means[best]
    spread = (table[:, 0] - value * table[:, best]).std(ddof=1) / np.sqrt(len(table))
    return float(value), float(spread / means[best]), best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, help="data sets per cell; else 12, 6 and 2 for 5, 40 and 300 users")
    parser.add_argument("--users", type=int, nargs="+", default=[5, 40, 300])
    parser.add_argument("--samples", type=int, nargs="+", default=[4, 15, 60, 240])
    parser.add_argument("--dims", type=int, nargs="+", default=[10, 40])
    parser.add_argument("--angles", type=float, nargs="+", default=ANGLES)
    args = parser.parse_args()
    users = [k for k in args.users if k <= 40] if args.quick else args.users
    usual = {5: 12, 40: 6, 300: 2}
    print("k    n    d       " + "".join(f"{angle:<16g}" for angle in args.angles) + "seconds")
    worst = {True: 0.0, False: 0.0}
    for k in users:
        for n in args.samples:
            for d in args.dims:
                enough = k * n >= 2 * (2 * (d - 2) + 2 * k)
                limit, begun, entries = 1.05 if enough else 1.15, time.perf_counter(), []
                for angle in args.angles:
                    trials = args.trials or usual.get(k, 6)
                    trials = max(2, trials // 4) if args.quick else trials
                    table = np.array([errors(k, n, d, angle, args.seed * 10_000 + j) for j in range(trials)])
                    level, table = table[:, 0].mean(), table[:, 1:]
                    value, spread, best = ratio(table)
                    worst[enough] = max(worst[enough], value)
                    mark = "" if value <= limit else "!" if value > limit + 2.0 * spread else "?"
                    bayes = f"B{table[:, 0].mean() / level:.2f}" if k >= 100 and n >= 15 else ""
                    entries.append(f"{value:.2f}{list(RIVALS)[best - 1][0]}±{spread:.2f}{mark}{bayes}")
                row = "".join(f"{entry:16s}" for entry in entries)
                print(
                    f"{k:<5}{n:<5}{d:<4}{'*' if enough else ' '}   {row}{time.perf_counter() - begun:.0f}",
                    flush=True,
                )
    print(f"largest ratio where k·n ≥ 2·dof: {worst[True]:.3f}; elsewhere: {worst[False]:.3f}")


if __name__ == "__main__":
    main()
