"""From a table to users' sufficient rows in standard units, and from weights back to the caller's units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from colora_theory.errors import InputError
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array


@dataclass(frozen=True, eq=False)
class Units:
    """Standard units: columns and responses less their means over all rows, over their standard deviations.

    Fitted responses s are combinations of the standard ones in which noise is white: (y − centre) / scale = s·B.

    Attributes
    ----------
    centre, scale : of the covariates, shape (dim_in,); constant columns become zero, at scale 1.
    y_centre, y_scale : of the responses, shape (dim_out,).
    intercept : whether a column of ones follows the covariates; else nothing is centred.
    mixing : B, shape (fitted outputs ≤ dim_out, dim_out), of full rank; None: the identity.
    """

    centre: Array
    scale: Array
    y_centre: Array
    y_scale: Array
    intercept: bool
    mixing: Array | None = None

    @classmethod
    def of(cls, x: Array, y: Array, weights: Array | None, intercept: bool) -> Units:
        """Units of a table: x of shape (rows, dim_in), y of shape (rows, dim_out)."""
        return cls(*_moments(x, weights, intercept), *_moments(y, weights, intercept), intercept)

    @property
    def inputs(self) -> int:
        """Columns of standard covariates, the intercept's included."""
        return len(self.centre) + self.intercept

    def standard(self, x: Array) -> Array:
        """Covariates in standard units, shape (rows, inputs)."""
        out = np.empty((len(x), self.inputs))
        np.subtract(x, self.centre, out=out[:, : x.shape[1]])
        out[:, : x.shape[1]] /= self.scale
        if self.intercept:
            out[:, -1] = 1.0
        return out

    def answers(self, y: Array) -> Array:
        """Responses as they are fitted, shape (rows, fitted outputs)."""
        standard = (y - self.y_centre) / self.y_scale
        return standard if self.mixing is None else standard @ np.linalg.pinv(self.mixing)

    @property
    def outputs(self) -> Array:
        """B, shape (fitted outputs, dim_out): column o is what output o, over its scale, takes from each."""
        return np.eye(len(self.y_scale)) if self.mixing is None else self.mixing

    def weights(self, standard: Array) -> tuple[Array, Array]:
        """Coefficients (…, dim_in, dim_out) and intercepts (…, dim_out) of weights (…, inputs, fitted outputs)."""
        d = len(self.centre)
        standard = standard if self.mixing is None else standard @ self.mixing
        with np.errstate(over="ignore", invalid="ignore"):
            coef = standard[..., :d, :] * (self.y_scale / self.scale[:, None])
            intercepts = np.zeros((*standard.shape[:-2], len(self.y_scale)))
            if self.intercept:
                intercepts = self.y_centre + standard[..., -1, :] * self.y_scale
                intercepts = intercepts - np.einsum("d,...dp->...p", self.centre, coef)
        refuse_beyond_numbers(coef, intercepts)
        return coef, intercepts


def refuse_beyond_numbers(*weights: Array) -> None:
    """Raise InputError unless all are finite."""
    if not all(np.isfinite(each).all() for each in weights):
        raise InputError(
            "weights must lie between 1e-301 and 1e301 in size, got columns of X and y whose units differ by "
            "more; change the units of one of them."
        )


def _moments(values: Array, weights: Array | None, centred: bool) -> tuple[Array, Array]:
    """Mean (0 unless centred) and standard deviation of every column, without overflow."""
    largest = np.abs(values).max(0)
    unit = np.where(largest > 0.0, largest, 1.0)
    centre, square = np.zeros(values.shape[1]), np.empty(values.shape[1])
    share = np.full(len(values), 1.0 / len(values)) if weights is None else weights / weights.sum()
    for j in range(values.shape[1]):  # column by column: no second table
        column = values[:, j] / unit[j]
        if centred:
            centre[j] = share @ column
            # a constant is itself, not a mean with rounding errors
            centre[j] = column[0] if np.ptp(column) == 0.0 else centre[j]
        square[j] = share @ (column - centre[j]) ** 2
    deviation = np.sqrt(square)
    deviation[deviation < 1e-14] = 0.0
    scale = np.where(deviation > 0.0, deviation * unit, 1.0)
    scale[scale == 0.0] = 1.0  # below the smallest number
    return centre * unit, scale


def sufficient_rows(
    x: Array, y: Array, which: NDArray[np.int64], users: int, units: Units, weights: Array | None = None
) -> Dataset:
    """Users' rows in standard units, at most inputs + outputs rows each that say the same as all of them.

    Parameters
    ----------
    which : shape (rows,), every row's user, from 0 to users − 1.
    weights : a row of weight w counts as w rows.

    Users of more rows than that are replaced by the triangular factor of their table [X Y]; the counts stay.
    Memory: users × (inputs + dim_out)² numbers, however many rows there are.
    """
    if weights is not None and not weights.all():
        seen = weights > 0
        x, y, which, weights = x[seen], y[seen], which[seen], weights[seen]
    q, p = units.inputs, len(units.outputs)
    sizes = np.bincount(which, minlength=users)
    order = np.argsort(which, kind="stable")
    ends = np.cumsum(sizes)
    most = min(int(sizes.max(initial=0)), q + p)
    block, answers = np.zeros((users, most, q)), np.zeros((users, most, p))
    counts = sizes.astype(np.int64)
    for i in np.flatnonzero(sizes):
        mine = order[ends[i] - sizes[i] : ends[i]]
        rows = np.concatenate([units.standard(x[mine]), units.answers(y[mine])], axis=1)
        if weights is not None:
            rows *= np.sqrt(weights[mine])[:, None]
            counts[i] = max(1, round(float(weights[mine].sum())))
        if len(rows) > q + p:
            rows = np.asarray(np.linalg.qr(rows, mode="r"))
        block[i, : len(rows)], answers[i, : len(rows)] = rows[:, :q], rows[:, q:]
    return Dataset(covariates=block, responses=answers, counts=counts, sufficient=True)
