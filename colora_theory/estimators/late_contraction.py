"""How alternating minimisation contracts close to its limit, for longer than a run can show it.

A run ends at rounding, often before its slowest mode stands alone. Here the distance to the limit is magnified
again whenever it gets small: the direction of the error is kept, so the modes go on sorting themselves out for as
many sweeps as one likes.
"""

from __future__ import annotations

import numpy as np

from colora_theory.errors import InputError
from colora_theory.estimators.base import Fit
from colora_theory.estimators.block_steps import alternate
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.estimators.starts import random_start
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array

#: Tilt at which magnification starts: what is not linear there is of this relative size.
FAR = 1e-5
#: Tilt below which it is magnified again, well above the accuracy of the limit itself.
NEAR = 1e-8
#: Largest relative residual of a limit that counts as interpolating.
INTERPOLATES = 1e-11


def late_contraction(data: Dataset, fit: Fit, sweeps: int, rng: np.random.Generator | None) -> Array:
    """Factors by which the residual norm of all data shrinks in exact sweeps close to the limit of a fit.

    Parameters
    ----------
    fit : a converged fit that interpolates the data (no noise); otherwise there is no residual to follow and the
        answer is empty.
    sweeps : how many sweeps to follow.
    rng : draws the direction of the first tilt; any one that is not special serves.

    Returns shape (sweeps,), shorter when a sweep falls below what can be measured at once (a rate below 1e-6).
    """
    if rng is None:
        raise InputError("late_sweeps draws random numbers; pass rng.")
    assert fit.input_subspace is not None
    assert fit.output_subspace is not None
    assert fit.cores is not None
    model, limit = SharedModel(data), (fit.input_subspace, fit.output_subspace)
    settled = model.evaluate(*limit).objective <= INTERPOLATES**2 * model.energy
    if fit.status != "converged" or not settled or model.energy == 0.0:
        return np.empty(0)
    ranks = (fit.cores.shape[1], fit.cores.shape[2])
    tilts = _tilts(limit, random_start(data, ranks, rng))
    factors: list[float] = []
    while len(factors) < sweeps:
        size = _size(tilts)
        if size == 0.0:
            break
        point = model.evaluate(*(_tilted(u, FAR / size * tilt) for u, tilt in zip(limit, tilts, strict=True)))
        size = FAR
        while size > NEAR and len(factors) < sweeps:
            u, v, _ = alternate(model, point, 0.0)
            tilts = _tilts(limit, (u, v))
            size = _size(tilts)
            if size < 1e-3 * NEAR:
                return np.array(factors)
            following = model.evaluate(u, v)
            factors.append(float(np.sqrt(following.objective / point.objective)))
            point = following
    return np.array(factors)


def _tilts(limit: tuple[Array, Array], pair: tuple[Array, Array]) -> list[Array]:
    """Coordinates of nearby subspaces: U (U*ᵀU)⁻¹ − U*, which is orthogonal to U*."""
    return [u @ np.linalg.inv(base.T @ u) - base for base, u in zip(limit, pair, strict=True)]


def _tilted(base: Array, tilt: Array) -> Array:
    return base if len(base) == base.shape[1] else np.linalg.qr(base + tilt)[0]


def _size(tilts: list[Array]) -> float:
    return float(np.sqrt(sum(float(np.vdot(tilt, tilt)) for tilt in tilts)))
