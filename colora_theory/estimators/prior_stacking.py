"""Weights of competing priors by what they predict of rows held out: where evidence alone would be too sure.

The evidence of a prior is what it says about all rows before any is seen. It pays for every shared direction in
full, though for prediction a direction too many costs next to nothing and one too few may cost much. Stacking
(Wolpert 1992; Breiman 1996) asks for the combination of posterior means that predicts best.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import numpy as np
import scipy

from colora_theory.estimators.hyper_parameters import climb
from colora_theory.estimators.marginal_likelihood import Hyper, RotatedRows
from colora_theory.estimators.posterior import mixed_mean
from colora_theory.estimators.prior_evidence import scaled
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.estimators.tuning import folds
from colora_theory.estimators.weak_priors import Rules
from colora_theory.model.dataset import Dataset, predict
from colora_theory.model.linalg import Array

#: Observations that the evidence counts for beside those held out.
_EVIDENCE: Final = 4.0
#: Largest derivative per standard error, and most steps, of a prior fitted to a fold from that of all rows.
_LOOSE, _STEPS = 0.1, 20
#: Users per shared direction, and observations beyond the cores' own per unknown of U, from which on the evidence
#: is decisive (its error is of the order of one over both).
_MANY_USERS, _MANY_ROWS = 20, 10

C = TypeVar("C")


def scarce(rows: RotatedRows, rank: int) -> bool:
    """Whether the data are too few to leave the choice among ranks up to `rank` to the evidence."""
    few_users = len(rows.x) < _MANY_USERS * rank
    return few_users or rows.num_observations - len(rows.x) * rank < _MANY_ROWS * rank * rows.d


def stacked(
    data: Dataset,
    units: Array,
    size: float,
    rules: Rules,
    priors: Mapping[C, Hyper],
    evidence: Mapping[C, float],
    rng: np.random.Generator,
) -> dict[C, float]:
    """Convex weights of the priors' posterior means with the least squared error on rows held out.

    Every prior is fitted again without each fold of every user's rows, and predicts that fold. With E the matrix
    of the summed products of these errors, in units of the best one's mean square, and p the probabilities by
    evidence, the weights w minimise ½ wᵀEw − c Σ p_j log w_j with c = 4: as if the evidence were worth four
    observations more, which decide where the rows held out cannot tell.

    Parameters
    ----------
    units, size : root mean squares of the covariates' columns and of the responses, in which the priors are.
    priors : prior of every hypothesis, fitted to all rows.
    evidence : probabilities of some of them; the others have none.
    rng : splits sufficient rows.
    """
    names = list(priors)
    leader = priors[max(evidence, key=lambda name: evidence[name])]
    noise = size * np.sqrt(leader.sigma2).reshape(-1, *[1] * (data.responses.ndim - 1))
    products = np.zeros((len(names), len(names)))
    for train, test in folds(data.without_pretrained(), rng=rng):
        rows = RotatedRows.of(SharedModel(train), units, size)
        back = size / units.reshape((-1, 1) if rows.regression else (rows.d, rows.p))
        missed = []
        for name in names:
            prior = scaled(rows, climb(rows, priors[name], rules, _LOOSE, _STEPS).hyper, rules)
            weights = back * mixed_mean(rows, prior.hyper, prior.factors, prior.shares)[0]
            missed.append(((test.responses - predict(test.covariates, weights)) / noise).ravel())
        products += np.array(missed) @ np.array(missed).T
    chances = np.array([evidence.get(name, 0.0) for name in names])
    return dict(zip(names, combination(products / unit(products, data), chances), strict=True))


def unit(products: Array, data: Dataset) -> float:
    """Mean squared error held out of the best one."""
    return max(float(products.diagonal().min()) / max(data.num_observations, 1), 1e-300)


def combination(products: Array, chances: Array) -> Array:
    """argmin over the simplex of ½ wᵀEw − c Σ p_j log w_j, E = `products` and p = `chances` (convex)."""

    def objective(logits: Array) -> tuple[float, Array]:
        w = np.exp(logits - logits.max())
        w /= w.sum()
        pull = products @ w
        value = 0.5 * float(w @ pull) - _EVIDENCE * float(chances @ np.log(np.maximum(w, 1e-300)))
        slope = w * (pull - w @ pull) - _EVIDENCE * (chances - w * chances.sum())
        return value, slope

    # from the evidence, every hypothesis allowed for: a weight of zero would stay one
    start = np.log(0.5 * chances + 0.5 / len(chances))
    found = scipy.optimize.minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=scipy.optimize.Bounds(-40.0, 40.0),
        options={"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-10},
    )
    w = np.exp(found.x - found.x.max())
    w[w < 1e-6 * w.max()] = 0.0
    return np.asarray(w / w.sum())
