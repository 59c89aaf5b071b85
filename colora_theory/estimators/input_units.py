"""Fitting in units of the inputs in which the pooled covariates look isotropic.

The shared model is invariant to invertible maps of the inputs: x → Mx turns U into the span of M⁻ᵀU and leaves
every prediction as it is. Starts, preconditioners and stop rules of its estimators are not, so that a column in
other units would change what they call converged. Estimators that set `input_invariant` see covariates X S⁻¹,
and their estimate is turned back: W = S⁻¹ W̃. S is diagonal, in powers of two (which floating point does
exactly), when columns differ in size; where columns are strongly correlated, S is the Cholesky factor of the
pooled second moment. Covariates that already look isotropic are fitted as they are, bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh, solve_triangular
from scipy.linalg.blas import ssyrk

from colora_theory.estimators.trace import Trace
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array

if TYPE_CHECKING:
    from colora_theory.estimators.base import Estimator, Fit

#: Ratio of the largest to the smallest column (root mean square) up to which columns count as of one size.
ALIKE: Final = 4.0
#: Condition number of the columns' correlations beyond which inputs are decorrelated.
CORRELATED: Final = 100.0
#: Rows per input that tell the second moment well enough for its use as units, and those that are asked first.
_ROWS: Final = 16
_FEW: Final = 4
_BLOCK: Final = 256
_GOLDEN: Final = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True, eq=False)
class InputUnits:
    """The units S of the inputs: `column` scales (d,), and `factor`, upper triangular (d, d), or None for I.

    For sensing `output` scales the second axis of the covariates too, shape (p,), or None.
    """

    column: Array
    factor: Array | None = None
    output: Array | None = None

    def data(self, data: Dataset) -> Dataset:
        """The data with covariates X S⁻¹, less the predictions of the pretrained weight."""
        plain = data.without_pretrained()
        if data.design == "sensing":
            scale = np.outer(self.column, np.ones(data.dim_out) if self.output is None else self.output)
            return dataclasses.replace(plain, covariates=plain.covariates / scale)
        x = plain.covariates / self.column
        if self.factor is not None:
            flat = solve_triangular(self.factor, x.reshape(-1, data.dim_in).T, trans="T", lower=False)
            x = np.ascontiguousarray(flat.T).reshape(x.shape)
        return dataclasses.replace(plain, covariates=x)

    def estimator(self, rule: Estimator) -> Estimator:
        """The estimator with subspaces that were given to it in these units: S U, and V likewise."""
        changes: dict[str, Any] = {}
        if (u := getattr(rule, "input_subspace", None)) is not None and np.shape(u)[:1] == self.column.shape:
            inside = np.asarray(u, float) * self.column[:, None]
            changes["input_subspace"] = inside if self.factor is None else self.factor @ inside
        v = getattr(rule, "output_subspace", None)
        if self.output is not None and v is not None and np.shape(v)[:1] == self.output.shape:
            changes["output_subspace"] = np.asarray(v, float) * self.output[:, None]
        return dataclasses.replace(rule, **changes) if changes else rule

    def fit(self, fit: Fit, pretrained: Array | None) -> Fit:
        """The estimate in the units of the data; subspaces are made orthonormal again and cores follow."""
        u, v, cores = fit.input_subspace, fit.output_subspace, fit.cores
        if u is not None:
            u, triangle = np.linalg.qr(self._back(u))
            cores = None if cores is None else triangle @ cores
        if v is not None and self.output is not None:
            v, triangle = np.linalg.qr(v / self.output[:, None])
            cores = None if cores is None else cores @ triangle.T
        dense = fit.dense
        if dense is not None:
            dense = self._back(dense)
            dense = dense if self.output is None else dense / self.output
        return dataclasses.replace(
            fit,
            dense=dense,
            input_subspace=u,
            output_subspace=v,
            cores=cores,
            pretrained=pretrained,
            history=self._trace(fit.history),
        )

    def _back(self, matrix: Array) -> Array:
        """S⁻¹ times a matrix, or a stack of them, of shape (…, d, columns)."""
        if self.factor is not None:
            d, columns = matrix.shape[-2:]
            flat = np.moveaxis(matrix, -2, 0).reshape(d, -1)
            solved = solve_triangular(self.factor, flat, lower=False).reshape(d, *matrix.shape[:-2], columns)
            matrix = np.moveaxis(solved, 0, -2)
        return np.asarray(matrix / self.column[:, None])

    def _trace(self, trace: Trace) -> Trace:
        changes: dict[str, Any] = {}
        if trace.input_subspaces is not None:
            changes["input_subspaces"] = [np.linalg.qr(self._back(u))[0] for u in trace.input_subspaces]
        if trace.output_subspaces is not None and self.output is not None:
            changes["output_subspaces"] = [
                np.linalg.qr(v / self.output[:, None])[0] for v in trace.output_subspaces
            ]
        return dataclasses.replace(trace, **changes)


def input_units(data: Dataset) -> InputUnits | None:
    """Return the units in which the pooled covariates look isotropic, or None when they do already.

    Some of the rows tell, spread over all users, and very few where they leave no doubt. Columns without any entry
    keep their unit, and inputs whose pooled second moment is singular are only scaled.
    """
    x = data.covariates.reshape(-1, *data.covariates.shape[2:])
    if not len(x):  # nobody has a row
        return None
    with np.errstate(all="ignore"):
        if _isotropic(_some(x, _FEW, np.float32)):
            return None
        rows = _some(x, _ROWS, x.dtype)
        if data.design == "sensing":
            sizes = [_root_mean_square(rows, (0, 2)), _root_mean_square(rows, (0, 1))]
            if all(_alike(size) for size in sizes):
                return None
            return InputUnits(_powers(sizes[0]), None, _powers(sizes[1] / np.sqrt((sizes[1] ** 2).mean())))
        size = _root_mean_square(rows, (0,))
        column = np.ones(len(size)) if _alike(size) else _powers(size)
        factor = _decorrelating(rows / column)
    if factor is None and (column == 1.0).all():
        return None
    return InputUnits(column, factor)


def _some(rows: Array, per_input: int, dtype: Any) -> NDArray[Any]:
    """So many rows per input, evenly spread.

    In steps of the golden ratio: equal steps might only see the first row of every user.
    """
    wanted = per_input * max(rows.shape[1:]) + 64
    if len(rows) <= wanted:
        return np.asarray(rows, dtype)
    at = np.unique((len(rows) * ((_GOLDEN * np.arange(wanted)) % 1.0)).astype(np.int64))
    some = np.empty((len(at), *rows.shape[1:]), dtype)
    for start in range(0, len(at), _BLOCK):  # no copy of all of them in another type
        some[start : start + _BLOCK] = rows[at[start : start + _BLOCK]]
    return some


def _isotropic(rows: NDArray[np.float32]) -> bool:
    """Whether a few rows look isotropic beyond doubt: in single precision, which costs half the time."""
    if rows.ndim == 3:
        squares = np.einsum("nab,nab->ab", rows, rows)
        return all(_clear(np.sqrt(squares.sum(axis))) for axis in (0, 1))
    gram = ssyrk(1.0, rows.T)  # half of it
    size = np.sqrt(np.diagonal(gram))
    if not _clear(size):
        return False
    values = eigvalsh(gram / np.outer(size, size), lower=False, check_finite=False, overwrite_a=True)
    return bool(values[-1] <= CORRELATED * values[0])


def _clear(size: Array) -> bool:
    """Whether all columns have entries and are of one size beyond doubt."""
    return bool(0.0 < size.max() < np.inf and size.max() <= 0.5 * ALIKE * size.min())


def _root_mean_square(rows: Array, axes: tuple[int, ...]) -> Array:
    """Root mean squares over some axes, of columns whose squares underflow too."""
    largest = np.abs(rows).max(axis=axes, keepdims=True)
    unit = np.ldexp(1.0, np.frexp(np.where(largest > 0, largest, 1.0))[1])  # a power of two: exact
    return np.asarray(unit.squeeze(axes) * np.sqrt(((rows / unit) ** 2).mean(axis=axes)))


def _alike(size: Array) -> bool:
    seen = size[size > 0]
    return not len(seen) or not np.isfinite(seen).all() or float(seen.max()) <= ALIKE * float(seen.min())


def _powers(size: Array) -> Array:
    """The powers of two nearest to the sizes; 1 where there is none."""
    known = np.isfinite(size) & (size > 0)
    exponents = np.rint(np.log2(np.where(known, size, 1.0)))
    return np.asarray(np.ldexp(1.0, exponents.astype(int)))


def _decorrelating(rows: Array) -> Array | None:
    """Upper triangular R with RᵀR the second moment of the rows, when it is far from a multiple of I."""
    n, d = rows.shape
    if n < 2 * d or not np.isfinite(rows).all():
        return None
    factor: Array = np.asarray(np.linalg.qr(rows / math.sqrt(n), mode="r"))
    scale = np.linalg.norm(factor, axis=0)
    if not (scale > 0).all():
        return None
    values = np.linalg.svd(factor / scale, compute_uv=False) ** 2
    # what a sample of n rows of isotropic covariates shows of itself is no correlation
    expected = ((1.0 + math.sqrt(d / n)) / max(1.0 - math.sqrt(d / n), 0.05)) ** 2
    singular = values[-1] <= 1e-24 * values[0]
    return None if singular or values[0] <= CORRELATED * expected * values[-1] else factor
