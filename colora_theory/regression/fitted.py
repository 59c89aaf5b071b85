"""What a fit of a table is: coefficients of every user and of the population, and what new rows make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colora_theory.errors import InputError
from colora_theory.estimators.marginal_likelihood import RotatedRows
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array, minimum_norm
from colora_theory.regression.labels import Key, key_of
from colora_theory.regression.prior import Population
from colora_theory.regression.units import Units, sufficient_rows
from colora_theory.regression.user_rows import joined, nobody, take

#: Numbers of covariance matrices that are held at a time.
_BLOCK = 1 << 22


@dataclass(frozen=True, eq=False)
class Residuals:
    """Residuals of the rows of a fit, in the units of the responses.

    Attributes
    ----------
    std : root mean square per user, shape (k, dim_out). counts : rows per user.
    kurtosis : excess kurtosis per output, 0 for Gaussian noise, shape (dim_out,).
    sample : up to 2 000 pairs of prediction and residual of the first output, for figures.
    """

    std: Array
    counts: Array
    kurtosis: Array
    sample: Array


def residuals_of(found: Fitted, x: Array, y: Array, which: NDArray[np.int64], weights: Array | None) -> Residuals:
    """Residuals of the rows that were fitted."""
    predicted = found.predictions(x, which)
    left = y - predicted
    k, each = len(found.users), np.ones(len(x)) if weights is None else weights
    counts = np.asarray(np.bincount(which, each, k), dtype=float)
    largest = np.maximum(np.abs(left).max(0), 1e-300)  # no square overflows
    relative = left / largest
    square = np.stack([np.bincount(which, each * relative[:, o] ** 2, k) for o in range(y.shape[1])], axis=1)
    size = np.sqrt(np.average(relative**2, axis=0, weights=each))
    kurtosis = np.average((relative / np.where(size > 0, size, 1.0)) ** 4, axis=0, weights=each) - 3.0
    some = slice(None, None, max(1, -(-len(x) // 2000)))
    sample = np.stack([predicted[some, 0], left[some, 0]], axis=1)
    std = largest * np.sqrt(square / np.where(counts > 0, counts, 1.0)[:, None])
    return Residuals(std, counts, kurtosis, sample)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fit. Nothing of it changes: more rows give another one.

    Attributes
    ----------
    users : labels. coef : shape (k + 1, dim_in, dim_out), intercept : shape (k + 1, dim_out), the last ones of the
        population; without a population only k.
    input_subspace, output_subspace, cores : of the shared part, in the caller's units.
    rank, status : of the fit. history : what it recorded.
    units : standard units. population, rows, noise : the prior, the users' rows in internal units and their noise
        variances where they have their own (None otherwise); all None for estimators without a prior.
    between : covariance of the noise between the fitted outputs, mean variance 1; None: as the residuals have it.
    freedom : degrees of freedom left to the noise of an output.
    residuals : what was left of the rows of the fit, or None.
    """

    users: list[Any]
    coef: Array
    intercept: Array
    input_subspace: Array
    output_subspace: Array
    cores: Array
    rank: tuple[int, int]
    status: str
    history: dict[str, Any]
    units: Units
    population: Population | None = None
    rows: RotatedRows | None = None
    noise: Array | None = None
    between: Array | None = None
    freedom: float = np.inf
    residuals: Residuals | None = None

    @cached_property
    def numbers(self) -> dict[Key, int]:
        """Number of every user."""
        return {key_of(user): i for i, user in enumerate(self.users)}

    @property
    def has_population(self) -> bool:
        """Whether users never seen can be predicted."""
        return self.population is not None

    def predictions(self, x: Array, which: NDArray[np.int64]) -> Array:
        """Predictions, shape (rows, dim_out), some rows at a time: every row meets its user's coefficients."""
        out = np.empty((len(x), self.coef.shape[2]))
        step = max(1, _BLOCK // max(1, self.coef[0].size))
        for first in range(0, len(x), step):
            block = slice(first, first + step)
            out[block] = np.einsum("nd,ndp->np", x[block], self.coef[which[block]])
            out[block] += self.intercept[which[block]]
        return out

    def deviations(self, x: Array, which: NDArray[np.int64]) -> Array:
        """Standard deviations of new responses, noise included, shape (rows, dim_out)."""
        if self.population is None or self.rows is None:
            raise InputError("return_std needs estimator='hierarchical': other estimators have no posterior.")
        p, q, outputs = self.rows.p, self.rows.d, self.units.outputs
        out = np.empty((len(x), outputs.shape[1]))
        order = np.argsort(which, kind="stable")
        distinct, starts = np.unique(which[order], return_index=True)
        ends = np.append(starts[1:], len(order))
        step = max(1, _BLOCK // (q * p) ** 2)
        for first in range(0, len(distinct), step):
            users = distinct[first : first + step]
            rows, noise = self._rows_of(users)
            covariances = self.population.covariances(rows, noise).reshape(len(users), q, p, q, p)
            variances = self.population.noise(noise)[:, None] * self.noise_of_outputs()
            for j in range(len(users)):
                mine = order[starts[first + j] : ends[first + j]]
                inside = self.units.standard(x[mine]) / self.population.units
                for o, part in enumerate(outputs.T):
                    own = (
                        covariances[j, :, o, :, o] if self.units.mixing is None else part @ (covariances[j] @ part)
                    )
                    spread = np.einsum("nd,de,ne->n", inside, own, inside, optimize=True)
                    total = np.maximum(spread, 0.0) + variances[j if noise is not None else 0, o]
                    out[mine, o] = self.population.size * self.units.y_scale[o] * np.sqrt(total)
        return out

    def noise_of_outputs(self) -> Array:
        """Noise variances of the outputs in standard units, relative to the fit's, shape (dim_out,)."""
        p, outputs = len(self.units.y_scale), self.units.outputs
        if self.between is not None:
            return np.einsum("ao,ab,bo->o", outputs, self.between, outputs)
        if self.residuals is None or p == 1:
            return np.ones(p)
        square = self.residuals.counts[: len(self.residuals.std)] @ (self.residuals.std / self.units.y_scale) ** 2
        return np.asarray(square / max(float(square.mean()), 1e-300))

    def standard_errors(self, users: NDArray[np.int64]) -> Array:
        """Posterior standard deviations of users' coefficients, shape (len(users), dim_in, dim_out)."""
        if self.population is None or self.rows is None:
            raise InputError("standard errors need estimator='hierarchical': other estimators have no posterior.")
        d, q, p = self.coef.shape[1], self.rows.d, self.rows.p
        order = np.argsort(users, kind="stable")
        out = np.empty((len(users), d, len(self.units.y_scale)))
        step = max(1, _BLOCK // (q * p) ** 2)
        factor = self.units.y_scale / self.units.scale[:, None]
        for first in range(0, len(users), step):
            some = order[first : first + step]
            covariances = self.population.covariances(*self._rows_of(users[some]))
            if self.units.mixing is None:
                variances = np.einsum("kee->ke", covariances).reshape(-1, q, p)
            else:
                each, outputs = np.einsum("kdadb->kdab", covariances.reshape(-1, q, p, q, p)), self.units.mixing
                variances = np.einsum("ao,kdab,bo->kdo", outputs, each, outputs, optimize=True)
            out[some] = factor * (self.population.back * np.sqrt(np.maximum(variances, 0.0)))[:, :d]
        return out

    def _rows_of(self, users: NDArray[np.int64]) -> tuple[RotatedRows, Array | None]:
        """The rows of some users (the number k: of nobody), and their noise variances."""
        assert self.rows is not None
        assert self.population is not None
        rows = self.rows
        k = len(rows.x)
        parts = take(rows, users[users < k])
        noise = None if self.noise is None else self.noise[users[users < k]]
        if (users == k).any():  # the last number: distinct users are in order
            parts = joined(parts, nobody(rows))
            noise = None if self.noise is None else np.append(self.noise[users[:-1]], _typical(self.noise))
        return parts, noise

    def with_rows(self, x: Array, y: Array, which: NDArray[np.int64], users: Sequence[Any]) -> Fitted:
        """The fit with more rows of `users`, known ones or new ones; the population stays as it is."""
        if self.population is None or self.rows is None:
            return self._frozen(x, y, which, users)
        numbers, k = self.numbers, len(self.users)
        known = np.array([numbers.get(key_of(user), -1) for user in users], dtype=np.int64)
        data = sufficient_rows(x, y, which, len(users), self.units)
        new_x = data.covariates / self.population.units
        new_y = data.responses / self.population.size
        old = joined(take(self.rows, known[known >= 0]), *[nobody(self.rows)] * int((known < 0).sum()))
        order = np.argsort(known < 0, kind="stable")  # known users first, as in `old`
        both = Dataset(
            covariates=np.concatenate([old.x, new_x[order]], axis=1),
            responses=np.concatenate([old.y, new_y[order]], axis=1),
            counts=old.counts.astype(np.int64) + data.counts[order],
            sufficient=True,
        )
        turned = RotatedRows.of(SharedModel(both), np.ones(self.rows.x.shape[2]), 1.0)
        turned = replace(turned, rest=turned.rest + old.rest)
        places = known[known >= 0]
        noise = None
        if self.noise is not None:
            noise = np.full(len(users), _typical(self.noise))
            noise[: len(places)] = self.noise[places]
        weights = self.population.weights(turned, noise)
        coef, intercept = self.units.weights(weights)
        rows = joined(self.rows, take(turned, np.arange(len(places), len(users))), put=(places, turned))
        whole = None if noise is None or self.noise is None else np.append(self.noise, noise[len(places) :])
        place = np.concatenate([places, np.full(len(users) - len(places), -1)])
        fresh = place < 0
        all_coef, all_intercept = self.coef[:k].copy(), self.intercept[:k].copy()
        all_coef[places], all_intercept[places] = coef[~fresh], intercept[~fresh]
        return replace(
            self,
            users=[*self.users, *(users[i] for i in order[fresh])],
            coef=np.concatenate([all_coef, coef[fresh], self.coef[k:]]),
            intercept=np.concatenate([all_intercept, intercept[fresh], self.intercept[k:]]),
            rows=rows,
            noise=whole,
        )

    def _frozen(self, x: Array, y: Array, which: NDArray[np.int64], users: Sequence[Any]) -> Fitted:
        """New users' cores in the subspaces as they are, by least squares."""
        known = [user for user in users if key_of(user) in self.numbers]
        if known:
            raise InputError(
                f"update of a known user such as {known[0]!r} needs estimator='hierarchical'; fit again with all "
                "rows."
            )
        coef, intercept, cores = [self.coef], [self.intercept], [self.cores]
        for i in range(len(users)):
            mine = which == i
            mean_x = x[mine].mean(0) if self.units.intercept else np.zeros(x.shape[1])
            mean_y = y[mine].mean(0) if self.units.intercept else np.zeros(y.shape[1])
            features = (x[mine] - mean_x) @ self.input_subspace
            core = minimum_norm(features[None], ((y[mine] - mean_y) @ self.output_subspace)[None])[0]
            weights = np.matmul(self.input_subspace @ core, self.output_subspace.T)
            coef.append(weights)
            intercept.append((mean_y - mean_x @ weights[0])[None])
            cores.append(core)
        return replace(
            self,
            users=[*self.users, *users],
            coef=np.concatenate(coef),
            intercept=np.concatenate(intercept),
            cores=np.concatenate(cores),
        )


def _typical(noise: Array) -> float:
    """Noise variance of a user never seen."""
    return float(noise.mean())
