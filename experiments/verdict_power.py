"""How sharp and how honest are the verdicts? Draws figures/verdict_power.svg (and .png, .csv).

    python experiments/verdict_power.py [FOLDER]

Left: share of 200 repeated samples in which a claim is called violated, as an upper bound is divided by a growing
factor and as an identity is shifted; at factor one the claim is true and the share is the false-alarm rate. Right:
the same share for identities shifted by 5 % and 20 %, against the number of trials. Local least squares with its
exact risk throughout; level 5 %.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

import colora_theory as ct
from colora_theory.evidence import Claim, Sample, clopper_pearson, judge
from colora_theory.linalg import least_squares

mpl.use("Agg")
import matplotlib.pyplot as plt

PROBLEM = ct.Problem(num_users=4, num_samples=20, dim_in=8, rank=1, noise_std=0.5)
REPEATS, ALPHA = 200, 0.05


def errors(trials: int, rng: np.random.Generator) -> np.ndarray:
    """Total errors of local least squares, shape (REPEATS, trials)."""
    count, n, d = REPEATS * trials * PROBLEM.num_users, PROBLEM.counts[0], PROBLEM.dim_in
    x, noise = rng.standard_normal((count, n, d)), PROBLEM.noise_std * rng.standard_normal((count, n, 1))
    found = least_squares(x, noise)[0]
    return (found**2).sum((1, 2)).reshape(REPEATS, trials, PROBLEM.num_users).sum(2)


def share(claim: Claim, observed: np.ndarray, value: float) -> int:
    """Repeats in which `value` is called violated."""
    return sum(judge(claim, Sample.of(row, value), alpha=ALPHA).status == "violated" for row in observed)


def main(folder: Path) -> None:
    rng = np.random.default_rng(314159)
    risk = ct.guarantees.get("local_least_squares_risk").value(PROBLEM)
    observed, rows = errors(100, rng), []
    quantile = float(np.quantile(errors(500, rng), 0.95))
    for factor in np.geomspace(1.0, 1.6, 13):
        for name, claim, value in (
            ("upper bound on the mean ÷ factor", Claim("upper", "mean"), risk / factor),
            ("95 % bound on single trials ÷ factor", Claim("upper", "rate", delta=0.05), quantile / factor),
            ("identity × factor", Claim("equality", "mean"), risk * factor),
        ):
            rows.append((name, float(factor), 100, share(claim, observed, value)))
    for trials in (25, 50, 100, 200, 400, 800, 1600):
        observed = errors(trials, rng)
        for name, shift in (("identity, true", 1.0), ("identity shifted by 5 %", 1.05), ("by 20 %", 1.2)):
            rows.append((name, shift, trials, share(Claim("equality", "mean"), observed, risk * shift)))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "verdict_power.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["claim", "factor", "trials", "called_violated", "repeats"])
        table.writerows([*row, REPEATS] for row in rows)
    mpl.rcParams.update({"svg.hashsalt": "verdict_power", "font.size": 9})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, index, label, part in (
        (left, 1, "factor (1: the claim is true), 100 trials", rows[:39]),
        (right, 2, "trials", rows[39:]),
    ):
        for name in dict.fromkeys(row[0] for row in part):
            mine = [row for row in part if row[0] == name]
            shares = np.array([row[3] / REPEATS for row in mine])
            bars = np.array([clopper_pearson(row[3], REPEATS, 0.05) for row in mine]).T
            axis.errorbar([row[index] for row in mine], shares, [shares - bars[0], bars[1] - shares],
                          label=name, marker="o", markersize=3, capsize=2, linewidth=1)  # fmt: skip
        axis.axhline(ALPHA, color="grey", linestyle=":", label="level 5 %")
        axis.set_xlabel(label)
        axis.legend(frameon=False, fontsize=7)
    left.set_ylabel("share called violated")
    right.set_xscale("log")
    for kind in ("svg", "png"):
        figure.savefig(
            folder / f"verdict_power.{kind}", dpi=150, metadata={"Date": None} if kind == "svg" else None
        )
    print(folder / "verdict_power.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "figures")
