"""Dataset: what estimators see. Covariates, responses, counts and the known pretrained weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colora_theory.errors import InputError, expect
from colora_theory.model.checks import check_flag, check_integer
from colora_theory.model.linalg import Array, as_rows, bartlett, numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Many users' regressions in one block; shorter users are padded by zero rows, which least squares ignores.

    Attributes
    ----------
    covariates : shape (num_users, m, dim_in); sensing: (num_users, m, dim_in, dim_out).
    responses : shape (num_users, m, dim_out); sensing: (num_users, m).
    counts : samples behind each user's rows, shape (num_users,). With sufficient rows m does not grow with them.
    pretrained : known weight W_0, shape (dim_in, dim_out); None means zero.
    sufficient : whether the rows are sufficient statistics instead of samples.
    newcomer : samples of one new user, who takes no part in the fit; or None.

    Raises InputError for shapes that do not fit together; every fit refuses numbers that are not finite.
    """

    covariates: Array
    responses: Array
    counts: NDArray[np.int64]
    pretrained: Array | None = None
    sufficient: bool = False
    newcomer: Dataset | None = None

    def __post_init__(self) -> None:
        for name in ("covariates", "responses", "counts"):
            array = getattr(self, name)
            expect(name, array, np.ndarray, "Dataset.from_arrays takes lists of users' arrays")
            if not _real(array) or (name == "counts" and array.dtype.kind not in "iu"):
                allowed = "whole numbers" if name == "counts" else "real numbers"
                raise InputError(f"{name} must be an array of {allowed}, got one of {array.dtype}.")
        check_flag("sufficient", self.sufficient)
        x, y, n = np.shape(self.covariates), np.shape(self.responses), np.shape(self.counts)
        if not (len(x) in (3, 4) and 0 not in (x[0], *x[2:])):
            raise InputError(
                "covariates must have shape (num_users, m, dim_in) or (num_users, m, dim_in, dim_out), all but m "
                f"at least 1, got {x}."
            )
        if y[:2] != x[:2] or len(y) != (3 if len(x) == 3 else 2) or 0 in y[2:]:
            allowed = f"({x[0]}, {x[1]}, dim_out)" if len(x) == 3 else f"({x[0]}, {x[1]})"
            raise InputError(f"responses must have shape {allowed} to match the covariates, got {y}.")
        if n != x[:1] or self.counts.min() < 0 or (not self.sufficient and self.counts.max() > x[1]):
            most = "" if self.sufficient else f" and {x[1]}, the rows that are there"
            raise InputError(f"counts must be {x[0]} numbers from 0{most}, got {self.counts.tolist()}.")
        if self.pretrained is not None:
            known = self.pretrained
            shape = known.shape if _real(known) else numbers("pretrained", known).shape
            if shape != (self.dim_in, self.dim_out):
                raise InputError(f"pretrained must have shape {(self.dim_in, self.dim_out)}, got {shape}.")

    @property
    def design(self) -> str:
        """Either "regression" or "sensing"."""
        return "regression" if self.covariates.ndim == 3 else "sensing"

    @property
    def num_users(self) -> int:
        return len(self.covariates)

    @property
    def dim_in(self) -> int:
        return self.covariates.shape[2]

    @property
    def dim_out(self) -> int:
        return self.responses.shape[2] if self.design == "regression" else self.covariates.shape[3]

    @property
    def num_observations(self) -> int:
        """Scalar responses behind the data set."""
        return int(self.counts.sum()) * (self.dim_out if self.design == "regression" else 1)

    @classmethod
    def from_arrays(
        cls, covariates: Sequence[Any], responses: Sequence[Any], *, pretrained: Any = None
    ) -> Dataset:
        """Build a data set from a person's own arrays, one pair per user.

        Parameters
        ----------
        covariates : user i's array of shape (n_i, dim_in), or (n_i, dim_in, dim_out) for sensing.
        responses : shape (n_i,) or (n_i, dim_out); sensing: (n_i,).
        pretrained : known weight W_0, shape (dim_in, dim_out), or (dim_in,) when dim_out is 1.

        Raises InputError, naming the user, for shapes that do not fit and for values that are not finite.
        """
        for name, value in (("covariates", covariates), ("responses", responses)):
            expect(name, value, (Sequence, np.ndarray), "give a list with one array per user")
        if len(covariates) == 0:
            raise InputError("covariates must hold at least one user's array, got none.")
        if len(covariates) != len(responses):
            raise InputError(
                f"covariates and responses must list the same users, got {len(covariates)} and {len(responses)}."
            )
        xs = [_finite("covariates", i, x) for i, x in enumerate(covariates)]
        ys = [_finite("responses", i, y) for i, y in enumerate(responses)]
        shape = xs[0].shape[1:]
        if xs[0].ndim not in (2, 3) or 0 in shape:
            raise InputError(
                "covariates of user 0 must have shape (n, dim_in) or (n, dim_in, dim_out) with at least one "
                f"input, got {xs[0].shape}."
            )
        sensing = xs[0].ndim == 3
        if not sensing:
            ys = [y[:, None] if y.ndim == 1 else y for y in ys]
        for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
            if x.shape[1:] != shape:
                raise InputError(
                    f"covariates of user {i} must have shape (n, {', '.join(map(str, shape))}) like user 0's, "
                    f"got {x.shape}."
                )
            if y.shape != (len(x), *ys[0].shape[1:]) or y.ndim != (1 if sensing else 2):
                raise InputError(
                    f"responses of user {i} must have shape {(len(x), *ys[0].shape[1:2])} to match the covariates "
                    f"(sensing: one number per row), got {y.shape}."
                )
        counts = np.array([len(x) for x in xs], dtype=np.int64)
        if counts.max() == 0:
            raise InputError("at least one user must have a sample, got none; add rows.")
        block = np.zeros((len(xs), counts.max(), *shape))
        answers = np.zeros((len(xs), counts.max(), *ys[0].shape[1:]))
        for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
            block[i, : len(x)], answers[i, : len(y)] = x, y
        if answers.ndim == 3 and answers.shape[2] == 0:
            raise InputError("responses must have at least one output, got dim_out = 0.")
        w0 = None if pretrained is None else _finite("pretrained", None, pretrained)
        if w0 is not None and w0.ndim == 1:
            w0 = w0[:, None]
        return cls(covariates=block, responses=answers, counts=counts, pretrained=w0)

    def residual_responses(self) -> Array:
        """Responses less the predictions of the known pretrained weight, shape as `responses`."""
        if self.pretrained is None:
            return self.responses
        return self.responses - predict(self.covariates, self.pretrained)

    def with_responses(self, responses: Array) -> Dataset:
        """Return the same rows with other responses and no pretrained weight."""
        return dataclasses.replace(self, responses=responses, pretrained=None)

    def without_pretrained(self) -> Dataset:
        """Return the data less the predictions of the known pretrained weight: for W_i − W_0 to explain."""
        return self if self.pretrained is None else self.with_responses(self.residual_responses())

    def pooled(self) -> Dataset:
        """Return all users' samples as those of one user, less the predictions of the pretrained weight."""
        plain = self.without_pretrained()
        return dataclasses.replace(
            plain,
            covariates=plain.covariates.reshape(1, -1, *plain.covariates.shape[2:]),
            responses=plain.responses.reshape(1, -1, *plain.responses.shape[2:]),
            counts=plain.counts.sum(keepdims=True),
        )

    def split(self, parts: int, rng: np.random.Generator | None = None) -> list[Dataset]:
        """Divide every user's samples into independent parts of (nearly) equal size.

        Rows are dealt in turn. Sufficient rows [X Y] = T of n samples are split exactly too: the samples are
        H T with H Haar on the Stiefel manifold and independent of T, so the parts are F_j T with
        F_j = G_j R⁻¹, G_j the triangular factors of independent Gaussian matrices with n_j rows and
        RᵀR = Σ G_jᵀG_j; only this needs `rng`.
        """
        parts = check_integer("parts", parts, 1)
        most = max(2, int(self.counts.max()))
        if parts > most:
            raise InputError(f"parts must be at most {most}, or every user's part is empty, got {parts}.")
        expect("rng", rng, (np.random.Generator, type(None)), "use np.random.default_rng(seed)")
        if not self.sufficient:
            rows = [slice(j, None, parts) for j in range(parts)]
            return [
                dataclasses.replace(
                    self,
                    covariates=self.covariates[:, take],
                    responses=self.responses[:, take],
                    counts=(self.counts + parts - 1 - j) // parts,
                )
                for j, take in enumerate(rows)
            ]
        if rng is None:
            raise InputError("splitting sufficient rows draws random numbers; pass rng.")
        m = self.covariates.shape[1]
        shares = [(self.counts + parts - 1 - j) // parts for j in range(parts)]
        live = np.arange(m) < self.counts[:, None]  # rows beyond the number of samples are zero anyway
        factors = [bartlett(rng, share, m) * live[:, None, :] for share in shares]
        gram = sum((g.swapaxes(1, 2) @ g for g in factors), start=np.eye(m) * ~live[:, None, :])
        total = np.linalg.cholesky(gram).swapaxes(1, 2)
        table = np.concatenate([as_rows(self.covariates), as_rows(self.responses)], axis=2)
        table = np.linalg.solve(total, table)
        out = []
        for factor, share in zip(factors, shares, strict=True):
            rows_of_part = factor @ table
            width = rows_of_part.shape[2] - int(np.prod(self.responses.shape[2:], dtype=int))
            out.append(
                dataclasses.replace(
                    self,
                    covariates=rows_of_part[:, :, :width].reshape(self.covariates.shape),
                    responses=rows_of_part[:, :, width:].reshape(self.responses.shape),
                    counts=share,
                )
            )
        return out

    def take(self, users: Any) -> Dataset:
        """Return the data of some users (indices, slice or mask)."""
        try:
            taken = np.shape(self.counts[users])
        except (IndexError, TypeError, ValueError):
            taken = ()
        if len(taken) != 1 or taken[0] == 0:
            raise InputError(
                f"users must be at least one index between 0 and {self.num_users - 1}, a slice or a mask, "
                f"got {users!r:.100}."
            )
        return dataclasses.replace(
            self,
            covariates=self.covariates[users],
            responses=self.responses[users],
            counts=self.counts[users],
        )


def _real(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def predict(covariates: Array, weights: Array) -> Array:
    """Noiseless responses, shape (k, m, p) or (k, m), of weights of shape (k, d, p) or (d, p)."""
    if covariates.ndim == 3:
        return np.matmul(covariates, weights)
    flat = weights.reshape(*weights.shape[:-2], -1, 1)
    return np.matmul(as_rows(covariates), flat)[..., 0]


def adjoint(data: Dataset, responses: Array) -> Array:
    """𝒜_i*(e_i) for all users: X_iᵀe_i, or Σ_j e_ij A_ij; shape (k, d, p)."""
    if data.design == "regression":
        return np.matmul(data.covariates.swapaxes(1, 2), responses)
    flat = np.matmul(responses[:, None, :], as_rows(data.covariates))
    return flat.reshape(data.num_users, data.dim_in, data.dim_out)


def _finite(what: str, user: int | None, value: Any) -> Array:
    return numbers(what if user is None else f"{what} of user {user}", value)
