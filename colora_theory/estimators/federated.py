"""Federated rounds for a shared linear representation: some users a round, heads exact or by gradient steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from colora_theory.errors import InputError
from colora_theory.estimators.base import Estimator, Fit, register
from colora_theory.estimators.frozen_subspace import fit_in_subspaces
from colora_theory.estimators.ranks import resolve_rank
from colora_theory.estimators.starts import random_start, split_half
from colora_theory.model.checks import check_integer, check_real, check_word
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array, least_squares


@register
@dataclass(frozen=True, kw_only=True)
class Federated(Estimator):
    """Rounds in which a share of the users moves the representation B, one output.

    Model       θ_i = B v_i with a shared representation B (d × r) and a head v_i of every user.
    Objective   Σ_i ‖y_i − X_i B v_i‖².
    Algorithm   A round draws a share `participation` of the users. Their heads are least squares ("exact":
                FedRep), or move by `head_steps` gradient steps ("gradient"), or are one head for all ("shared":
                FedSGD, a single model); then B takes one gradient step on their loss. Steps are in units of the
                curvature: of B's Σ n_i v_iv_iᵀ, of a head's BᵀX_iᵀX_iB. With exact heads B is made orthonormal
                after every round. At the end every user fits its head to the B that was learned.
    Cost        One pass over the chosen users' data a round.
    Source      Collins, Hassani, Mokhtari & Shakkottai 2021 (arXiv 2102.07078), synthetic experiments.

    Parameters
    ----------
    rank : r. heads : "exact", "gradient" or "shared". head_steps : gradient steps on a head a round.
    step, head_step : lengths, in units of the curvature. participation : share of the users a round, in (0, 1].
    start : "random" (normal entries) or "split_half" (method of moments). max_sweeps : rounds.
    """

    name: ClassVar[str] = "federated"

    rank: int | tuple[int, int] | None = None
    heads: str = "exact"
    head_steps: int = 1
    step: float = 0.5
    head_step: float = 0.5
    participation: float = 1.0
    start: str = "random"
    max_sweeps: int = 200

    def __post_init__(self) -> None:
        check_word("heads", self.heads, ("exact", "gradient", "shared"))
        check_word("start", self.start, ("random", "split_half"))
        for name in ("head_steps", "max_sweeps"):
            check_integer(name, getattr(self, name), 1)
        check_real("step", self.step, 0.0, 2.0)
        check_real("head_step", self.head_step, 0.0, 2.0)
        check_real("participation", self.participation, 1e-9, 1.0)

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate the representation and all heads; `rng` draws the start and the users of every round."""
        rank = resolve_rank(self.rank, data)
        if data.design != "regression" or data.dim_out != 1:
            raise InputError(f"federated needs the vector model (dim_out = 1), got dim_out = {data.dim_out}.")
        if rng is None:
            raise InputError("federated draws the users of every round; pass rng.")
        b = (random_start if self.start == "random" else split_half)(data, rank, rng)[0]
        k, r = data.num_users, rank[0]
        v = rng.standard_normal((k, r)) / np.sqrt(r)
        count = max(1, int(self.participation * k))
        x, y, n = data.covariates, data.residual_responses()[:, :, 0], data.counts.astype(float)
        for _ in range(self.max_sweeps):
            chosen = rng.choice(k, size=count, replace=False)
            features, responses = x[chosen] @ b, y[chosen]
            heads = self._heads(features, responses, v[chosen])
            v[chosen] = heads
            residual = (features @ heads[:, :, None])[:, :, 0] - responses
            slope = np.einsum("knd,kn,kr->dr", x[chosen], residual, heads, optimize=True)
            curvature = float(np.linalg.eigvalsh((heads.T * n[chosen]) @ heads)[-1])
            b = b - (self.step / max(curvature, 1e-300)) * slope
            if self.heads == "exact":
                b = np.linalg.qr(b)[0]
        u = np.linalg.qr(b)[0]
        fit = fit_in_subspaces(data, u, np.eye(1))
        message = f"max_sweeps = {self.max_sweeps} rounds, whatever is left."
        return Fit(
            status="stopped",
            message=message,
            input_subspace=u,
            output_subspace=np.eye(1),
            cores=fit.cores,
            pretrained=data.pretrained,
            sweeps=self.max_sweeps,
        )

    def _heads(self, features: Array, responses: Array, heads: Array) -> Array:
        """The next heads of the users of a round, shape (users, r)."""
        if self.heads == "exact":
            return least_squares(features, responses[:, :, None])[0][:, :, 0]
        if self.heads == "shared":  # one user that has all samples
            features, responses = features.reshape(1, -1, features.shape[2]), responses.reshape(1, -1)
            return np.repeat(self._moved(features, responses, heads[:1]), len(heads), axis=0)
        return self._moved(features, responses, heads)

    def _moved(self, features: Array, responses: Array, heads: Array) -> Array:
        """Gradient steps on heads, each in units of its own curvature."""
        gram = features.swapaxes(1, 2) @ features
        moments = (responses[:, None, :] @ features)[:, 0]
        length = self.head_step / np.maximum(np.linalg.eigvalsh(gram)[:, -1], 1e-300)
        for _ in range(self.head_steps):
            heads = heads - length[:, None] * ((gram @ heads[:, :, None])[:, :, 0] - moments)
        return heads
