"""Proved limits over observed errors of `split_certify`, over dimensions, users, samples and ranks.

    python benchmarks/certificates.py [--noise 0.1] [--seeds 3] [--largest 2.5e8] [--table FILE] [--figure FILE]

Fits `altmin` and certifies it from its own data with 99 % probability; the truth only says what was observed. A
cell is identifiable when its observations are at least its degrees of freedom. Cells are stored in the table as
they are done, and not run again; `--largest` leaves out cells with more numbers d·k·n, and those above 10⁷ run
with one seed. Prints the table of benchmarks/README.md and the shares within ten times the observed value. Exit
1 if limits lie below what was observed more often than the one case in a hundred that they allow (exact
binomial test, level 1e-6).
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

import colora_theory as ct

DIMS, USERS, SAMPLES, RANKS = (50, 200, 500), (20, 100, 1000), (20, 100, 500), (2, 5, 10)
WITHIN = 10.0
HERE = Path(__file__).parent


def trial(problem: ct.Problem, seed: int) -> dict[str, float | str]:
    """One data set: what was observed, and what was proved."""
    rng = np.random.default_rng([seed, 21])
    truth = ct.sample_truth(problem, rng)
    data = ct.sample_data(problem, truth, rng)
    method = ct.estimators.get("altmin")(rank=problem.rank)
    start = time.perf_counter()
    fit = method.fit(data, rng)
    middle = time.perf_counter()
    got = ct.split_certify(method, data, noise_std=problem.noise_std, rng=rng, fit=fit)
    return {
        "distance": ct.subspace_distance(fit.input_subspace, truth.input_subspace),
        "subspace_limit": got.subspace_limit,
        "error": float(((fit.weights - truth.weights) ** 2).sum()),
        "error_limit": got.error_limit,
        "division": f"{got.parts} by {got.by}",
        "fit_seconds": middle - start,
        "certify_seconds": time.perf_counter() - middle,
    }


def run(options: argparse.Namespace) -> pd.DataFrame:
    """All cells that are not in the table yet, the small ones first."""
    done = pd.read_csv(options.table) if options.table.exists() else pd.DataFrame()
    rows = done.to_dict("records")
    known = {(each["d"], each["k"], each["n"], each["r"], each["noise"], each["seed"]) for each in rows}
    for d, k, n, r in sorted(itertools.product(DIMS, USERS, SAMPLES, RANKS), key=lambda cell: math.prod(cell[:3])):
        problem = ct.Problem(num_users=k, num_samples=n, dim_in=d, rank=r, noise_std=options.noise)
        size = d * k * n
        if problem.num_observations < problem.degrees_of_freedom or size > options.largest:
            continue
        for seed in range(options.seeds if size < 1e7 else 1):
            if (d, k, n, r, options.noise, seed) in known:
                continue
            cell = {"d": d, "k": k, "n": n, "r": r, "noise": options.noise, "seed": seed}
            rows.append({**cell, **trial(problem, seed)})
            pd.DataFrame(rows).to_csv(options.table, index=False, float_format="%.6g")
    found = pd.DataFrame(rows)
    return found[found.noise == options.noise]


def ratios(found: pd.DataFrame) -> pd.DataFrame:
    """Per cell, the medians over seeds of limit over observed; infinite where a limit says nothing."""
    said = found.assign(
        subspace=np.where(found.subspace_limit < 1, found.subspace_limit / found.distance, np.inf),
        error_ratio=found.error_limit / found.error,
        load=found.n * found.k / (found.r * (found.d - found.r) + found.k * found.r),
    )
    grouped = said.groupby(["d", "k", "n", "r"])
    numbers = grouped[["load", "distance", "subspace", "error_ratio"]].median()
    return numbers.join(grouped[["division"]].first()).reset_index()


def told(ratio: float) -> str:
    return "n/a" if not math.isfinite(ratio) else f"{ratio:.1f}" if ratio < 99.5 else f"{ratio:.2g}"


def table(cells: pd.DataFrame) -> str:
    """Subspace / squared error, a row per d, k, n and a column per rank."""
    out = [
        "| d | k | n | " + " | ".join(f"r = {r}" for r in RANKS) + " |",
        "|---:|---:|---:|" + "---:|" * len(RANKS),
    ]
    for d, k, n in itertools.product(DIMS, USERS, SAMPLES):
        texts = []
        for r in RANKS:
            cell = cells[(cells.d == d) & (cells.k == k) & (cells.n == n) & (cells.r == r)]
            identifiable = n * k >= r * (d - r) + k * r
            texts.append(
                f"{told(cell.subspace.iloc[0])} / {told(cell.error_ratio.iloc[0])}"
                if len(cell)
                else "not run"
                if identifiable
                else "–"
            )
        out.append(f"| {d} | {k} | {n} | " + " | ".join(texts) + " |")
    return "\n".join(out)


def draw(cells: pd.DataFrame, noise: float, file: Path) -> None:
    """Both ratios against observations per degree of freedom; cells without a limit lie on the upper edge."""
    import matplotlib.pyplot as plt

    from colora_theory.figures.style import COLOURS

    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.8), sharey=True, layout="constrained")
    top = 300.0
    for ax, (column, title) in zip(
        axes, (("subspace", "subspace distance"), ("error_ratio", "summed squared error")), strict=True
    ):
        for r, marker, colour in zip(RANKS, "os^", COLOURS, strict=False):
            mine = cells[cells.r == r]
            inside = mine[column] < top
            ax.scatter(
                mine.load[inside], mine[column][inside], marker=marker, s=26, color=colour, label=f"r = {r}", lw=0
            )
            ax.scatter(
                mine.load[~inside],
                np.full((~inside).sum(), top),
                marker=marker,
                s=26,
                facecolors="none",
                color=colour,
            )
        ax.axhline(WITHIN, color="0.4", lw=1, ls="--")
        ax.axhline(1.0, color="0.4", lw=1)
        ax.set(xscale="log", yscale="log", xlabel="observations per degree of freedom", title=title)
        ax.set_ylim(0.8, top * 1.3)
    axes[0].set_ylabel("proved limit ÷ observed")
    axes[0].legend(frameon=False, loc="upper right", bbox_to_anchor=(1.0, 0.93))
    note = "open symbols on the upper edge: no limit, or above 300; dashed: ten times"
    figure.supxlabel(f"d, k, n, r as in the table, σ = {noise:g}, 99 %; {note}", fontsize=8)
    figure.savefig(file)


def main() -> int:
    """Run, print, draw."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--noise", type=float, default=0.1)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--largest", type=float, default=2.5e8)
    options.add_argument("--table", type=Path, default=HERE / "certificates.csv")
    options.add_argument("--figure", type=Path)
    chosen = options.parse_args()
    found = run(chosen)
    cells = ratios(found)
    print(table(cells))
    for name in ("subspace", "error_ratio"):
        good = int((cells[name] <= WITHIN).sum())
        print(f"{name}: {good} of {len(cells)} identifiable cells within {WITHIN:g} × ({good / len(cells):.0%})")
    both = int(((cells.subspace <= WITHIN) & (cells.error_ratio <= WITHIN)).sum())
    print(f"both: {both} ({both / len(cells):.0%})")
    failed = int(((found.subspace_limit < found.distance) | (found.error_limit < found.error)).sum())
    print(f"{failed} of {len(found)} certificates below what was observed")
    if chosen.figure is not None:
        draw(cells, chosen.noise, chosen.figure)
    return int(stats.binom.sf(failed - 1, len(found), 0.01) < 1e-6)


if __name__ == "__main__":
    sys.exit(main())
