"""One sweep of block minimisation over U and V, and the sweeps with shrunken cores that improve a poor start."""

from __future__ import annotations

from typing import Any

import numpy as np

from colora_theory.estimators.shared_model import Point, SharedModel
from colora_theory.model.linalg import Array

#: Accuracy of the sweeps that tell how far a point is from its limit.
_SWEEP = 1e-5


def warm_up(model: SharedModel, u: Array, v: Array, strength: float, sweeps: int = 60) -> tuple[Array, Array]:
    """Improve a poor start by sweeps whose cores are shrunken (ridge) in proportion to the misfit.

    With few samples per user exact cores fit the error of U instead of the signal, which makes local minima. The
    ridge penalty is `strength` × (residual variance)/(variance of a core's entry), both estimated from the data,
    so it fades by itself as the fit improves.
    """
    rows = max(model.counts.sum(), 1.0)
    covariate_power = sum(float(np.vdot(model.x[b], model.x[b])) for b in model.blocks) / model.x.shape[2]
    response_power = float(np.vdot(model.y, model.y))
    if covariate_power == 0.0 or response_power == 0.0:
        return u, v
    core_power = response_power / (covariate_power * u.shape[1] * v.shape[1])
    variance = response_power / (rows * model.y.shape[2])
    least = 1e-12 * covariate_power / model.k  # keeps the shrunken cores solvable when nothing is left to fit
    before = np.inf
    for _ in range(sweeps):
        point = model.evaluate(u, v, ridge=max(strength * variance / core_power, least))
        u, v, _ = alternate(model, point, 0.1)
        variance = point.objective / (rows * model.y.shape[2])
        if point.objective > (1.0 - 1e-4) * before:
            break
        before = point.objective
    return u, v


def alternate(
    model: SharedModel, point: Point, tol: float, record: Any = None, *, sure: bool = False
) -> tuple[Array, Array, bool]:
    """U step, then V step, from a point with its cores; `record(half_step, objective)` sees every half step.

    `tol` and `sure` are the accuracy of the steps, as in `SharedModel.solve`.

    A step that is singular, or nearly, or that starts where the fit interpolates, has been seen to end in rounding
    errors that raise the objective: such a step is taken only if it does not.
    """
    cores, v, objective = point.cores, point.v, point.objective
    interpolates = objective <= 1e-28 * model.energy
    change, singular = model.solve_input(point, point.moments, tol, sure=sure)
    u, triangle = np.linalg.qr(point.u + change)
    seen = record is not None and v.shape[1] == model.p  # otherwise the V step tells the objective anyway
    doubtful = interpolates or singular or _collapsed(triangle)
    if seen or doubtful:
        reached = _misfit(model, u, triangle @ cores, v)
        if doubtful and reached > objective:
            u, triangle, reached = point.u, np.eye(len(triangle)), objective
        objective = reached
    cores = triangle @ cores
    if v.shape[1] == model.p:
        if record is not None:
            record("input_subspace", objective)
        return u, v, singular
    change, before, flag = model.solve_output(u, cores, v, tol, sure=sure)
    objective = min(before, objective) if u is point.u else before
    if record is not None:
        record("input_subspace", objective)
    turned_v, triangle = np.linalg.qr(v + change)
    doubtful = interpolates or flag or _collapsed(triangle)
    if record is not None or doubtful:
        reached = _misfit(model, u, cores @ triangle.T, turned_v)
        if doubtful and reached > objective:
            turned_v, reached = v, objective
        if record is not None:
            record("output_subspace", reached)
    return u, turned_v, singular or flag


def _collapsed(triangle: Array) -> bool:
    """Whether the columns that a triangular factor belongs to are nearly dependent."""
    sizes = np.abs(np.diagonal(triangle))
    return bool(sizes.min() <= 1e-6 * sizes.max())


def _misfit(model: SharedModel, u: Array, cores: Array, v: Array) -> float:
    """Objective at U C_i Vᵀ."""
    return model.residual_moments(np.matmul(u @ cores, v.T))[1]


def moved(old: Array, new: Array) -> float:
    """Root of the summed squared sines between two orthonormal bases."""
    return float(np.linalg.norm(new - old @ (old.T @ new)))


def distance_left(model: SharedModel, point: Point) -> float:
    """How far exact sweeps would move the subspaces, as two of them tell; infinite if they speed up."""
    moves = []
    for _ in range(2):
        u, v, _ = alternate(model, point, _SWEEP, sure=True)
        moves.append(float(np.hypot(moved(point.u, u), moved(point.v, v))))
        point = model.evaluate(u, v)
    first, second = moves
    return first**2 / (first - second) if first > second else float("inf") if first else 0.0
