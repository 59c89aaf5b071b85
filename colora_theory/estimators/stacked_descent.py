"""`altmin`, `gauss_newton` and the closed forms on many small data sets at once, step for step as one by one.

The stop rule is that of `descent.Run`. A trial whose next decision is within rounding of the other one, that is
badly conditioned, contracts slowly or needs other starts is left to the ordinary code, which fits it from the
beginning; so both ways give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from colora_theory.estimators.base import StackedFit
from colora_theory.estimators.counting import Counting
from colora_theory.estimators.ranks import is_auto
from colora_theory.estimators.stacked_model import StackedPoint, conjugate_gradients, evaluate
from colora_theory.model.linalg import Array
from colora_theory.model.moments import Moments

if TYPE_CHECKING:
    from colora_theory.estimators.descent import SharedDescent

#: Changes of the subspaces, and of the objective (relative), below which rounding may decide.
_ROUNDING: Final = 1e-10
#: Relative difference of two numbers that are compared below which rounding may decide.
_NEAR: Final = 1e-8
#: Share of open trials below which those that have ended are taken out.
_DENSE: Final = 0.7
#: Ratio of Cholesky pivots below which a user's least squares is left to the ordinary code.
_CLEAR: Final = 0.03
#: Samples per input from which Gaussian covariates are well conditioned.
_ENOUGH: Final = 1.25
#: Most entries (r d)² of the equations of U that are worth forming: with more, trials are faster one by one.
LARGEST_SYSTEM: Final = 40_000
#: Most inner iterations of a Gauss–Newton step: near the counting threshold more brings little.
MOST_INNER: Final = 60

Mask: TypeAlias = NDArray[np.bool_]


def shared_rank(rank: int | tuple[int, int] | str | None, data: Moments) -> int | None:
    """Rank of U where all outputs are shared (V = I); None where they are not, or the data must choose."""
    outputs = data.halves.shape[4]
    if rank is None or is_auto(rank) or isinstance(rank, str):
        return None
    rank_in, rank_out = (rank, min(rank, outputs)) if isinstance(rank, int) else rank
    return rank_in if rank_out == outputs and rank_in <= data.squares.shape[3] else None


def split_half(data: Moments, rank: int) -> Array:
    """Starting subspaces as `starts.split_half` with V = I, shape (t, d, r)."""
    counts = np.stack([(data.counts + 1) // 2, data.counts // 2])
    halves = data.halves / np.sqrt(np.maximum(counts, 1.0))[:, :, None, None]
    t, _, k, d, p = halves.shape
    halves = halves.swapaxes(2, 3).reshape(t, 2, d, k * p)
    product = halves[:, 0] @ halves[:, 1].swapaxes(1, 2)
    return np.asarray(np.linalg.eigh(product + product.swapaxes(1, 2))[1][:, :, : -rank - 1 : -1])


def in_subspaces(data: Moments, u: Array) -> StackedFit:
    """Every user's core by least squares in every trial's U, shape (t, d, r)."""
    point = evaluate(data, u)
    return StackedFit(point.weights, u, np.zeros(len(u), dtype=np.int64), point.solved)


def alone(data: Moments) -> StackedFit | None:
    """Every user's weight by its own least squares; None where some user has hardly enough samples for it."""
    if data.counts.min() < _ENOUGH * data.squares.shape[3]:
        return None
    clear = np.array([_well_conditioned(squares) for squares in data.squares])
    squares = np.where(clear[:, None, None, None], data.squares, np.eye(data.squares.shape[3]))
    weights = np.asarray(np.linalg.solve(squares, data.cross), dtype=np.float64)
    weights += np.linalg.solve(squares, data.cross - squares @ weights)
    return StackedFit(weights, None, np.zeros(len(weights), dtype=np.int64), clear)


def _well_conditioned(squares: Array) -> bool:
    """Whether all matrices of one trial are, by their Cholesky pivots."""
    try:
        pivots = np.diagonal(np.linalg.cholesky(squares), axis1=1, axis2=2)
    except np.linalg.LinAlgError:
        return False
    return bool((pivots.min(1) > _CLEAR * pivots.max(1)).all())


class StackedRun:
    """Descents of many trials, all at the same sweep: the counterpart of `descent.Run`."""

    def __init__(self, rule: SharedDescent, counting: Counting, point: StackedPoint) -> None:
        self.rule, self.counting = rule, counting
        self.changes: list[Array] = []
        self.objectives: list[Array] = []
        self.point: StackedPoint
        self.target: Array
        self._arrive(point)

    def keep(self, trials: Any) -> None:
        """Go on with some of the trials only."""
        self.point, self.target = self.point.take(trials), self.target[trials]
        self.changes = [each[trials] for each in self.changes]
        self.objectives = [each[trials] for each in self.objectives]

    def move(self, change: Array) -> Mask:
        """Go to the point that a change of U leads to; which trials' objectives fall."""
        old = self.point
        new = evaluate(old.data, np.linalg.qr(old.u + change)[0])
        self.changes.append(norms(outside(old.u, new.u)))
        self._arrive(new)
        return np.asarray(new.objective < old.objective)

    def _arrive(self, point: StackedPoint) -> None:
        self.point = point
        self.objectives.append(point.objective)
        spare = self.counting.num_observations - self.counting.degrees_of_freedom
        spread = (self.counting.d - self.counting.r1) * np.einsum("taa->t", point.input_inverse[0])
        error = np.sqrt(point.objective / spare * spread) if spare > 0 else np.zeros(len(spread))
        self.target = np.maximum(self.rule.tol, np.minimum(self.rule.noise_tol * error, self.rule.FARTHEST))

    def inner_tolerance(self, expected: Array) -> Array:
        """As `descent.Run.inner_tolerance`, shape (t,)."""
        least = np.zeros_like(expected)
        if len(self.objectives) > 1:
            settled = self.objectives[-1] > 0.5 * self.objectives[-2]
            least = np.where(settled, 0.3 * self.target / np.maximum(expected, 1e-300), 0.0)
        return np.minimum(0.1, np.maximum(expected, least))

    def decide(self, own: Array) -> tuple[Mask, Mask]:
        """Which trials meet the stop rule, and for which that is beyond doubt; `own`: as `Run.distance_left`."""
        past = self.changes[-4:]
        rate = np.full_like(own, 0.1 if len(past) > 2 else 0.5)
        for earlier, later in pairwise(past):
            rate = np.maximum(rate, later / np.maximum(earlier, 1e-300))
        left = own
        if len(past) > 1:
            left = np.where(rate < 1.0, np.minimum(own, past[-1] * rate / (1.0 - rate)), own)
        stopped = left <= self.target
        clear = self.point.clear & (past[-1] > _ROUNDING) & (np.abs(left - self.target) > _NEAR * self.target)
        if self.rule.DOUBTED and len(past) > 1:  # where exact sweeps are asked
            sure = (past[-1] <= self.rule.SURE * past[-2]) & (rate < 1.0) & (own <= self.target)
            clear &= ~stopped | sure
        if len(self.objectives) > 5:  # where rounding may have ended the run
            clear &= np.abs(self.objectives[-1] - self.objectives[-6]) > _ROUNDING * self.objectives[-6]
        if len(self.changes) > 5 and self.rule.restarts is None:  # where other starts compete
            clear &= ~stopped | (self.changes[-1] < (1.0 - _NEAR) * self.rule.SLOW**5 * self.changes[-6])
        return stopped, clear


#: Makes one sweep: returns the method's own estimates of the distance to the limit, and which steps are sound.
Step: TypeAlias = Callable[[StackedRun], tuple[Array, Mask]]


def alternate(run: StackedRun) -> tuple[Array, Mask]:
    """One sweep of alternating minimisation, as `AltMin.sweep` where V = I."""
    point, trials = run.point, len(run.point.u)
    tol = run.inner_tolerance(run.changes[-1] if run.changes else np.ones(trials))
    if (given := getattr(run.rule, "inner_tol", None)) is not None:
        tol = np.full(trials, float(given))
    most = 2 * point.u[0].size + 10
    solved = conjugate_gradients(point.operator(), point.gradient, point.input_inverse[0], tol, most)
    return np.full(trials, np.inf), run.move(solved.solution) & solved.sound & point.clear


def newton_step(run: StackedRun) -> tuple[Array, Mask]:
    """One step of Gauss–Newton, as `GaussNewton.sweep` where V = I; a step that must be shortened is not sound."""
    point = run.point
    (t, d, r), inverse = point.u.shape, point.input_inverse[0]
    right = outside(point.u, point.gradient)
    operator = point.operator(projected=True).reshape(t, r, d, r * d)
    operator = (np.eye(d) - point.u @ point.u.swapaxes(1, 2))[:, None] @ operator
    tol = run.inner_tolerance(norms(right @ inverse))
    solved = conjugate_gradients(operator.reshape(t, r * d, r * d), right, inverse, tol, MOST_INNER)
    sound = run.move(solved.solution) & solved.sound & point.clear
    here = run.point
    return norms(outside(here.u, here.gradient) @ here.input_inverse[0]) / solved.softest, sound


def descend(rule: SharedDescent, data: Moments, step: Step) -> StackedFit | None:
    """Fit every trial by sweeps of `step` from the spectral start; None where the ordinary code must fit all."""
    rank = shared_rank(rule.rank, data)
    given = rule.core_penalty or rule.restarts or rule.keep_history or rule.input_subspace is not None
    if rank is None or given or rule.start != "split_half":
        return None
    (t, k, d, _), p = data.squares.shape, data.halves.shape[4]
    if (rank * d) ** 2 > LARGEST_SYSTEM:
        return None
    counting = Counting(d, p, rank, p, data.counts, True)
    if counting.undetermined or counting.scarce(rule.DOUBTED, rule.DOUBTED):
        return None
    if rule.restarts is None and counting.scarce(rule.SCARCE, rule.SCARCE_EQUATIONS):
        return None
    subspaces, weights = np.zeros((t, d, rank)), np.zeros((t, k, d, p))
    sweeps, done = np.zeros(t, dtype=np.int64), np.zeros(t, dtype=np.bool_)
    where, going = np.arange(t), np.ones(t, dtype=np.bool_)  # the trials of the run, and whether they go on
    run = StackedRun(rule, counting, evaluate(data, split_half(data, rank)))
    for sweep in range(1, min(rule.PROBATION[0], rule.max_sweeps) + 1):
        own, sound = step(run)
        stopped, clear = run.decide(own)
        clear &= sound
        ended = going & clear & stopped
        at = where[ended]
        weights[at], subspaces[at] = run.point.weights[ended], run.point.u[ended]
        sweeps[at], done[at] = sweep, True
        going &= clear & ~stopped
        if not going.any():
            break
        if going.mean() < _DENSE:
            run.keep(going)
            where, going = where[going], np.ones(int(going.sum()), dtype=np.bool_)
    return StackedFit(weights, subspaces, sweeps, done)


def outside(basis: Array, matrix: Array) -> Array:
    """Parts of the columns outside the spans of bases, shapes (t, d, r)."""
    return np.asarray(matrix - basis @ (basis.swapaxes(1, 2) @ matrix))


def norms(matrices: Array) -> Array:
    """Frobenius norms, shape (t,)."""
    return np.asarray(np.sqrt(np.einsum("tdr,tdr->t", matrices, matrices)))
