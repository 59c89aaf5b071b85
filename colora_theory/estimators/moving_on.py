"""Using what was learned: transfer to new users, and distillation of a teacher into the shared model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from colora_theory.data import Dataset, numbers, predict
from colora_theory.errors import InputError, nearest
from colora_theory.estimators.alone import Ridge
from colora_theory.estimators.base import Estimator, Fit, register
from colora_theory.estimators.descent import check_integer
from colora_theory.estimators.direct import fit_in_subspaces
from colora_theory.estimators.gauss_newton import GaussNewton
from colora_theory.estimators.ranks import given_start, resolve_rank
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.estimators.together import PooledLoRA
from colora_theory.linalg import Array


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
    """

    name: ClassVar[str] = "transfer"
    frozen_subspaces: ClassVar[bool] = True

    rank: int | tuple[int, int] | None = None
    sources: int | None = None
    input_subspace: Array | None = None
    output_subspace: Array | None = None

    def __post_init__(self) -> None:
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
            learned = GaussNewton(rank=self.rank).fit(data.take(slice(0, sources)), rng)
            status, message = learned.status, learned.message
            assert learned.input_subspace is not None
            assert learned.output_subspace is not None
            u, v = learned.input_subspace, learned.output_subspace
        fit = fit_in_subspaces(data, u, v)
        if fit.status == "converged" and status != "converged":
            return dataclasses.replace(fit, status=status, message=f"source users: {message}")
        return fit


@register
@dataclass(frozen=True, kw_only=True)
class Distillation(Estimator):
    """Knowledge distillation: a teacher's predictions on unlabeled covariates, fitted by the shared model.

    Teacher     "ridge" (every user alone) or "pooled" (`pooled_lora`, one model for all).
    Student     min Σ_i ‖𝒜̃_i(T_i) − 𝒜̃_i(U C_i Vᵀ)‖² over the shared model, T_i the teacher's weights, 𝒜̃_i the
                unlabeled covariates of user i: `gauss_newton` on the teacher's answers.
    Covariates  The labeled ones again, or `unlabeled` fresh standard Gaussian ones per user. With many, the
                student is the projection of the teacher on the shared model in Frobenius norm.
    Cost        The teacher's, and a `gauss_newton` fit.
    Source      Hinton, Vinyals & Dean 2015 (arXiv 1503.02531), in the linear setting.

    Parameters
    ----------
    rank : r or (rank_in, rank_out) of the student.
    teacher : "ridge" or "pooled".
    unlabeled : fresh covariates per user; None: the labeled ones.
    """

    name: ClassVar[str] = "distillation"
    TEACHERS: ClassVar[tuple[str, ...]] = ("ridge", "pooled")

    rank: int | tuple[int, int] | None = None
    teacher: str = "ridge"
    unlabeled: int | None = None

    def __post_init__(self) -> None:
        if self.teacher not in self.TEACHERS:
            raise InputError(
                f"teacher must be one of ridge, pooled, got {self.teacher!r}; "
                f"{nearest(str(self.teacher), self.TEACHERS)}"
            )
        if self.unlabeled is not None:
            check_integer("unlabeled", self.unlabeled, 1)

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Fit teacher and student; `rng` draws unlabeled covariates."""
        rank = resolve_rank(self.rank, data)
        model = SharedModel(data)
        teacher = Ridge() if self.teacher == "ridge" else PooledLoRA(rank=min(data.dim_in, data.dim_out))
        plain = Dataset(
            covariates=data.covariates,
            responses=data.residual_responses(),
            counts=data.counts,
            sufficient=data.sufficient,
        )
        taught = teacher.fit(plain, rng).weights
        covariates, counts = data.covariates, data.counts
        if self.unlabeled is not None:
            if rng is None:
                raise InputError("distillation with unlabeled covariates draws them; pass rng.")
            covariates = rng.standard_normal((model.k, self.unlabeled, *data.covariates.shape[2:]))
            counts = np.full(model.k, self.unlabeled)
        lesson = Dataset(
            covariates=covariates,
            responses=predict(covariates, taught),
            counts=counts,
            sufficient=data.sufficient and self.unlabeled is None,
        )
        student = GaussNewton(rank=rank).fit(lesson, rng)
        return Fit(
            status=student.status,
            message=student.message,
            input_subspace=student.input_subspace,
            output_subspace=student.output_subspace,
            cores=student.cores,
            pretrained=data.pretrained,
            sweeps=student.sweeps,
            history={"teacher": taught},
        )
