"""Robust multi-task learning: a shared low-rank centre that outliers may leave."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from colora_theory.estimators.base import Fit, register
from colora_theory.estimators.block_steps import alternate
from colora_theory.estimators.descent import SINGULAR
from colora_theory.estimators.personal_parts import equal_energy, noise_level, remaining, target
from colora_theory.estimators.ranks import resolve_rank
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.estimators.starts import start
from colora_theory.estimators.trace import Trace
from colora_theory.estimators.tuning import Tuned
from colora_theory.model.checks import check_integer, check_real
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array


@register
@dataclass(frozen=True, kw_only=True)
class RobustMultitask(Tuned):
    """Robust multi-task learning: every user is shrunk to a shared low-rank centre, and free to leave it.

    Model       W_i = W_0 + Γ_i + D_i with Γ_i = U C_i Vᵀ.
    Objective   Σ_i ½‖y_i − 𝒜_i(Γ_i + D_i)‖² + λ_i ‖D_i‖_F: a user keeps D_i = 0 exactly while its data agree with
                the shared structure, and an outlier pays λ_i once instead of bending everybody.
    Penalty     λ_i = strength · σ̂ √(n_i q), q unknowns per user, the size of its noise moments; σ̂ from the median
                residual. strength given, or of 0.2, 0.4, …, 2 the best by cross-validation (tune = "cv"), as its
                authors choose it.
    Algorithm   λ‖D‖ is the least of τ‖D‖²/2 + λ²/(2τ) over τ. By turns τ_i = λ_i/‖D_i‖ at the exact D_i, a root in
                one variable per user, and one sweep of `altmin` on what remains of the objective, quadratic now,
                when D_i is eliminated: user i's data weighted by √(τ_i/(s² + τ_i)) along their singular values s.
                (Blocks that take turns at Γ and D give way to each other by a little each time, and crawl.)
    Cost        One singular value decomposition per user, then a sweep of `altmin` each time; tens of sweeps.
    Source      Duan & Wang 2023 (ARMUL), objective Σ w_j[f_j(θ_j) + λ_j‖θ_j − γ_j‖₂], λ_j ∝ √(d/n_j) per sample.

    Parameters
    ----------
    rank : r or (rank_in, rank_out) of the shared part.
    tol, noise_tol : stop when the weights are estimated to be within `tol` of their limit, relative to their norm,
        or within the fraction `noise_tol` of what noise makes of them (see `target`).
    max_sweeps : most sweeps.
    strength : multiple of the noise moments' size.
    tune : how `strength` is chosen (see `Tuned`).
    """

    name: ClassVar[str] = "robust_multitask"
    GRID: ClassVar[tuple[float, ...]] = tuple(j / 5.0 for j in range(1, 11))
    DRAFT: ClassVar[dict[str, Any]] = {"noise_tol": 0.1, "max_sweeps": 60}

    rank: int | tuple[int, int] | None = None
    tol: float = 1e-8
    noise_tol: float = 1e-2
    max_sweeps: int = 500
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("tol", self.tol)
        check_real("noise_tol", self.noise_tol)
        check_integer("max_sweeps", self.max_sweeps, 1)
        check_real("strength", self.strength)

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate the centre and what every user adds to it; `rng` splits sufficient rows."""
        if self.tune != "none":
            return self.tuned_fit(data, rng)
        rank = resolve_rank(self.rank, data)
        u, v = start(equal_energy(data), rank, "split_half", rng)
        model = SharedModel(data)
        left, values, right = np.linalg.svd(model.x, full_matrices=False)
        rotated = left.swapaxes(1, 2) @ model.y
        moments = np.sqrt(model.counts * model.d * model.p)  # size of a user's noise moments at unit noise

        def depart(centre: Array) -> tuple[Array, Array, float]:
            """Exact D_i given Γ_i, its τ_i, and the objective."""
            level = self.strength * noise_level(model, centre) * moments
            missed = rotated - values[:, :, None] * (right @ centre.reshape(model.k, right.shape[2], -1))
            own, tau = group_shrink(values, missed, right, level)
            own = own.reshape(centre.shape)
            misfit = model.residual_moments(centre + own)[1]
            return own, tau, 0.5 * misfit + float(level @ np.linalg.norm(own, axis=(1, 2)))

        weights = np.zeros((model.k, model.d, model.p))
        own, tau, _ = depart(
            weights
        )  # every user tuned alone but for the penalty: outliers' moments are no larger
        moves: list[float] = []
        objectives: list[float] = []
        converged = False
        while len(moves) < self.max_sweeps and not converged:
            trust = 1.0 / np.sqrt(1.0 + values**2 / tau[:, None])[:, :, None]
            eliminated = SharedModel(_rows(data, trust * values[:, :, None] * right, trust * rotated))
            u, v, _ = alternate(eliminated, eliminated.evaluate(u, v), 0.1)
            point = eliminated.evaluate(u, v)
            own, tau, objective = depart(point.weights)
            before, weights = weights, point.weights + own
            moves.append(float(np.linalg.norm(weights - before)) / max(float(np.linalg.norm(weights)), 1e-300))
            objectives.append(objective)
            converged = remaining(moves) <= target(self, model, weights, point.cores)
        short = bool(point.deficient.any())
        stopped = "" if converged else f"max_sweeps = {self.max_sweeps} reached before the stop rule."
        return Fit(
            status="singular" if short else "converged" if converged else "stopped",
            message=SINGULAR if short else stopped,
            dense=weights,
            input_subspace=u,
            output_subspace=v,
            cores=point.cores,
            pretrained=data.pretrained,
            sweeps=len(moves),
            history=Trace(objective=np.array(objectives), personal=own),
        )


def group_shrink(values: Array, rotated: Array, right: Array, level: Array) -> tuple[Array, Array]:
    """argmin ½‖r − X D‖² + λ‖D‖_F per user, from X = L diag(values) R and rotated = Lᵀr.

    D = (XᵀX + τI)⁻¹Xᵀr where τ‖D‖ = λ, and zero when ‖Xᵀr‖ ≤ λ. τ‖D(τ)‖ rises with τ: bisection on a log scale.
    Returns D, shape (k, q, t), and τ, shape (k,), infinite where D is zero.
    """
    energy = (rotated**2).sum(2) * values**2
    zero = np.sqrt(energy.sum(1)) <= level
    low, high = np.full(len(level), -80.0), np.full(len(level), 80.0)
    largest = values.max(axis=1, initial=0.0)  # none without rows
    scale = np.log(np.where(largest > 0, largest, 1.0) ** 2)
    for _ in range(60):
        middle = 0.5 * (low + high)
        tau = np.exp(middle + scale)[:, None]
        reached = tau[:, 0] * np.sqrt((energy / (values**2 + tau) ** 2).sum(1)) >= level
        high, low = np.where(reached, middle, high), np.where(reached, low, middle)
    tau = np.exp(high + scale)
    solution = right.swapaxes(1, 2) @ ((values / (values**2 + tau[:, None]))[:, :, None] * rotated)
    solution[zero] = 0.0
    return solution, np.where(zero, np.inf, tau)


def _rows(data: Dataset, covariates: Array, responses: Array) -> Dataset:
    """Effective rows (flat) of the users of `data`, without the pretrained weight's predictions."""
    k, m = covariates.shape[:2]
    return dataclasses.replace(
        data.without_pretrained(),
        covariates=covariates.reshape(k, m, *data.covariates.shape[2:]),
        responses=responses.reshape(k, m, *data.responses.shape[2:]),
        sufficient=True,
    )
