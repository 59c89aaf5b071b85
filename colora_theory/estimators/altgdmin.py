"""Gradient methods for the shared subspaces: one gradient step a sweep, or several."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from colora_theory.estimators.base import register
from colora_theory.estimators.descent import Run, SharedDescent
from colora_theory.estimators.shared_model import SharedModel, sum_products, weighted_square
from colora_theory.model.checks import check_integer, check_real
from colora_theory.model.linalg import Array


def gradient_step(
    model: SharedModel, u: Array, v: Array, cores: Array, moments: Array, step: float
) -> tuple[Array, Array]:
    """U and V moved down the gradient, not orthonormalised; `step` is in units of the curvature Σ n_i C_iC_iᵀ."""
    left = np.linalg.eigvalsh(weighted_square(model.counts, cores))[-1]
    moved = u + (step / left) * sum_products(moments @ v, cores) if left > 0 else u
    if v.shape[1] == model.p:
        return moved, v
    right = np.linalg.eigvalsh(weighted_square(model.counts, cores.swapaxes(1, 2)))[-1]
    turned = sum_products(moments.swapaxes(1, 2) @ u, cores.swapaxes(1, 2))
    return moved, v + (step / right) * turned if right > 0 else v


@register
@dataclass(frozen=True, kw_only=True)
class AltGDMin(SharedDescent):
    """AltGDmin: exact cores, then one gradient step on U and V with QR.

    Model, objective   Those of `altmin`.
    Algorithm   U ← QR(U + η Σ_i 𝒜_i*(r_i) V C_iᵀ) with η = step/λ_max(Σ n_i C_iC_iᵀ); likewise V.
    Cost        One pass over the data per sweep, O(N d r): less communication than `altmin`, more sweeps.
    Source      Nayer & Vaswani 2021–23 (arXiv 2102.10217, 2306.17782).

    Parameters
    ----------
    The shared ones of SharedDescent, and
    step : step length in units of the largest curvature, in (0, 2).
    """

    name: ClassVar[str] = "altgdmin"
    DOUBTED: ClassVar[float] = math.inf  # gradient steps are short wherever the curvature is uneven

    restarts: int | None = 0
    step: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("step", self.step, 1e-6, 2.0)

    def sweep(self, run: Run) -> tuple[Array, Array, bool]:
        """One gradient step from the present cores."""
        point = run.point
        u, v = gradient_step(run.model, point.u, point.v, point.cores, point.moments, self.step)
        return np.linalg.qr(u)[0], v if v is point.v else np.linalg.qr(v)[0], False


@register
@dataclass(frozen=True, kw_only=True)
class FedRep(SharedDescent):
    """FedRep: exact heads (cores), then several gradient steps on the representation (U, V), then QR.

    Model, objective   Those of `altmin`.
    Algorithm   `inner_steps` steps as in `altgdmin` with the cores held fixed, one orthonormalisation a sweep.
    Cost        `inner_steps` passes over the data per sweep.
    Source      Collins, Hassani, Mokhtari & Shakkottai 2021 (arXiv 2102.07078); step = 1/4
                is its η ≤ 1/(4 σ_max²).

    Parameters
    ----------
    The shared ones of SharedDescent, and
    step : step length in units of the largest curvature, in (0, 2).
    inner_steps : gradient steps on the representation per sweep.
    """

    name: ClassVar[str] = "fedrep"
    DOUBTED: ClassVar[float] = math.inf  # gradient steps are short wherever the curvature is uneven

    restarts: int | None = 0
    step: float = 0.25
    inner_steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("step", self.step, 1e-6, 2.0)
        check_integer("inner_steps", self.inner_steps, 1)

    def sweep(self, run: Run) -> tuple[Array, Array, bool]:
        """`inner_steps` gradient steps with the present cores."""
        point, model = run.point, run.model
        u, v, moments = point.u, point.v, point.moments
        for number in range(self.inner_steps):
            if number:
                moments, _ = model.residual_moments(np.matmul(u @ point.cores, v.T))
            u, v = gradient_step(model, u, v, point.cores, moments, self.step)
        return np.linalg.qr(u)[0], v if v is point.v else np.linalg.qr(v)[0], False
