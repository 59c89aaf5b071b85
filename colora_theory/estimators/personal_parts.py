"""What models with shared and personal parts have in common: W_i = W_0 + U C_i Vᵀ + D_i, by turns."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from scipy.special import gammaincinv

from colora_theory.estimators.base import Fit
from colora_theory.estimators.block_steps import alternate
from colora_theory.estimators.descent import SINGULAR
from colora_theory.estimators.ranks import resolve_rank
from colora_theory.estimators.shared_model import SharedModel, degrees_of_freedom
from colora_theory.estimators.starts import start
from colora_theory.estimators.trace import Trace
from colora_theory.estimators.tuning import Tuned
from colora_theory.model.checks import check_integer, check_real
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array


@dataclass(frozen=True, kw_only=True)
class SharedPlusPersonal(Tuned):
    """Base: W_i = W_0 + U C_i Vᵀ + D_i, by turns one sweep of `altmin` for the shared part and one step for D_i.

    Parameters
    ----------
    rank : r or (rank_in, rank_out) of the shared part.
    tol, noise_tol : stop when the weights are estimated to be within `tol` of their limit, relative to their norm,
        or within the fraction `noise_tol` of what noise makes of them (see `target`).
    max_sweeps : most sweeps.
    tune : how the personal part's parameter is chosen (see `Tuned`).
    """

    DRAFT: ClassVar[dict[str, Any]] = {"noise_tol": 0.1, "max_sweeps": 60}

    rank: int | tuple[int, int] | None = None
    tol: float = 1e-8
    noise_tol: float = 1e-2
    max_sweeps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("tol", self.tol)
        check_real("noise_tol", self.noise_tol)
        check_integer("max_sweeps", self.max_sweeps, 1)

    @abstractmethod
    def personal(
        self,
        model: SharedModel,
        data: Dataset,
        shared: Array,
        personal: Array,
        settled: bool,
        rng: np.random.Generator | None,
    ) -> Array:
        """Return the next D_i, shape (k, d, p), for the shared part U C_i Vᵀ; `settled` after the first sweeps."""

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate shared and personal parts; `rng` splits sufficient rows."""
        if self.tune != "none":
            return self.tuned_fit(data, rng)
        rank = resolve_rank(self.rank, data)
        u, v = start(equal_energy(data), rank, "split_half", rng)
        model = SharedModel(data)
        shared = personal = np.zeros((model.k, model.d, model.p))
        converged = False
        moves: list[float] = []
        objectives: list[float] = []
        for sweep in range(1, self.max_sweeps + 1):
            left = model.with_responses(model.y - predictions_of(model, personal))
            u, v, _ = alternate(left, left.evaluate(u, v), 0.1)
            point = left.evaluate(u, v)
            before, shared = shared + personal, point.weights
            personal = self.personal(model, data, shared, personal, sweep > 10, rng)
            objectives.append(point.objective)
            after = shared + personal
            scale = max(float(np.linalg.norm(after)), 1e-300)
            moves.append(float(np.linalg.norm(after - before)) / scale)
            if sweep > 11 and remaining(moves) <= target(self, model, after, point.cores):
                converged = True
                break
        short = bool(point.deficient.any())
        stopped = "" if converged else f"max_sweeps = {self.max_sweeps} reached before the stop rule."
        return Fit(
            status="singular" if short else "converged" if converged else "stopped",
            message=SINGULAR if short else stopped,
            dense=shared + personal,
            input_subspace=u,
            output_subspace=v,
            cores=point.cores,
            pretrained=data.pretrained,
            sweeps=sweep,
            history=Trace(objective=np.array(objectives), personal=personal),
        )


def remaining(moves: list[float]) -> float:
    """Estimated distance to the limit of an iteration from the lengths of its moves: a geometric series.

    Its rate is the geometric mean over the last moves, at least 0.1; infinite before there are enough of them.
    """
    if moves and moves[-1] == 0.0:
        return 0.0
    if len(moves) < 6:
        return np.inf
    rate = max((moves[-1] / max(moves[-6], 1e-300)) ** 0.2, 0.1)  # a sweep may stand still before one that moves
    return moves[-1] * rate / (1.0 - rate) if rate < 1.0 else np.inf


class StopRule(Protocol):
    """What the stop rule reads of an estimator."""

    @property
    def tol(self) -> float: ...

    @property
    def noise_tol(self) -> float: ...


def target(rule: StopRule, model: SharedModel, weights: Array, cores: Array) -> float:
    """Relative distance of the weights (less W_0) to their limit at which to stop: sweeping below noise is idle.

    Noise makes an error of σ̂ √(dof/n̄) at the least, σ̂ from the residuals, dof those of the shared part.
    """
    per_user = max(float(model.counts.mean()), 1.0)
    error = noise_level(model, weights) * np.sqrt(degrees_of_freedom(model, cores) / per_user)
    return max(rule.tol, rule.noise_tol * error / max(float(np.linalg.norm(weights)), 1e-300))


def equal_energy(data: Dataset) -> Dataset:
    """Responses scaled to the same energy for every user, so that no outlier decides where to start."""
    responses = data.residual_responses()
    energy = (responses**2).reshape(data.num_users, -1).mean(1) if responses.size else np.ones(data.num_users)
    scale = np.divide(1.0, np.sqrt(energy), out=np.ones_like(energy), where=energy > 0)
    return data.with_responses(responses * scale.reshape(-1, *[1] * (responses.ndim - 1)))


def predictions_of(model: SharedModel, weights: Array) -> Array:
    """Noiseless responses of all users' weights, shape as the model's responses."""
    return np.concatenate([model.predictions(block, weights) for block in model.blocks])


def noise_level(model: SharedModel, weights: Array) -> float:
    """Robust noise standard deviation: root of the samples' median squared residual over χ²_p's, padding left out.

    Whole samples, not their single outputs, because those have axes that a rotation changes.
    """
    residual = ((model.y - predictions_of(model, weights)) ** 2).sum(2)
    rows = np.arange(residual.shape[1]) < model.counts[:, None]
    usual = 2.0 * gammaincinv(model.y.shape[2] / 2.0, 0.5)
    return float(np.sqrt(np.median(residual[rows]) / usual)) if rows.any() else 0.0
