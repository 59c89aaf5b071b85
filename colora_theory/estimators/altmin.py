"""Alternating minimisation: the reference method of collaborative low-rank adaptation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from colora_theory.errors import InputError
from colora_theory.estimators import stacked_descent
from colora_theory.estimators.base import Fit, StackedFit, register
from colora_theory.estimators.block_steps import alternate, warm_up
from colora_theory.estimators.descent import SINGULAR, Run, SharedDescent
from colora_theory.estimators.gauss_newton import GaussNewton
from colora_theory.estimators.late_contraction import late_contraction
from colora_theory.estimators.rank_selection import choose_pair
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.estimators.starts import random_start
from colora_theory.estimators.trace import Trace
from colora_theory.model.checks import check_integer, check_real
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array
from colora_theory.model.moments import Moments


@register
@dataclass(frozen=True, kw_only=True)
class AltMin(SharedDescent):
    """Alternating minimisation of the shared model: cores, then U, then V, each by least squares.

    Model       W_i = W_0 + U C_i Vᵀ with shared orthonormal U (d × r1), V (p × r2) and personal cores C_i.
    Objective   Σ_i ‖y_i − 𝒜_i(U C_i Vᵀ)‖².
    Algorithm   Per sweep: C_i by least squares for every user; U by least squares over all users, then QR;
                likewise V. The U and V steps use preconditioned conjugate gradients from the present point, so
                the objective never rises; a step that rounding spoils is not taken. Their accuracy follows the
                progress: coarse in the first sweeps, exact in the limit; `inner_tol=0` makes every step an exact
                block minimisation.
    Cost        A few passes over the data per sweep, O(N d r) each.
    Source      Jain, Netrapalli & Sanghavi 2013 (arXiv 1212.0467); Thekumparampil et al. 2021
                (arXiv 2105.08306) for the multi-user vector model.

    Parameters
    ----------
    The shared ones of SharedDescent (rank, start, restarts, tol, noise_tol, max_sweeps, core_penalty, …), and
    fresh_samples : use every sample in one half step only, as proofs do. The data are split into equal parts:
        one for the start, one per half step of `max_sweeps` sweeps, one for the final cores.
    inner_tol : relative residual of the inner solves; None follows the progress, 0 is exact.
    late_sweeps : measure the contraction per sweep close to the limit for so many sweeps, under
        "late_contraction" (see `late_contraction`); 0: not at all. Needs data that the fit interpolates.
    """

    name: ClassVar[str] = "altmin"
    SCARCE: ClassVar[float] = 3.0
    SCARCE_EQUATIONS: ClassVar[float] = 3.0
    CONTESTANTS: ClassVar[int] = 10
    AGREE: ClassVar[int] = 3
    STEPS: ClassVar[int] = 30
    MONOTONE: ClassVar[bool] = True

    fresh_samples: bool = False
    inner_tol: float | None = None
    late_sweeps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_tol is not None:
            check_real("inner_tol", self.inner_tol, 0.0, 1.0)
        if self.core_penalty and (self.fresh_samples or self.late_sweeps):
            raise InputError("core_penalty goes with neither fresh_samples nor late_sweeps; leave it at 0.")
        check_integer("late_sweeps", self.late_sweeps, 0)

    def sweep(self, run: Run) -> tuple[Array, Array, bool]:
        """One U step and one V step from the present cores."""
        tol = self.inner_tol
        if tol is None:
            tol = run.inner_tolerance(run.changes[-1] if run.changes else 1.0)
        return alternate(run.model, run.point, tol, run.record if self.keep_history else None)

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate subspaces, cores and weights; `rng` serves random starts and sufficient rows."""
        if self.fresh_samples:
            return self._fit_fresh(data, rng)
        fit = self.descend(data, rng)
        if self.late_sweeps:
            late = late_contraction(data, fit, self.late_sweeps, rng)
            return dataclasses.replace(fit, history=dataclasses.replace(fit.history, late_contraction=late))
        return fit

    def fit_stacked(self, data: Moments) -> StackedFit | None:
        """Estimate subspaces and cores in many trials."""
        plain = not (self.fresh_samples or self.late_sweeps)
        return stacked_descent.descend(self, data, stacked_descent.alternate) if plain else None

    def _compete(
        self, data: Dataset, model: SharedModel, run: Run, rng: np.random.Generator | None
    ) -> tuple[Run, int]:
        """Descents by Gauss–Newton from the present point and from other starts; the best one goes on.

        They take a tenth of the time of sweeps where these are slow. Unless their number is given, the search ends
        as soon as `AGREE` of them have reached the best objective; the message says so when only one has.
        """
        rank = run.u.shape[1], run.v.shape[1]
        rule = GaussNewton(rank=rank, restarts=0, max_sweeps=self.STEPS)
        reached: list[Run] = []
        for u, v in islice(self._starts(data, model, run, rng), self.restarts or self.CONTESTANTS):
            reached.append(Run(rule, model, u, v))
            reached[-1].advance(self.STEPS)
            best = min(reached, key=lambda each: each.point.objective)
            floor = 1.001 * best.point.objective
            agreeing = sum(each.point.objective <= floor for each in reached)
            if self.restarts is None and (agreeing >= self.AGREE or best.at_rounding):
                break
        if best.point.objective > run.point.objective:
            return run, len(reached)
        winner = Run(self, model, best.u, best.v, sweeps=min(run.sweeps, self.max_sweeps - 1))
        if agreeing == 1 and len(reached) > 1 and not best.at_rounding:
            winner.alone = (
                f"{len(reached)} starts disagree, and one alone reached the best fit: others may be better."
            )
        return winner, len(reached)

    def _starts(
        self, data: Dataset, model: SharedModel, run: Run, rng: np.random.Generator | None
    ) -> Iterator[tuple[Array, Array]]:
        """The present point; the first start and then random ones, warmed up with shrunken cores."""
        yield run.u, run.v
        rank = run.u.shape[1], run.v.shape[1]
        strengths = (30.0, 100.0, 10.0)
        for strength in strengths if rng is None else strengths[:1]:
            yield warm_up(model, *run.first, strength)
        while rng is not None:
            yield warm_up(model, *random_start(data, rank, rng), 30.0)

    def _fit_fresh(self, data: Dataset, rng: np.random.Generator | None) -> Fit:
        """Every half step on samples of its own."""
        rank = choose_pair(self.rank, data, rng)
        steps = 2 if rank[1] == data.dim_out else 3
        parts = 2 + steps * self.max_sweeps
        if data.counts.min() < parts:
            raise InputError(
                f"fresh_samples with max_sweeps = {self.max_sweeps} needs at least {parts} samples per user, "
                f"got {data.counts.min()}; lower max_sweeps."
            )
        pieces = iter(data.split(parts, rng))
        u, v = self._start(next(pieces), rank, rng)
        tol = self.inner_tol or 0.0
        subspaces, objectives, singular = [(u, v)], [], False
        for _ in range(self.max_sweeps):
            point = SharedModel(next(pieces)).evaluate(u, v)
            fresh = SharedModel(next(pieces))
            change, flag = fresh.solve_input(point, fresh.residual_moments(point.weights)[0], tol)
            u, triangle = np.linalg.qr(u + change)
            if steps == 3:
                change, _, other = SharedModel(next(pieces)).solve_output(u, triangle @ point.cores, v, tol)
                v, flag = np.linalg.qr(v + change)[0], flag or other
            singular |= flag or bool(point.deficient.any())
            objectives.append(point.objective)
            subspaces.append((u, v))
        point = SharedModel(next(pieces)).evaluate(u, v)
        singular |= bool(point.deficient.any())
        history = Trace(
            objective=np.array([*objectives, point.objective]),
            input_subspaces=[pair[0] for pair in subspaces] if self.keep_history else None,
            output_subspaces=[pair[1] for pair in subspaces] if self.keep_history else None,
            fresh_samples=True,
        )
        return Fit(
            status="singular" if singular else "stopped",
            message=SINGULAR if singular else f"max_sweeps = {self.max_sweeps} sweeps on fresh samples.",
            input_subspace=u,
            output_subspace=v,
            cores=point.cores,
            pretrained=data.pretrained,
            sweeps=self.max_sweeps,
            history=history,
        )
