"""Shared subspaces that are frozen: known to an oracle, or learned from other users; only cores are fitted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from colora_theory.errors import InputError
from colora_theory.estimators import stacked_descent
from colora_theory.estimators.base import Estimator, Fit, StackedFit, get, register
from colora_theory.estimators.core_penalty import check_core_penalty, likeliest, with_core_penalty
from colora_theory.estimators.ranks import given_start
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.model.checks import check_integer
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array, least_squares, numbers
from colora_theory.model.moments import Moments


@register
@dataclass(frozen=True, kw_only=True)
class OracleSubspace(Estimator):
    """Oracle: the shared subspaces are known and only the personal cores are fitted.

    Model       W_i = W_0 + U C_i Vᵀ with U and V given.
    Objective   ‖y_i − 𝒜_i(U C_i Vᵀ)‖² in C_i, user by user; minimum norm when under-determined.
    Cost        One pass over the data, O(N d r).

    Parameters
    ----------
    input_subspace : U, shape (dim_in, rank_in); in a study it is filled from the truth.
    output_subspace : V, shape (dim_out, rank_out); may be left out when rank_out = dim_out.
    """

    name: ClassVar[str] = "oracle_subspace"
    input_invariant: ClassVar[bool] = True
    frozen_subspaces: ClassVar[bool] = True
    side_information: ClassVar[tuple[str, ...]] = ("input_subspace", "output_subspace")

    input_subspace: Array | None = None
    output_subspace: Array | None = None

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Fit the cores in the given subspaces; draws nothing."""
        if self.input_subspace is None:
            raise InputError("oracle_subspace needs input_subspace (and output_subspace); pass the known ones.")
        u, v = numbers("input_subspace", self.input_subspace), self.output_subspace
        v = np.eye(data.dim_out) if v is None else numbers("output_subspace", v)
        if u.ndim != 2 or v.ndim != 2 or not u.size * v.size:
            raise InputError(
                "input_subspace and output_subspace must be matrices with at least one column, got shapes "
                f"{u.shape} and {v.shape}."
            )
        u, v = given_start(u, v, (u.shape[1], v.shape[1]), data)
        return fit_in_subspaces(data, u, v)

    def fit_stacked(self, data: Moments) -> StackedFit | None:
        """Fit the cores in many trials; the subspaces have an axis of trials before theirs."""
        u, v = self.input_subspace, self.output_subspace
        if u is None or u.ndim != 3 or (v is not None and v.shape[-1] != data.halves.shape[4]):
            return None
        return stacked_descent.in_subspaces(data, u)


def fit_in_subspaces(data: Dataset, u: Array, v: Array) -> Fit:
    """Every user's core by least squares in given orthonormal subspaces, minimum norm where under-determined."""
    point = SharedModel(data).evaluate(u, v)
    short = int(point.deficient.sum())
    message = f"{short} of {len(point.cores)} users cannot determine their core; minimum-norm solutions."
    return Fit(
        status="singular" if short else "converged",
        message=message if short else "",
        input_subspace=u,
        output_subspace=v,
        cores=point.cores,
        pretrained=data.pretrained,
    )


@register
@dataclass(frozen=True, kw_only=True)
class Transfer(Estimator):
    """Transfer: learn the subspaces from source users, freeze them, fit only the core of every other user.

    Model       That of `altmin`.
    Algorithm   The subspaces are given (`input_subspace`, `output_subspace`) or learned by `gauss_newton` from the
                first `sources` users alone; then every user's core by least squares. A new user's samples never
                touch the subspaces, so about r of them suffice.
    Cost        One pass over the new users' data, O(n d r) each.

    Parameters
    ----------
    rank : r or (rank_in, rank_out); not needed with given subspaces.
    sources : number of source users; None: all but the last.
    input_subspace, output_subspace : frozen subspaces, shapes (d, r1) and (p, r2).
    core_penalty : ridge on the cores, of the source users too, in average samples per input; "auto": by marginal
        likelihood, so that cores are posterior means (see `core_penalty`).
    """

    name: ClassVar[str] = "transfer"
    input_invariant: ClassVar[bool] = True
    frozen_subspaces: ClassVar[bool] = True

    rank: int | tuple[int, int] | None = None
    sources: int | None = None
    input_subspace: Array | None = None
    output_subspace: Array | None = None
    core_penalty: float | str = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_core_penalty(self.core_penalty)
        if self.sources is not None:
            check_integer("sources", self.sources, 1)

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate all users' cores in the frozen subspaces; `rng` serves the source users' fit."""
        status, message = "converged", ""
        if self.input_subspace is not None:
            u = numbers("input_subspace", self.input_subspace)
            v = None if self.output_subspace is None else numbers("output_subspace", self.output_subspace)
            rank = u.shape[-1], data.dim_out if v is None else v.shape[-1]
            u, v = given_start(u, v, rank, data)
        else:
            sources = data.num_users - 1 if self.sources is None else self.sources
            if not 1 <= sources < data.num_users:
                raise InputError(
                    f"sources must lie between 1 and num_users - 1 = {data.num_users - 1}, got {sources}."
                )
            rule = get("gauss_newton").from_params(rank=self.rank, core_penalty=self.core_penalty)
            learned = rule.fit(data.take(slice(0, sources)), rng)
            status, message = learned.status, learned.message
            assert learned.input_subspace is not None
            assert learned.output_subspace is not None
            u, v = learned.input_subspace, learned.output_subspace
        fit = self._frozen(data, u, v)
        if fit.status == "converged" and status != "converged":
            return dataclasses.replace(fit, status=status, message=f"source users: {message}")
        return fit

    def _frozen(self, data: Dataset, u: Array, v: Array) -> Fit:
        """Every user's core, penalised as asked for."""
        if not self.core_penalty:
            return fit_in_subspaces(data, u, v)
        auto = isinstance(self.core_penalty, str)
        penalty = likeliest(data, u, v, learned=False) if auto else float(self.core_penalty)
        fit = fit_in_subspaces(with_core_penalty(data, penalty), u, v)
        history = dataclasses.replace(fit.history, tuned=penalty)
        return dataclasses.replace(fit, pretrained=data.pretrained, history=history)


def serve(fit: Fit, newcomer: Dataset) -> Fit:
    """The fit with the weight of a new user, who took no part: its core by least squares in the learned subspaces.

    Methods without shared subspaces tune the new user alone. Minimum norm where the samples are too few.
    """
    if fit.input_subspace is None or fit.output_subspace is None:
        weights = least_squares(newcomer.covariates, newcomer.responses)[0]
    else:
        weights = fit_in_subspaces(newcomer, fit.input_subspace, fit.output_subspace).weights
    return dataclasses.replace(fit, newcomer=weights[0])
