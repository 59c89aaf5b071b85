"""What the iterative shared-subspace methods have in common: start, stop rule, restarts, history."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import ClassVar

import numpy as np

from colora_theory.errors import InputError, nearest
from colora_theory.estimators.base import Estimator, Fit
from colora_theory.estimators.block_steps import distance_left, moved, warm_up
from colora_theory.estimators.core_penalty import check_core_penalty, penalised_fit
from colora_theory.estimators.counting import Counting
from colora_theory.estimators.rank_selection import choose_pair
from colora_theory.estimators.ranks import given_start
from colora_theory.estimators.sampling_errors import of_shared_model
from colora_theory.estimators.shared_model import Point, SharedModel, statistical_error
from colora_theory.estimators.starts import STARTS, random_start, start
from colora_theory.estimators.trace import Trace
from colora_theory.model.checks import check_integer, check_real
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array

#: Changes of the subspaces below this are rounding.
_ROUNDING = 1e-12
#: Rise of the objective, relative to Σ‖y‖², that is rounding and no rise.
_UNIT = 1e-14

SINGULAR = "a least-squares step was rank deficient; its minimum-norm solution was taken."


@dataclass(frozen=True, kw_only=True)
class SharedDescent(Estimator):
    """Base of the methods that improve (U, V) sweep by sweep, the cores being optimal at every point.

    Parameters
    ----------
    rank : r, (rank_in, rank_out), or "auto" (see `rank_selection.choose_rank`).
    start : "split_half", "second_moment" (spectral) or "random"; ignored where `input_subspace` is given.
    input_subspace, output_subspace : a given start, shapes (d, r1) and (p, r2).
    restarts : contestants that run against the first start. None: `CONTESTANTS` of them, called only when the
        first run contracts slowly at one of the `PROBATION` sweeps, the sign of a poor start, or settles on a
        misfit with at most `SCARCE` samples per row of a core, or at most `SCARCE_EQUATIONS` equations for each
        unknown that all users share; 0: never.
    tol : stop when the sine between the present subspaces and their limit is estimated to be below it. That is
        "converged": a stationary point, which need not be the global minimum.
    noise_tol : stop also when that distance falls below this fraction of the estimate's own statistical error
        (estimated from the residuals): 0.05 adds about a four-hundredth to the squared error. 0 iterates to `tol`
        however noisy the data.
    max_sweeps : most sweeps of one run.
    core_penalty : ridge on the cores, λ Σ ‖C_i‖² with λ in average samples per input, or "auto", by marginal
        likelihood (see `core_penalty`). No standard errors then.
    keep_history : record the objective after every half step and both subspaces after every sweep.

    Fit.history holds objective, change and contestants, and with `keep_history` also half_step,
    input_subspaces and output_subspaces (see `Trace`).
    """

    input_invariant: ClassVar[bool] = True
    PROBATION: ClassVar[tuple[int, ...]] = (15, 30, 60)
    SLOW: ClassVar[float] = 0.8
    SCARCE: ClassVar[float] = 0.0
    SCARCE_EQUATIONS: ClassVar[float] = 0.0
    CONTESTANTS: ClassVar[int] = 5
    FARTHEST: ClassVar[float] = 1e-2  #: largest distance at which noise ends a run: a plateau looks like noise
    KEEP_FEATURES: ClassVar[bool] = False
    MONOTONE: ClassVar[bool] = False  #: whether every sweep minimises the objective, block by block
    #: Samples per row of a core, or equations per unknown that all users share, up to which a method's own sweeps
    #: can be short far from the limit, so that exact ones are asked before a fit is called converged.
    DOUBTED: ClassVar[float] = 0.0
    SURE: ClassVar[float] = 0.2  #: contraction of the last step up to which such a method is taken at its word

    rank: int | tuple[int, int] | str | None = None
    start: str = "split_half"
    input_subspace: Array | None = None
    output_subspace: Array | None = None
    restarts: int | None = None
    tol: float = 1e-12
    noise_tol: float = 0.05
    max_sweeps: int = 1000
    core_penalty: float | str = 0.0
    keep_history: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in STARTS:
            raise InputError(
                f"start must be one of {', '.join(STARTS)}, got {self.start!r}; {nearest(str(self.start), STARTS)}"
            )
        check_real("tol", self.tol)
        check_real("noise_tol", self.noise_tol)
        check_core_penalty(self.core_penalty)
        check_integer("max_sweeps", self.max_sweeps, 1)
        if self.restarts is not None:
            check_integer("restarts", self.restarts, 0)

    def sweep(self, run: Run) -> tuple[Array, Array, bool]:
        """Return the next (U, V), orthonormal, and whether a least squares in between was singular."""
        raise NotImplementedError(f"{type(self).__name__} does not implement sweep.")

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate subspaces, cores and weights; `rng` serves random starts and sufficient rows."""
        return self.descend(data, rng)

    def descend(self, data: Dataset, rng: np.random.Generator | None) -> Fit:
        """Fit data that are in units already (see `Estimator`)."""
        rank = choose_pair(self.rank, data, rng)
        if self.core_penalty:
            return penalised_fit(self, data, self._start(data, rank, rng), rng)
        model = SharedModel(data)
        run = Run(self, model, *self._start(data, rank, rng))
        contestants = 0
        for probation in self.PROBATION:
            run.advance(probation)
            if self.restarts or (self.restarts is None and run.doubtful and run.determined):
                run, contestants = self._compete(data, model, run, rng)
                break
            if not run.determined:
                break
        # Where the data cannot determine the answer more sweeps only choose among equal ones.
        run.advance(self.max_sweeps if run.determined else self.PROBATION[0])
        return run.fit(data, contestants)

    def _compete(
        self, data: Dataset, model: SharedModel, run: Run, rng: np.random.Generator | None
    ) -> tuple[Run, int]:
        """Return the best of `run` and of runs of the same length from other starts, and the number of those."""
        runs = [run]
        for u, v in self._contestants(data, model, run.first, rng):
            runs.append(Run(self, model, u, v))
            runs[-1].advance(run.sweeps)
        return min(runs, key=lambda each: each.point.objective), len(runs) - 1

    def _start(self, data: Dataset, rank: tuple[int, int], rng: np.random.Generator | None) -> tuple[Array, Array]:
        if self.input_subspace is not None:
            return given_start(self.input_subspace, self.output_subspace, rank, data)
        return start(data, rank, self.start, rng)

    def _contestants(
        self, data: Dataset, model: SharedModel, first: tuple[Array, Array], rng: np.random.Generator | None
    ) -> list[tuple[Array, Array]]:
        """Other starts: the first one, then random ones, each warmed up with shrunken cores."""
        count = self.CONTESTANTS if self.restarts is None else self.restarts
        rank = first[0].shape[1], first[1].shape[1]
        others = [warm_up(model, *first, strength) for strength in (30.0, 10.0, 3.0)[:count]]
        if rng is not None:
            others += [warm_up(model, *random_start(data, rank, rng), 10.0) for _ in range(count - len(others))]
        return others


@dataclass(eq=False)
class Run:
    """One descent from one start."""

    rule: SharedDescent
    model: SharedModel
    u: Array
    v: Array
    sweeps: int = 0
    converged: bool = False
    singular: bool = False
    objectives: list[float] = field(default_factory=list)
    core_objectives: list[float] = field(default_factory=list)
    half_steps: list[str] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    subspaces: list[tuple[Array, Array]] = field(default_factory=list)
    distance_left: float = np.inf  #: what a method itself knows of the distance to the limit
    asked_again: int = 0  #: sweeps after which an exact sweep may be asked again whether the point is stationary
    alone: str = ""  #: what starts that disagree say about the minimum

    def __post_init__(self) -> None:
        self.first, model = (self.u, self.v), self.model
        ranks = self.u.shape[1], self.v.shape[1]
        self.counting = Counting(model.d, model.p, *ranks, model.counts, model.regression)
        self.arrive(self.model.evaluate(self.u, self.v, keep_features=self.rule.KEEP_FEATURES))

    def arrive(self, point: Point) -> None:
        """Make `point` the present one."""
        self.u, self.v, self.point = point.u, point.v, point
        self.target = self._aim()
        self.record("cores", point.objective)
        self.core_objectives.append(point.objective)
        if self.rule.keep_history:
            self.subspaces.append((self.u, self.v))

    def record(self, half_step: str, objective: float) -> None:
        """Note the objective after a half step."""
        self.half_steps.append(half_step)
        self.objectives.append(objective)

    def advance(self, sweeps: int) -> None:
        """Sweep until the stop rule, or until `sweeps` sweeps (counted from the start) are done."""
        while not self.converged and self.sweeps < min(sweeps, self.rule.max_sweeps):
            old, recorded, self.distance_left = self.point, len(self.objectives), np.inf
            u, v, singular = self.rule.sweep(self)
            self.changes.append(float(np.hypot(moved(old.u, u), moved(old.v, v))))
            if self.changes[-1] > _ROUNDING:  # a step made of rounding errors says nothing about the problem
                self.singular = singular
            if self.point.u is not u or self.point.v is not v:  # a line search evaluates the new point itself
                point = self.model.evaluate(u, v, keep_features=self.rule.KEEP_FEATURES)
                if self.rule.MONOTONE and point.objective > old.objective + _UNIT * self.model.energy:
                    # nothing but rounding is left where exact block minimisation rises: stay at the better point
                    self.converged, self.changes[-1] = True, 0.0
                    del self.objectives[recorded:], self.half_steps[recorded:]
                    return
                self.arrive(point)
            self.sweeps += 1
            self.converged = self._remaining() <= self.target and self._stationary()

    def _aim(self) -> float:
        """Distance to the limit at which the stop rule is met at the present point."""
        noise = self.rule.noise_tol * statistical_error(self.model, self.point)
        return max(self.rule.tol, min(noise, self.rule.FARTHEST))

    def inner_tolerance(self, expected: float) -> float:
        """Relative accuracy worth having in a step whose expected length is `expected`.

        As fine as the step is short, so that convergence keeps its order; once the objective has settled, so that
        what is left of it is noise, no finer than the stop rule needs.
        """
        past, least = self.core_objectives, 0.0
        if len(past) > 1 and past[-1] > 0.5 * past[-2]:
            least = 0.3 * self.target / max(expected, 1e-300)
        return min(0.1, max(expected, least))

    def _remaining(self) -> float:
        """Estimated distance to the limit: the method's own, or a geometric extrapolation of the last changes.

        The slowest of the last three contractions counts: inner solves are inexact, and one fast sweep among slow
        ones has not solved for what is slow.
        """
        past = self.changes[-4:]
        if self.at_rounding or past[-1] == 0.0 or (len(past) == 4 and max(past) <= _ROUNDING):
            return 0.0
        # one ratio is that of what was fast; what is slow shows later
        least = 0.1 if len(past) > 2 else 0.5
        rate = max([least, *(later / max(earlier, 1e-300) for earlier, later in pairwise(past))])
        if len(past) < 2 or rate >= 1.0:
            return self.distance_left
        return min(self.distance_left, past[-1] * rate / (1.0 - rate))

    def _stationary(self) -> bool:
        """Whether exact sweeps from here would end within (twice) the distance that the stop rule allows.

        Short steps look like convergence where the objective is badly conditioned. Asked again after a third more
        sweeps, so that asking stays cheap.
        """
        doubted = self.counting.scarce(self.rule.DOUBTED, self.rule.DOUBTED)
        if self.rule.DOUBTED:
            # Gauss–Newton contracts slowly where misfit bends the objective: perhaps to a saddle
            rates = [later / max(earlier, 1e-300) for earlier, later in pairwise(self.changes[-4:])]
            doubted |= bool(rates) and (rates[-1] > self.rule.SURE or max(rates) >= 1.0)
            doubted |= self.distance_left > self.target
        if not doubted or self.at_rounding or self.changes[-1] <= _ROUNDING:
            return True
        if self.sweeps < self.asked_again:
            return False
        self.asked_again = self.sweeps + max(3, self.sweeps // 3)
        return distance_left(self.model, self.point) <= 2.0 * self.target

    @property
    def at_rounding(self) -> bool:
        """Whether the fit interpolates, or five sweeps changed the objective by no more than rounding does.

        Small steady changes are no rounding: a badly conditioned descent converges slowly.
        """
        past, moves = self.core_objectives, self.changes[-5:]
        if past[-1] <= 1e-28 * self.model.energy:
            return True
        if len(past) < 6 or min(moves) > max(0.99 * max(moves), _ROUNDING):
            return False
        risen = past[-1] > (1.0 + 1e-12) * past[-6] + 1e-26 * self.model.energy  # by more than rounding
        return past[-1] >= (1.0 - 1e-14) * past[-6] and not risen

    @property
    def doubtful(self) -> bool:
        """Whether other starts should compete: for a slow run, or one settled on a misfit with few samples a core.

        With few samples exact cores fit the error of U, which makes local minima that are no plateaus.
        """
        scarce = self.counting.scarce(self.rule.SCARCE, self.rule.SCARCE_EQUATIONS)
        return self.slow or (scarce and self.converged and not self.at_rounding)

    @property
    def slow(self) -> bool:
        """Whether the last five sweeps contracted slowly, even if the stop rule was met: so a plateau ends."""
        if len(self.changes) < 6 or self.at_rounding:
            return False
        return self.changes[-1] > self.rule.SLOW**5 * self.changes[-6]

    @property
    def determined(self) -> bool:
        """Whether there are as many equations as unknowns: otherwise no start is a poor one."""
        return not self.counting.undetermined

    def fit(self, data: Dataset, contestants: int) -> Fit:
        """Return the present point as an estimate."""
        keep = self.rule.keep_history
        history = Trace(
            objective=np.array(self.objectives),
            change=np.array(self.changes),
            contestants=contestants,
            half_step=list(self.half_steps) if keep else None,
            input_subspaces=[pair[0] for pair in self.subspaces] if keep else None,
            output_subspaces=[pair[1] for pair in self.subspaces] if keep else None,
        )
        status, message = "converged", self.alone
        if not self.converged:
            status, message = "stopped", f"max_sweeps = {self.rule.max_sweeps} reached before the stop rule."
        if self.singular or self.point.deficient.any():
            status, message = "singular", SINGULAR
        if reason := self.counting.undetermined:
            status, message = "singular", reason
        return Fit(
            status=status,
            message=message,
            input_subspace=self.u,
            output_subspace=self.v,
            cores=self.point.cores,
            pretrained=data.pretrained,
            sweeps=self.sweeps,
            history=history,
            uncertainty=partial(of_shared_model, data, self.u, self.v, self.point.cores),
        )
