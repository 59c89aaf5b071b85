"""Alternating minimisation: the reference method of collaborative low-rank adaptation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from colora_theory.data import Dataset
from colora_theory.errors import InputError, nearest
from colora_theory.estimators.base import Estimator, Fit, register
from colora_theory.estimators.shared_model import (
    Point,
    SharedModel,
    degrees_of_freedom,
    given_start,
    resolve_rank,
    statistical_error,
)
from colora_theory.estimators.starts import STARTS, random_start, start
from colora_theory.linalg import Array


@register
@dataclass(frozen=True, kw_only=True)
class AltMin(Estimator):
    """Alternating minimisation of the shared model: cores, then U, then V, each by least squares.

    Model       W_i = W_0 + U C_i Vᵀ with shared orthonormal U (d × r1), V (p × r2) and personal cores C_i.
    Objective   Σ_i ‖y_i − 𝒜_i(U C_i Vᵀ)‖².
    Algorithm   Per sweep: C_i by least squares for every user; U by least squares over all users, then QR;
                likewise V. The U and V steps use preconditioned conjugate gradients from the present point, so
                the objective never rises. Their accuracy follows the progress: coarse in the first sweeps,
                exact in the limit; `inner_tol=0` makes every step an exact block minimisation.
    Cost        A few passes over the data per sweep, O(N d r) each.
    Source      Jain, Netrapalli & Sanghavi 2013 (arXiv 1212.0467); Thekumparampil et al. 2021
                (arXiv 2105.08306) for the multi-user vector model.

    Parameters
    ----------
    rank : r or (rank_in, rank_out).
    start : "split_half", "second_moment" (spectral) or "random"; ignored where `input_subspace` is given.
    input_subspace, output_subspace : a given start, shapes (d, r1) and (p, r2).
    restarts : contestants that run against the first start. None: `CONTESTANTS` of them, called only when the
        first run contracts slowly at one of the `PROBATION` sweeps, the sign of a poor start; 0: never.
    fresh_samples : use every sample in one half step only, as proofs do. The data are split into equal parts:
        one for the start, one per half step of `max_sweeps` sweeps, one for the final cores.
    tol : stop when the sine between the present subspaces and their limit is estimated to be below it.
    noise_tol : stop also when that distance falls below this fraction of the estimate's own statistical error
        (estimated from the residuals); 0 iterates to `tol` however noisy the data.
    inner_tol : relative residual of the inner solves; None follows the progress, 0 is exact.
    max_sweeps : most sweeps of one run.
    keep_history : record the objective after every half step and both subspaces after every sweep.

    Fit.history holds "objective" (after every core step; every half step with `keep_history`), "change" (sine
    between the subspaces of successive sweeps), "contestants" (runs that competed), and with `keep_history`
    "half_step", "input_subspaces", "output_subspaces".
    """

    name: ClassVar[str] = "altmin"
    PROBATION: ClassVar[tuple[int, ...]] = (15, 30, 60)
    SLOW: ClassVar[float] = 0.8
    CONTESTANTS: ClassVar[int] = 5

    rank: int | tuple[int, int] | None = None
    start: str = "split_half"
    input_subspace: Array | None = None
    output_subspace: Array | None = None
    restarts: int | None = None
    fresh_samples: bool = False
    tol: float = 1e-12
    noise_tol: float = 1e-3
    inner_tol: float | None = None
    max_sweeps: int = 1000
    keep_history: bool = False

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise InputError(
                f"start must be one of {', '.join(STARTS)}, got {self.start!r}; {nearest(str(self.start), STARTS)}"
            )
        for name in ("tol", "noise_tol", "inner_tol"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value < np.inf):
                raise InputError(f"{name} must be a number ≥ 0, got {value!r}.")
        for name, least in (("max_sweeps", 1), ("restarts", 0)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InputError(f"{name} must be an integer ≥ {least}, got {value!r}.")

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate subspaces, cores and weights; `rng` serves random starts and sufficient rows."""
        rank = resolve_rank(self.rank, data)
        if self.fresh_samples:
            return self._fit_fresh(data, rank, rng)
        model = SharedModel(data)
        run = _Run(self, model, *self._start(data, rank, rng))
        contestants = 0
        for probation in self.PROBATION:
            run.advance(probation)
            if self.restarts or (self.restarts is None and run.slow):
                runs = [run]
                for u, v in self._contestants(data, model, run.first, rng):
                    runs.append(_Run(self, model, u, v))
                    runs[-1].advance(run.sweeps)
                contestants = len(runs) - 1
                run = min(runs, key=lambda each: each.point.objective)
                break
        run.advance(self.max_sweeps)
        return run.fit(data, contestants)

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
        others = [warm_up(model, *first, strength) for strength in (30.0, 10.0, 3.0)][:count]
        if rng is not None:
            others += [warm_up(model, *random_start(data, rank, rng), 10.0) for _ in range(count - len(others))]
        return others

    def _fit_fresh(self, data: Dataset, rank: tuple[int, int], rng: np.random.Generator | None) -> Fit:
        """Every half step on samples of its own."""
        halves = 2 if rank[1] == data.dim_out else 3
        parts = 2 + halves * self.max_sweeps
        if data.counts.min() < parts:
            raise InputError(
                f"fresh_samples with max_sweeps = {self.max_sweeps} needs at least {parts} samples per user, "
                f"got {data.counts.min()}; lower max_sweeps."
            )
        pieces = data.split(parts, rng)
        u, v = self._start(pieces[0], rank, rng)
        tol = 0.0 if self.inner_tol is None else self.inner_tol
        subspaces, objectives, singular = [(u, v)], [], False
        for sweep in range(self.max_sweeps):
            fresh = [SharedModel(piece) for piece in pieces[1 + halves * sweep : 1 + halves * (sweep + 1)]]
            point = fresh[0].evaluate(u, v)
            moments, _ = fresh[1].residual_moments(np.matmul(u @ point.cores, v.T))
            change, flag = fresh[1].solve_input(point.cores, v, moments, tol)
            u, triangle = np.linalg.qr(u + change)
            if halves == 3:
                raw, _, other = fresh[2].solve_output(u, triangle @ point.cores, v, tol)
                v, flag = np.linalg.qr(raw)[0], flag or other
            singular |= flag or bool(point.deficient.any())
            objectives.append(point.objective)
            subspaces.append((u, v))
        point = SharedModel(pieces[-1]).evaluate(u, v)
        singular |= bool(point.deficient.any())
        history: dict[str, Any] = {"objective": np.array([*objectives, point.objective])}
        if self.keep_history:
            history["input_subspaces"] = [pair[0] for pair in subspaces]
            history["output_subspaces"] = [pair[1] for pair in subspaces]
        return Fit(
            status="singular" if singular else "stopped",
            message=_SINGULAR if singular else f"max_sweeps = {self.max_sweeps} sweeps on fresh samples.",
            input_subspace=u,
            output_subspace=v,
            cores=point.cores,
            pretrained=data.pretrained,
            sweeps=self.max_sweeps,
            history=history,
        )


_SINGULAR = "a least-squares step was rank deficient; its minimum-norm solution was taken."


def warm_up(model: SharedModel, u: Array, v: Array, strength: float, sweeps: int = 60) -> tuple[Array, Array]:
    """Improve a poor start by sweeps whose cores are shrunken (ridge) in proportion to the misfit.

    With few samples per user exact cores fit the error of U instead of the signal, which makes local minima. The
    ridge penalty is `strength` × (residual variance)/(variance of a core's entry), both estimated from the data,
    so it fades by itself as the fit improves.
    """
    rows = max(model.counts.sum(), 1.0)
    covariate_power = sum(float(np.vdot(model.x[b], model.x[b])) for b in model.blocks()) / model.x.shape[2]
    response_power = float(np.vdot(model.y, model.y))
    if covariate_power == 0.0 or response_power == 0.0:
        return u, v
    core_power = response_power / (covariate_power * u.shape[1] * v.shape[1])
    variance = response_power / (rows * model.y.shape[2])
    before = np.inf
    for _ in range(sweeps):
        point = model.evaluate(u, v, ridge=max(strength * variance / core_power, 1e-300))
        change, _ = model.solve_input(point.cores, v, point.moments, 0.1)
        u, triangle = np.linalg.qr(u + change)
        if v.shape[1] < model.p:
            v = np.linalg.qr(model.solve_output(u, triangle @ point.cores, v, 0.1)[0])[0]
        variance = point.objective / (rows * model.y.shape[2])
        if point.objective > (1.0 - 1e-4) * before:
            break
        before = point.objective
    return u, v


@dataclass(eq=False)
class _Run:
    """One descent from one start."""

    rule: AltMin
    model: SharedModel
    u: Array
    v: Array
    sweeps: int = 0
    converged: bool = False
    singular: bool = False
    objectives: list[float] = field(default_factory=list)
    half_steps: list[str] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    subspaces: list[tuple[Array, Array]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first = (self.u, self.v)
        self.point = self._evaluate()

    def _evaluate(self) -> Point:
        point = self.model.evaluate(self.u, self.v)
        self._record("cores", point.objective)
        if self.rule.keep_history:
            self.subspaces.append((self.u, self.v))
        return point

    def _record(self, half_step: str, objective: float) -> None:
        self.half_steps.append(half_step)
        self.objectives.append(objective)

    def advance(self, sweeps: int) -> None:
        """Sweep until the stop rule, or until `sweeps` sweeps (counted from the start) are done."""
        while not self.converged and self.sweeps < min(sweeps, self.rule.max_sweeps):
            self._sweep()

    def _sweep(self) -> None:
        model, rule, old = self.model, self.rule, (self.u, self.v)
        tol = rule.inner_tol
        if tol is None:
            tol = min([0.1, *self.changes[-1:]])
        change, self.singular = model.solve_input(self.point.cores, self.v, self.point.moments, tol)
        self.u, triangle = np.linalg.qr(self.u + change)
        cores = triangle @ self.point.cores
        if self.v.shape[1] < model.p:
            raw, objective, singular = model.solve_output(self.u, cores, self.v, tol)
            self.singular |= singular
            self.v, triangle = np.linalg.qr(raw)
            cores = cores @ triangle.T
            if rule.keep_history:
                self._record("input_subspace", objective)
        if rule.keep_history:
            last = "input_subspace" if self.v.shape[1] == model.p else "output_subspace"
            self._record(last, model.residual_moments(np.matmul(self.u @ cores, self.v.T))[1])
        self.changes.append(float(np.hypot(_moved(*old[:1], self.u), _moved(*old[1:], self.v))))
        self.point = self._evaluate()
        self.sweeps += 1
        self.converged = self._remaining() <= max(
            rule.tol, rule.noise_tol * statistical_error(self.model, self.point)
        )

    def _remaining(self) -> float:
        """Estimated distance to the limit: geometric extrapolation of the last two changes."""
        if self._at_rounding():
            return 0.0
        if len(self.changes) < 2:
            return np.inf if self.changes[-1] > 0 else 0.0
        before, last = self.changes[-2:]
        if last >= before:
            return np.inf if last > 0 else 0.0
        return last * last / (before - last)

    def _at_rounding(self) -> bool:
        """Whether five sweeps changed the objective by no more than rounding does."""
        cores = [value for name, value in zip(self.half_steps, self.objectives, strict=True) if name == "cores"]
        return len(cores) > 5 and cores[-1] >= (1.0 - 1e-14) * cores[-6]

    @property
    def slow(self) -> bool:
        """Whether the last five sweeps contracted slowly."""
        if self.converged or len(self.changes) < 6:
            return False
        return self.changes[-1] > self.rule.SLOW**5 * self.changes[-6]

    def fit(self, data: Dataset, contestants: int) -> Fit:
        history: dict[str, Any] = {
            "objective": np.array(self.objectives),
            "change": np.array(self.changes),
            "contestants": contestants,
        }
        if self.rule.keep_history:
            history["half_step"] = list(self.half_steps)
            history["input_subspaces"] = [pair[0] for pair in self.subspaces]
            history["output_subspaces"] = [pair[1] for pair in self.subspaces]
        status, message = "converged", ""
        if not self.converged:
            status, message = "stopped", f"max_sweeps = {self.rule.max_sweeps} reached before the stop rule."
        if self.singular or self.point.deficient.any():
            status, message = "singular", _SINGULAR
        unknowns = degrees_of_freedom(self.model, self.point.cores)
        if self.model.num_observations < unknowns:
            status = "singular"
            message = f"{self.model.num_observations} observations cannot determine {unknowns} degrees of freedom."
        return Fit(
            status=status,
            message=message,
            input_subspace=self.u,
            output_subspace=self.v,
            cores=self.point.cores,
            pretrained=data.pretrained,
            sweeps=self.sweeps,
            history=history,
        )


def _moved(old: Array, new: Array) -> float:
    """Root of the summed squared sines between two orthonormal bases."""
    return float(np.linalg.norm(new - old @ (old.T @ new)))
