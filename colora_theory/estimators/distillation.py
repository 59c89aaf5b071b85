"""Knowledge distillation: a teacher's answers, fitted by the shared model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from colora_theory.errors import InputError, nearest
from colora_theory.estimators.base import Fit, register
from colora_theory.estimators.full_finetuning import Ridge
from colora_theory.estimators.gauss_newton import GaussNewton
from colora_theory.estimators.lora import PooledLoRA
from colora_theory.estimators.ranks import resolve_rank
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.estimators.trace import Trace
from colora_theory.estimators.tuning import Tuned
from colora_theory.model.checks import check_integer, check_real
from colora_theory.model.dataset import Dataset, predict


@register
@dataclass(frozen=True, kw_only=True)
class Distillation(Tuned):
    """Knowledge distillation: a teacher's predictions on unlabeled covariates, fitted by the shared model.

    Teacher     "ridge" (every user alone, its penalty `strength` times that of generalised cross-validation)
                or "pooled" (`pooled_lora`, one model for all).
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
    strength : multiple of the teacher's penalty. tune : how it is chosen (see `Tuned`); it is the student that
        predicts, so that a teacher too weak for itself may be the best one.
    """

    name: ClassVar[str] = "distillation"
    GRID: ClassVar[tuple[float, ...]] = tuple(10.0**e for e in (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0))
    TEACHERS: ClassVar[tuple[str, ...]] = ("ridge", "pooled")

    rank: int | tuple[int, int] | None = None
    teacher: str = "ridge"
    unlabeled: int | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("strength", self.strength)
        if self.tune != "none" and self.teacher != "ridge":
            raise InputError("tune chooses the penalty of the teacher 'ridge'; leave tune = 'none' for 'pooled'.")
        if self.teacher not in self.TEACHERS:
            raise InputError(
                f"teacher must be one of ridge, pooled, got {self.teacher!r}; "
                f"{nearest(str(self.teacher), self.TEACHERS)}"
            )
        if self.unlabeled is not None:
            check_integer("unlabeled", self.unlabeled, 1)

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Fit teacher and student; `rng` draws unlabeled covariates."""
        if self.tune != "none":
            return self.tuned_fit(data, rng)
        rank = resolve_rank(self.rank, data)
        model = SharedModel(data)
        teacher = Ridge() if self.teacher == "ridge" else PooledLoRA(rank=min(data.dim_in, data.dim_out))
        taught = teacher.fit(data.without_pretrained(), rng)
        if isinstance(teacher, Ridge) and self.strength != 1.0:
            assert taught.history.penalty is not None
            taught = Ridge(penalty=self.strength * taught.history.penalty).fit(data.without_pretrained(), rng)
        answers = taught.weights
        covariates, counts = data.covariates, data.counts
        if self.unlabeled is not None:
            if rng is None:
                raise InputError("distillation with unlabeled covariates draws them; pass rng.")
            covariates = rng.standard_normal((model.k, self.unlabeled, *data.covariates.shape[2:]))
            counts = np.full(model.k, self.unlabeled)
        teaching = Dataset(
            covariates=covariates,
            responses=predict(covariates, answers),
            counts=counts,
            sufficient=data.sufficient and self.unlabeled is None,
        )
        student = GaussNewton(rank=rank).fit(teaching, rng)
        return Fit(
            status=student.status,
            message=student.message,
            input_subspace=student.input_subspace,
            output_subspace=student.output_subspace,
            cores=student.cores,
            pretrained=data.pretrained,
            sweeps=student.sweeps,
            history=Trace(teacher=answers),
        )
