"""Ridge on the personal cores of the shared model: what keeps them finite where users have few samples.

With orthonormal U and V, ‖C_i‖ = ‖U C_i Vᵀ‖, so the penalty λ Σ ‖C_i‖² is one on the weights, and rows √λ I with
responses 0 beside every user's own make any method of the shared model minimise it, the subspaces included.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import numpy as np

from colora_theory.estimators.base import Fit
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.model.checks import check_real
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array

#: Penalties, in samples, among which "auto" chooses; where it begins; rounds; change of log λ that ends them.
_GRID: Final = 10.0 ** np.arange(-6.0, 4.01, 0.1)
_FIRST, _ROUNDS, _SETTLED = 1.0, 8, 0.12


def check_core_penalty(value: object) -> None:
    """Refuse what is neither "auto" nor a number ≥ 0."""
    if not isinstance(value, str) or value != "auto":
        check_real("core_penalty", value)


def energy(data: Dataset) -> float:
    """Mean square of the covariates' entries over all samples."""
    entries = float(data.counts.sum()) * float(np.prod(data.covariates.shape[2:]))
    return float(np.vdot(data.covariates, data.covariates)) / max(entries, 1.0)


def with_core_penalty(data: Dataset, penalty: float) -> Dataset:
    """The data with rows that penalise ‖W_i − W_0‖² as much as `penalty` average samples per input would.

    The pretrained weight's predictions are subtracted. Covariates: shape (k, m + q, …), q entries per sample.
    """
    plain = data.without_pretrained()
    inner = plain.covariates.shape[2:]
    q = int(np.prod(inner))
    rows = np.sqrt(penalty * energy(data)) * np.eye(q).reshape(q, *inner)
    k = data.num_users
    zeros = np.zeros((k, q, *plain.responses.shape[2:]))
    return dataclasses.replace(
        plain,
        covariates=np.concatenate([np.broadcast_to(rows, (k, *rows.shape)), plain.covariates], axis=1),
        responses=np.concatenate([zeros, plain.responses], axis=1),
        counts=plain.counts + q,
    )


def likeliest(data: Dataset, u: Array, v: Array, learned: bool) -> float:
    """The penalty, in samples, of largest marginal likelihood with cores of independent normal entries.

    Given U and V, λ = σ²/s² with s² the variance of a core's entry, σ² at its best for each λ (Laird & Ware
    1982).
    `learned`: U and V come from the same data, whose responses count less by the degrees of freedom they took.
    """
    model = SharedModel(data.without_pretrained())
    if model.regression:
        features, answers = model.x @ u, model.y @ v
    else:
        features = model.x @ np.einsum("ia,jb->ijab", u, v).reshape(model.x.shape[2], -1)
        answers = model.y
    left, values, _ = np.linalg.svd(features, full_matrices=False)
    energies = ((left.swapaxes(1, 2) @ answers) ** 2).sum(2)
    rest = max(model.energy - float(energies.sum()), 0.0)
    shared = u.shape[1] * (model.d - u.shape[1]) + v.shape[1] * (model.p - v.shape[1]) if learned else 0
    count = max(model.num_observations - shared, 0.1 * model.num_observations)
    ratios = values**2 / max(energy(data), 1e-300)
    best, chosen = -np.inf, _FIRST
    for penalty in _GRID:
        grown = 1.0 + ratios / penalty
        misfit = max(rest + float((energies / grown).sum()), 1e-300)
        value = -0.5 * (count * np.log(misfit) + answers.shape[2] * float(np.log(grown).sum()))
        if value > best:
            best, chosen = value, float(penalty)
    return chosen


def penalised_fit(rule: Any, data: Dataset, start: tuple[Array, Array], rng: np.random.Generator | None) -> Fit:
    """Fit a method of the shared model with `rule.core_penalty`, "auto" by turns with the fit.

    `Fit.history` holds the penalty under "tuned".
    """
    u, v = start
    given = rule.core_penalty != "auto"
    penalty = float(rule.core_penalty) if given else _FIRST
    for _ in range(1 if given else _ROUNDS):
        plain = dataclasses.replace(rule, core_penalty=0.0, rank=(u.shape[1], v.shape[1]))
        plain = dataclasses.replace(plain, input_subspace=u, output_subspace=v)
        fit = plain.fit(with_core_penalty(data, penalty), rng)
        assert fit.input_subspace is not None
        assert fit.output_subspace is not None
        u, v, used = fit.input_subspace, fit.output_subspace, penalty
        if not given:
            penalty = likeliest(data, u, v, learned=True)
            if abs(np.log(penalty / used)) < _SETTLED:
                break
    history = dataclasses.replace(fit.history, tuned=used)
    return dataclasses.replace(fit, pretrained=data.pretrained, history=history, uncertainty=None)
