"""Ridge regression of one user, or of all rows pooled, at the strength of maximum marginal likelihood."""

from __future__ import annotations

import numpy as np
import scipy

from colora_theory.estimators.marginal_likelihood import Hyper, RotatedRows
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.model.dataset import Dataset

#: Standard deviation of an intercept that is not shrunken, in standard units.
_FREE = 1e3


def evidence_ridge(data: Dataset, intercept: bool) -> tuple[RotatedRows, Hyper]:
    """Rows of one user and the prior N(0, τ² I) of its weights; noise σ² and τ² of largest marginal likelihood.

    Parameters
    ----------
    data : one user, covariates and responses centred where there is an intercept.
    intercept : whether the last column is an intercept, which is not shrunken.

    The share of the responses' variance that weights explain has a prior density ∝ ρ(1 − ρ) on the logit scale,
    as in `estimators.weak_priors`: neither noise nor weights vanish by chance.
    """
    rows = RotatedRows.of(SharedModel(data), np.ones(data.dim_in), 1.0)
    d, p = data.dim_in - intercept, data.dim_out
    features = data.covariates[0, :, :d]
    left, values, _ = np.linalg.svd(features, full_matrices=False)
    answers = data.responses[0]
    squares, heard = values**2, ((left.T @ answers) ** 2).sum(1)
    spare = max(float(np.vdot(answers, answers) - heard.sum()), 0.0)
    total = max(float(data.counts[0]) - intercept, 1.0) * p

    def missed(ratio: float) -> float:
        return spare + float((heard / (1.0 + ratio * squares)).sum())

    def slope(log_ratio: float) -> float:
        """Derivative of the log posterior of log(τ²/σ²)."""
        ratio = float(np.exp(log_ratio))
        shrink = 1.0 / (1.0 + ratio * squares)
        gain = 0.5 * total * float((heard * ratio * squares * shrink**2).sum()) / max(missed(ratio), 1e-300)
        return gain - 0.5 * p * float((1.0 - shrink).sum()) + 1.0 - 2.0 * d * ratio / (1.0 + d * ratio)

    def height(log_ratio: float) -> float:
        ratio = float(np.exp(log_ratio))
        value = -0.5 * total * np.log(max(missed(ratio), 1e-300)) - 0.5 * p * np.log1p(ratio * squares).sum()
        return float(value + log_ratio - 2.0 * np.log1p(d * ratio))

    grid = np.linspace(-40.0, 40.0, 81)
    best = int(np.argmax([height(at) for at in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    inside = slope(low) > 0.0 > slope(high)
    log_ratio = scipy.optimize.brentq(slope, low, high, xtol=1e-13) if inside else grid[best]
    ratio = float(np.exp(log_ratio))
    sigma2 = max(missed(ratio) / total, 1e-30)
    return rows, Hyper(
        u=np.zeros((data.dim_in, 0)),
        v=np.zeros((p, 0)),
        core=np.zeros((0, 0)),
        own=np.full(int(intercept), _FREE),
        mean=np.zeros((data.dim_in, p)),
        tau2=ratio * sigma2,
        sigma2=np.array([sigma2]),
        stretch=np.ones(1),
        columns=(d,) if intercept else (),
    )
