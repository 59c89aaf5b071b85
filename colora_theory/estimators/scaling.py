"""Fitting in units in which the data are of order one, so that no square overflows or vanishes.

Covariates X and responses Y are divided by powers of two, which floating point does exactly, and the estimate is
multiplied back. Covariates get a mean square of about one, the scale at which default penalties and steps are
meant. Data whose squares are far from the limits of floating point stay as they are, bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final

import numpy as np

from colora_theory.errors import InputError
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array

#: Data up to 2^±ORDINARY are fitted as they are: products of eight entries stay within floating point.
ORDINARY: Final = 100
#: Weights beyond 2^±LARGEST lose digits or overflow.
LARGEST: Final = 1000
#: Bytes beyond which a sample of the rows tells an array's size: a matter of units, and so common to all rows.
_LARGE: Final = 1 << 20


def exponents(data: Dataset) -> tuple[int, int]:
    """Return (e, f): X/2^e and Y/2^f, predictions of the pretrained weight included, are of order one.

    (0, 0) for ordinary data. Raises InputError for data that are not finite, and for data whose weights (the
    size of Y over that of X) cannot be represented.
    """
    if all(_ordinary(a) for a in (data.covariates, data.responses, data.pretrained) if a is not None):
        return 0, 0
    x, y = _exponent("covariates", data.covariates), _exponent("responses", data.responses)
    if x is None:
        return 0, y or 0
    energy = float((np.ldexp(data.covariates, -x) ** 2).sum())
    entries = max(int(data.counts.sum()), 1) * int(np.prod(data.covariates.shape[2:]))
    x += round(0.5 * math.log2(energy / entries))
    if data.pretrained is not None:
        w = _exponent("pretrained", data.pretrained)
        y = max((n for n in (y, None if w is None else x + w) if n is not None), default=None)
    if y is None:
        return x, x
    if abs(y - x) > LARGEST:
        raise InputError(
            f"weights must lie between 1e-301 and 1e301 in size, got covariates up to {_power_of_ten(x)} and "
            f"responses (or predictions of the pretrained weight) up to {_power_of_ten(y)}; "
            "change the units of one of them."
        )
    return x, y


def in_units(data: Dataset, e: int, f: int) -> Dataset:
    """Return the data with covariates divided by 2^e and responses by 2^f."""
    return dataclasses.replace(
        data,
        covariates=np.ldexp(data.covariates, -e),
        responses=np.ldexp(data.responses, -f),
        pretrained=None if data.pretrained is None else np.ldexp(data.pretrained, e - f),
    )


def refuse_infinite(data: Dataset) -> None:
    """Raise InputError for data that are not finite."""
    for what in ("covariates", "responses"):
        _exponent(what, getattr(data, what))


def _ordinary(array: Array) -> bool:
    """Whether the array is zero or of a size whose powers are harmless: at most one pass, no copy."""
    if array.nbytes > _LARGE:
        array = array[:, :: max(1, array.shape[1] // 2)]
    with np.errstate(over="ignore", invalid="ignore"):
        energy = float(np.vdot(array, array))
    return energy == 0.0 == float(np.abs(array).max(initial=0.0)) or 4.0**-ORDINARY <= energy <= 4.0**ORDINARY


def _exponent(what: str, array: Array) -> int | None:
    """Exponent n of the largest modulus, which lies in [2^(n−1), 2^n); None for zeros."""
    largest = float(np.abs(array).max(initial=0.0))
    if not math.isfinite(largest):
        raise InputError(f"{what} must be finite, got NaN or infinity; remove or impute those rows.")
    return math.frexp(largest)[1] if largest else None


def _power_of_ten(exponent: int) -> str:
    return f"1e{round(exponent * math.log10(2.0)):+d}"
