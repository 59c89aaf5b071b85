"""Hyper-parameters by maximum marginal likelihood: well-scaled coordinates, and the climb."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy
from scipy.linalg import LinAlgError

from colora_theory.estimators.marginal_likelihood import Gradient, Hyper, RotatedRows, with_gradient
from colora_theory.estimators.weak_priors import Rules, penalty, weights_of_rows
from colora_theory.model.linalg import Array

_log = logging.getLogger(__name__)

#: Variances relative to the mean square of the responses between which the search stays.
_LEAST, _MOST = 1e-15, 1e8
#: Ratio of the cores' least variance to the largest above which S alone gives their factor to some ten digits.
_ORDINARY = 1e-6
#: Condition number of the cores' factor beyond which no search goes: rounding would decide log det S there.
_SINGULAR = 1e8
#: Farthest from an optimum, in standard errors of each parameter, at which the search may end.
_NEAR = 1e-3


def target(rows: RotatedRows, hyper: Hyper, rules: Rules) -> tuple[float, Gradient]:
    """What is maximised: the log marginal likelihood with the weak priors, and its gradient."""
    value, total = with_gradient(rows, hyper, rules.free_mean)
    return value + penalty(rows, hyper, rules, total), total


def gauged(hyper: Hyper) -> Hyper:
    """The same prior with orthonormal U and V along the principal axes of the cores.

    The cores' factor L gets orthogonal columns where S = LLᵀ tells the least variance from rounding. Elsewhere it
    is only turned, which keeps the last digits of every column: `target` stays as it was.
    """
    r1, r2 = hyper.rank
    if r1 == 0:
        return hyper
    (u, left), (v, right) = np.linalg.qr(hyper.u), np.linalg.qr(hyper.v)
    loads = np.einsum("ab,bjr,lj->alr", left, hyper.core.reshape(r1, r2, -1), right)
    turn_u = np.linalg.eigh(np.einsum("ajr,cjr->ac", loads, loads))[1][:, ::-1]
    turn_v = np.linalg.eigh(np.einsum("ajr,alr->jl", loads, loads))[1][:, ::-1]
    if r2 == len(v) and hyper.v.shape == v.shape and np.array_equal(hyper.v, np.eye(len(v))):
        v, turn_v = np.eye(len(v)), np.eye(len(v))
        loads = np.einsum("ab,bjr->ajr", left, hyper.core.reshape(r1, r2, -1))
    core = np.einsum("ba,bjr,jl->alr", turn_u, loads, turn_v).reshape(r1 * r2, -1)
    values, vectors = np.linalg.eigh(core @ core.T)
    if values[0] > _ORDINARY * values[-1]:
        core = vectors * np.sqrt(values)
    return replace(hyper, u=u @ turn_u, v=v @ turn_v, core=core)


def _condition(hyper: Hyper) -> float:
    """Condition number of the cores' factor."""
    return float(np.linalg.cond(hyper.core)) if hyper.rank[0] else 1.0


class Coordinates:
    """A vector of parameters around one point, each measured in about its standard error.

    Loadings move by their information, the core factor relative to itself (L0 (I + Δ)), variances in logarithms,
    the mean inside span(U), where users differ much, and outside it apart.
    """

    def __init__(self, rows: RotatedRows, origin: Hyper, rules: Rules) -> None:
        self.rows, self.origin, self.rules = rows, origin, rules
        k, (r1, r2) = len(rows.x), origin.rank
        w = weights_of_rows(rows, origin)
        strength = rows.squares * w
        information = max(float(strength.sum()) / rows.x.shape[2], 1e-300)
        t = rows.y.shape[2]
        self.slices: dict[str, slice] = {}
        scales: list[Array] = []

        def part(name: str, scale: Array) -> None:
            start = sum(map(len, scales))
            self.slices[name] = slice(start, start + scale.size)
            scales.append(scale.ravel())

        s = (origin.core @ origin.core.T).reshape(r1, r2, r1, r2)
        if 0 < r1 < rows.d:
            each = np.einsum("ajaj->a", s)
            part("u", np.tile(1.0 / np.sqrt(each * information + rows.d), (rows.d, 1)))
        if 0 < r2 < rows.p:
            each = np.einsum("ajaj->j", s)
            part("v", np.tile(1.0 / np.sqrt(each * information + rows.p), (rows.p, 1)))
        if r1:
            part("core", np.full((r1 * r2, r1 * r2), 1.0 / np.sqrt(2.0 * k)))
        if len(origin.own):
            part("own", np.full(len(origin.own), 1.0 / np.sqrt(0.5 * k)))
        if rules.free_mean:
            own = 1.0 / (k / max(origin.tau2, 1e-300) + information) + 1.0 / information
            part("mean", np.full((rows.d, rows.p), np.sqrt(own)))
            if r1:
                part("shared_mean", np.full(r1 * r2, 1.0 / np.sqrt(k)))
        strayed = ((origin.tau2 * origin.stretch[:, None] * strength) ** 2).sum()
        part("tau2", np.array([1.0 / np.sqrt(0.5 * t * float(strayed) + 0.5)]))
        left = np.maximum(rows.counts - w.shape[1], 0.0)
        noise = 0.5 * t * (((origin.sigma2[:, None] * w) ** 2).sum(1) + left) + 0.5
        part("sigma2", 1.0 / np.sqrt(noise if rules.per_user else np.array([noise.sum()])))
        self.scales = np.concatenate(scales)

    def bounds(self) -> list[tuple[float | None, float | None]]:
        """Bounds of the variances; everything else is free."""
        out: list[tuple[float | None, float | None]] = [(None, None)] * len(self.scales)
        for name, values in (("tau2", np.array([self.origin.tau2])), ("sigma2", self._sigma2())):
            for j, value in zip(range(self.slices[name].start, self.slices[name].stop), values, strict=True):
                low, high = np.log(_LEAST / value) / self.scales[j], np.log(_MOST / value) / self.scales[j]
                out[j] = (min(float(low), 0.0), max(float(high), 0.0))
        return out

    def _sigma2(self) -> Array:
        return self.origin.sigma2 if self.rules.per_user else self.origin.sigma2[:1]

    def hyper(self, vector: Array) -> Hyper:
        """The parameters at a vector."""
        moved = vector * self.scales
        at, origin = self.slices, self.origin
        changed: dict[str, Any] = {
            "tau2": origin.tau2 * float(np.exp(moved[at["tau2"]][0])),
            "sigma2": origin.sigma2 * np.exp(moved[at["sigma2"]]),
        }
        if "u" in at:
            changed["u"] = origin.u + moved[at["u"]].reshape(origin.u.shape)
        if "v" in at:
            changed["v"] = origin.v + moved[at["v"]].reshape(origin.v.shape)
        if "core" in at:
            changed["core"] = origin.core + origin.core @ moved[at["core"]].reshape(origin.core.shape)
        if "own" in at:
            changed["own"] = origin.own * np.exp(moved[at["own"]])
        if "mean" in at:
            mean = origin.mean + moved[at["mean"]].reshape(origin.mean.shape)
            if "shared_mean" in at:
                core = (origin.core @ moved[at["shared_mean"]]).reshape(origin.rank)
                mean = mean + origin.u @ core @ origin.v.T
            changed["mean"] = mean
        return replace(origin, **changed)

    def pull(self, gradient: Gradient, hyper: Hyper) -> Array:
        """Derivatives with respect to the vector."""
        out, at, origin = np.empty_like(self.scales), self.slices, self.origin
        out[at["tau2"]] = gradient.tau2 * hyper.tau2
        noise = gradient.sigma2 * hyper.sigma2
        out[at["sigma2"]] = noise if self.rules.per_user else noise.sum()
        if "u" in at:
            out[at["u"]] = gradient.u.ravel()
        if "v" in at:
            out[at["v"]] = gradient.v.ravel()
        if "core" in at:
            out[at["core"]] = (origin.core.T @ gradient.core).ravel()
        if "own" in at:
            out[at["own"]] = gradient.own * hyper.own
        if "mean" in at:
            out[at["mean"]] = gradient.mean.ravel()
            if "shared_mean" in at:
                out[at["shared_mean"]] = origin.core.T @ (origin.u.T @ gradient.mean @ origin.v).ravel()
        return out * self.scales


@dataclass(eq=False)
class Climb:
    """Where a search is: never lower than where it came from.

    Attributes
    ----------
    hyper, value : the point and its target.
    values : the target after every step.
    steepness : largest derivative, per standard error of its parameter.
    converged : whether the derivatives vanish as asked for.
    """

    hyper: Hyper
    value: float = -np.inf
    values: list[float] = field(default_factory=list)
    steepness: float = np.inf
    converged: bool = False

    @property
    def sweeps(self) -> int:
        """Steps taken."""
        return len(self.values)


def aim(rows: RotatedRows, tol: float) -> float:
    """Largest derivative, per standard error of its parameter, at which to end; `tol` is per observation."""
    return min(tol * max(rows.num_observations, 1.0), max(_NEAR, tol))


def climb(
    rows: RotatedRows,
    start: Hyper,
    rules: Rules,
    goal: float,
    most: int,
    ways: int = 10,
    floor: float = -np.inf,
) -> Climb:
    """Maximise the target by L-BFGS with restarts in fresh coordinates; every step accepted raises it.

    Parameters
    ----------
    goal : largest derivative, per standard error of its parameter, at the end.
    most : most steps.
    ways : steps before the first change of coordinates; then twice as many, and so on.
    floor : target below which the point is of no use: the climb ends where twice the last round's gain would stay
        below it.
    """
    state = Climb(gauged(start))
    stuck = 0
    while state.sweeps < most and not state.converged and stuck < 2:
        steps = min(ways, most - state.sweeps)
        before = state.value
        gained = _round(rows, state, rules, goal, steps)
        if np.isfinite(before) and state.value + 2.0 * (state.value - before) < floor:
            break
        stuck = 0 if gained or state.converged else stuck + 1
        ways *= 2
    return state


def _round(rows: RotatedRows, state: Climb, rules: Rules, goal: float, steps: int) -> bool:
    """One run of L-BFGS from the present point; returns whether it got anywhere."""
    frame = Coordinates(rows, state.hyper, rules)
    bounds = frame.bounds()
    low = np.array([-np.inf if b[0] is None else b[0] for b in bounds])
    high = np.array([np.inf if b[1] is None else b[1] for b in bounds])
    singular = max(_SINGULAR, 1.01 * _condition(state.hyper)) if rules.priors else np.inf

    def descend(vector: Array) -> tuple[float, Array]:
        try:
            with np.errstate(all="ignore"):
                hyper = frame.hyper(vector)
                if rules.priors and _condition(hyper) > singular:
                    return 1e300, np.zeros_like(vector)
                value, gradient = target(rows, hyper, rules)
                slope = frame.pull(gradient, hyper)
        except (LinAlgError, np.linalg.LinAlgError):
            return 1e300, np.zeros_like(vector)
        if not (np.isfinite(value) and np.isfinite(slope).all()):
            return 1e300, np.zeros_like(vector)
        return -value, -slope

    before = state.value
    values: list[float] = []

    def note(intermediate_result: object) -> None:
        values.append(-float(intermediate_result.fun))  # type: ignore[attr-defined]
        step = len(state.values) + len(values)
        _log.info("prior of rank %d, step %d: log posterior %.8g", state.hyper.rank[0], step, values[-1])

    found = scipy.optimize.minimize(
        descend,
        np.zeros(len(frame.scales)),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        callback=note,
        options={
            "maxiter": steps,
            "maxcor": 20,
            "gtol": goal,
            "ftol": 0.0,
            "maxls": 40,
            "maxfun": 10 * steps + 50,
        },
    )
    value = -float(found.fun)
    if not np.isfinite(value) or value <= -1e299 or (found.nit and value < before):
        return False
    vector = np.asarray(found.x)
    slope = np.asarray(found.jac)
    projected = np.clip(vector - slope, low, high) - vector
    state.steepness = float(np.abs(projected).max(initial=0.0))
    state.converged = state.steepness <= goal
    state.hyper = gauged(frame.hyper(vector))
    state.values.extend(values)
    state.value = max(value, before)  # the same point in other coordinates may round to less
    return value > before + 1e-13 * abs(before) if np.isfinite(before) else True
