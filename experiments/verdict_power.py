"""How sharp and how honest are the verdicts?

    python experiments/verdict_power.py [FOLDER] [--quick]

> A true claim is called violated in at most 5 % of repeated samples, the level of the test, however many trials
> there are. A claim that is wrong by 20 % is found out in 100 trials, one that is wrong by 5 % in 1000.

Left: share of 200 repeated samples of 100 trials in which a claim is called violated, as an upper bound is divided
by a growing factor and as an identity is multiplied by it; at factor one the claim is true and the share is the
false-alarm rate. Right: the same share for identities shifted by nothing, 5 % and 20 %, against the number of
trials. Local least squares with its exact risk throughout; level 5 %; bars are 95 % Clopper–Pearson intervals.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import colora_theory as ct
from colora_theory.engine.machine import manifest
from colora_theory.figures.draw import finish, put_beside, write
from colora_theory.figures.style import COLOURS, MARKERS, WIDTHS, context
from colora_theory.model.linalg import least_squares
from colora_theory.verdicts.judge import Requirement, Sample, clopper_pearson, judge

mpl.use("Agg")
import matplotlib.pyplot as plt

PROBLEM = ct.Problem(num_users=4, num_samples=20, dim_in=8, rank=1, noise_std=0.5)
TITLE = "How sharp and how honest are the verdicts?"
SEED, ALPHA = 314159, 0.05
PANELS = {
    "factor": "factor by which the claim is wrong, 100 trials",
    "trials": "trials",
}


def errors(repeats: int, trials: int, rng: np.random.Generator) -> np.ndarray:
    """Total errors of local least squares, shape (repeats, trials)."""
    count, n, d = repeats * trials * PROBLEM.num_users, PROBLEM.counts[0], PROBLEM.dim_in
    x, noise = rng.standard_normal((count, n, d)), PROBLEM.noise_std * rng.standard_normal((count, n, 1))
    found = least_squares(x, noise)[0]
    return (found**2).sum((1, 2)).reshape(repeats, trials, PROBLEM.num_users).sum(2)


def point(
    panel: str, line: str, x: float, required: Requirement, observed: np.ndarray, value: float
) -> dict[str, object]:
    """Share of the samples (rows of `observed`) in which `value` is called violated, with its interval."""
    called = sum(judge(required, Sample.of(row, value), alpha=ALPHA).status == "violated" for row in observed)
    low, high = clopper_pearson(called, len(observed), 0.05)
    mean = called / len(observed)
    return dict(panel=panel, line=line, x=x, mean=mean, low=low, high=high, called=called, repeats=len(observed))


def points(quick: bool = False) -> pd.DataFrame:
    """All shares: one row a point of the figure."""
    repeats, rng, rows = 20 if quick else 200, np.random.default_rng(SEED), []
    risk = ct.guarantees.get("local_least_squares_risk").value(PROBLEM)
    observed = errors(repeats, 100, rng)
    quantile = float(np.quantile(errors(repeats, 500, rng), 0.95))
    for factor in np.geomspace(1.0, 1.6, 5 if quick else 13):
        for line, claim, value in (
            ("upper bound on the mean ÷ factor", Requirement("upper", "mean"), risk / factor),
            ("95 % bound on single trials ÷ factor", Requirement("upper", "share", delta=0.05), quantile / factor),
            ("identity × factor", Requirement("equality", "mean"), risk * factor),
        ):
            rows.append(point("factor", line, float(factor), claim, observed, value))
    for trials in (25, 100) if quick else (25, 50, 100, 200, 400, 800, 1600):
        observed = errors(repeats, trials, rng)
        for line, shift in (("true identity", 1.0), ("wrong by 5 %", 1.05), ("wrong by 20 %", 1.2)):
            rows.append(point("trials", line, trials, Requirement("equality", "mean"), observed, risk * shift))
    return pd.DataFrame(rows)


def picture(table: pd.DataFrame, style: str = "paper") -> Figure:
    """The figure of `points`."""
    with context(style):
        page, axes = plt.subplots(1, 2, figsize=(WIDTHS["page"], 1.0), sharey=True)
        lines = list(dict.fromkeys(table["line"]))
        for panel, (name, label) in zip(axes, PANELS.items(), strict=True):
            for line, rows in table[table["panel"] == name].groupby("line", sort=False):
                number = lines.index(line)
                bars = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
                panel.errorbar(
                    rows["x"],
                    rows["mean"],
                    bars,
                    color=COLOURS[number],
                    marker=MARKERS[number],
                    linewidth=0.9,
                    capsize=2,
                    label=line,
                )
            panel.axhline(ALPHA, color="#000000", linestyle=":", linewidth=1.0, label="level of the test, 5 %")
            panel.set_xlabel(label)
            panel.set_ylim(-0.03, 1.03)
        axes[1].set_xscale("log")
        axes[1].set_xticks(ticks := sorted(set(table[table["panel"] == "trials"]["x"])), [f"{t:g}" for t in ticks])
        axes[1].minorticks_off()
        axes[0].set_ylabel("share called violated")
        page.suptitle(TITLE, fontsize=mpl.rcParams["axes.titlesize"])
        finish(page, WIDTHS["page"], 0.36 * WIDTHS["page"])
    return page


def main(folder: Path, quick: bool = False) -> None:
    """Count, draw, and write figure, table and manifest into `folder`."""
    begin = time.perf_counter()
    told = manifest(SEED)
    table = points(quick)
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / "verdict_power"
    for path in write(picture(table), TITLE, stem):
        print(path)
    seconds = round(time.perf_counter() - begin, 1)
    outcome = {"rows": int(table["repeats"].sum()), "seconds": seconds, "quick": quick}
    put_beside(stem, {"points": table}, {**told, "study": "verdict_power", "claim": TITLE, "outcome": outcome})


if __name__ == "__main__":
    names = [word for word in sys.argv[1:] if word != "--quick"]
    main(Path(names[0]) if names else Path(__file__).parent.parent / "figures", "--quick" in sys.argv)
