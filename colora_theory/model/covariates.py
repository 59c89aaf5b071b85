"""The laws of covariates: one record each, which says how it is drawn and what theorems may assume.

All have mean zero and average variance one. A new law is a new entry of `LAWS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Parameter:
    """The parameter of a law: what it means, its default, and the open interval in which it lies (0 included)."""

    meaning: str
    default: float
    low: float
    high: float


@dataclass(frozen=True)
class Law:
    """A law of covariates.

    fill : fills an array with entries of mean zero and variance one, uncorrelated along the last axis and
        independent along the others, given the generator and the parameter.
    factor : L with Cov(x) = LᵀL, from dim_in and the parameter; None: the identity.
    gaussian : whether x is Gaussian. parameter : None when the law has none.
    density : whether x has a density. vectors : whether x must be a vector, not a matrix.
    """

    fill: Callable[[np.random.Generator, Array, float], None]
    factor: Callable[[int, float], Array] | None = None
    gaussian: bool = False
    parameter: Parameter | None = None
    density: bool = True
    vectors: bool = False

    @property
    def isotropic(self) -> bool:
        """Whether Cov(x) is the identity."""
        return self.factor is None


def _normal(rng: np.random.Generator, out: Array, parameter: float) -> None:
    rng.standard_normal(out=out)


def _signs(rng: np.random.Generator, out: Array, parameter: float) -> None:
    rng.random(out=out)
    out -= 0.5
    np.copysign(1.0, out, out=out)


def _student(rng: np.random.Generator, out: Array, parameter: float) -> None:
    out[...] = rng.standard_t(parameter, out.shape)
    out *= math.sqrt((parameter - 2.0) / parameter)


def _one_hot(rng: np.random.Generator, out: Array, parameter: float) -> None:
    d = out.shape[-1]
    out[...] = 0.0
    signs = np.copysign(math.sqrt(d), rng.random(out.shape[:-1]) - 0.5)
    np.put_along_axis(out, rng.integers(d, size=(*out.shape[:-1], 1)), signs[..., None], axis=-1)


def _autoregressive(d: int, correlation: float) -> Array:
    lags = np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    return np.linalg.cholesky(np.asarray(correlation**lags, dtype=float)).T


def _power_law(d: int, exponent: float) -> Array:
    spectrum = np.arange(1.0, d + 1) ** -exponent
    return np.diag(np.sqrt(spectrum * (d / spectrum.sum())))


LAWS: Final[dict[str, Law]] = {
    "gaussian": Law(_normal, gaussian=True),
    "ar1": Law(
        _normal, _autoregressive, True, Parameter("correlation of neighbouring coordinates", 0.5, -1.0, 1.0)
    ),
    "power_law": Law(
        _normal, _power_law, True, Parameter("decay exponent of the covariance spectrum", 1.0, 0.0, math.inf)
    ),
    "rademacher": Law(_signs, density=False),
    "one_hot": Law(_one_hot, density=False, vectors=True),
    "student_t": Law(_student, parameter=Parameter("degrees of freedom", 5.0, 2.0, math.inf)),
}
