"""Hyper-parameters by maximum marginal likelihood: weak priors, well-scaled coordinates, the climb.

Four weak priors replace what maximum likelihood cannot know. None has a scale of its own.

- Subspace: Laplace's approximation to the average over all U (uniform) instead of the best one,
  −½ (d − r1) Σ_a g(S_a t/d), g(x) = log(1 + x) + x/(1 + x), S_a the cores' variances and t the information per
  direction. It turns the likelihood of σ² into a restricted one (r1(d − r1) observations are spent on U), and is
  what a direction has to earn before it counts. Likewise for V.
- Shape of the cores' covariance S: as if one more user had been seen under a multiple of the identity.
- Signal: the share ρ of the responses' variance that weights explain has a density ∝ ρ(1 − ρ) on the logit scale,
  worth two observations, so that neither noise nor weights vanish by chance when there are few data.
- Noise of single users: log σ_i² around a common value with two pseudo-observations.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.linalg import LinAlgError
from scipy.optimize import minimize

from colora_theory.estimators.marginal_likelihood import Gradient, Hyper, RotatedRows, with_gradient
from colora_theory.model.linalg import Array

#: Variances relative to the mean square of the responses between which the search stays.
_LEAST, _MOST = 1e-15, 1e8
#: Weight of the prior on the shape of the cores' covariance, in users; of single users' noise, in observations.
_SHAPE, _NOISE = 1.0, 2.0
#: Farthest from an optimum, in standard errors of each parameter, at which the search may end.
_NEAR = 1e-3


@dataclass(frozen=True)
class Rules:
    """What is free, and whether the weak priors hold.

    Attributes
    ----------
    free_mean : whether μ is estimated (else it stays as it is).
    per_user : whether every user has a noise variance of its own.
    priors : False: plain maximum likelihood.
    volume : False: without the prior that averages over subspaces.
    """

    free_mean: bool = False
    per_user: bool = False
    priors: bool = True
    volume: bool = True


def weights_of_rows(rows: RotatedRows, hyper: Hyper) -> Array:
    """Inverse variances of the rotated rows without the shared part, shape (k, m)."""
    return 1.0 / (hyper.tau2 * hyper.stretch[:, None] * rows.squares + hyper.sigma2[:, None])


def penalty(rows: RotatedRows, hyper: Hyper, rules: Rules, total: Gradient) -> float:
    """Log of the weak priors; their derivatives are added to `total`."""
    if not rules.priors:
        return 0.0
    value = 0.0
    if rules.per_user:  # the common value of log σ_i² at its best
        level = 1.0 / np.mean(1.0 / hyper.sigma2)
        ratio = level / hyper.sigma2
        value -= 0.5 * _NOISE * float((ratio - 1.0 - np.log(ratio)).sum())
        total.sigma2 -= 0.5 * _NOISE * (1.0 - ratio) / hyper.sigma2
    r1, r2 = hyper.rank
    value += _signal(rows, hyper, total)
    if r1 == 0:
        return value
    a1, a2 = hyper.u.T @ hyper.u, hyper.v.T @ hyper.v
    core = hyper.core
    s = (core @ core.T).reshape(r1, r2, r1, r2)
    size = r1 * r2
    # shape of S: scale-free, R log(tr S/R) − log det S
    s_u, s_v = np.einsum("ajcl,jl->ac", s, a2), np.einsum("ajcl,ac->jl", s, a1)
    trace = float(np.vdot(a1, s_u))
    log_det = np.linalg.slogdet(core)[1] * 2 + r1 * np.linalg.slogdet(a2)[1] + r2 * np.linalg.slogdet(a1)[1]
    value -= 0.5 * _SHAPE * (size * np.log(trace / size) - log_det)
    rate = -0.5 * _SHAPE * size / trace
    total.u += 2.0 * rate * hyper.u @ s_u + _SHAPE * r2 * hyper.u @ np.linalg.inv(a1)
    total.v += 2.0 * rate * hyper.v @ s_v + _SHAPE * r1 * hyper.v @ np.linalg.inv(a2)
    total.core += 2.0 * rate * np.kron(a1, a2) @ core + _SHAPE * np.linalg.inv(core).T
    if not rules.volume:
        return value
    q = rows.x.shape[2]
    w = weights_of_rows(rows, hyper)
    information = float(np.vdot(rows.squares, w)) / q
    slope = rows.squares * w**2 / q
    turned = s.transpose(1, 0, 3, 2)  # the outputs' side of S
    for left, a_own, a_other, tensor, dim, outputs in (
        (True, a1, a2, s, rows.d, False),
        (False, a2, a1, turned, rows.p, True),
    ):
        r = len(a_own)
        if r == dim:
            continue
        scale, s_own = information / dim, s_v if outputs else s_u
        inverse = np.linalg.inv(np.eye(r) + scale * a_own @ s_own)
        value -= 0.5 * (dim - r) * (r - float(np.trace(inverse)) - np.linalg.slogdet(inverse)[1])
        both = inverse + inverse @ inverse
        y, x = s_own @ both, both @ a_own
        y, x = 0.5 * (y + y.T), 0.5 * (x + x.T)
        weight = -0.5 * (dim - r)
        other = np.einsum("ajcl,ac->jl", tensor, x)
        if left:
            total.u += 2.0 * weight * scale * hyper.u @ y
            total.v += 2.0 * weight * scale * hyper.v @ other
            total.core += 2.0 * weight * scale * np.kron(x, a_other) @ core
        else:
            total.v += 2.0 * weight * scale * hyper.v @ y
            total.u += 2.0 * weight * scale * hyper.u @ other
            total.core += 2.0 * weight * scale * np.kron(a_other, x) @ core
        d_information = weight * float(np.vdot(x, s_own)) / dim
        total.tau2 -= d_information * float(np.vdot(slope, rows.squares * hyper.stretch[:, None]))
        total.sigma2 -= d_information * slope.sum(1)
    return value


def _signal(rows: RotatedRows, hyper: Hyper, total: Gradient) -> float:
    """log ρ + log(1 − ρ), ρ = g/(g + σ̄²) with g the prior variance of a response less its mean and noise."""
    outputs = float(rows.p) if rows.regression else 1.0  # which share the cores' variance
    a1, a2 = hyper.u.T @ hyper.u, hyper.v.T @ hyper.v
    turned = np.kron(a1, a2) @ hyper.core
    shared = float(np.vdot(turned, hyper.core)) / outputs
    q, noise = rows.x.shape[2], float(hyper.sigma2.mean())
    stray = q * float(hyper.stretch.mean())
    signal = stray * hyper.tau2 + shared + float((hyper.own**2).sum()) * (1.0 if rows.regression else rows.p)
    if signal == 0.0:
        return 0.0
    whole = signal + noise
    slope = 1.0 / signal - 2.0 / whole
    total.tau2 += slope * stray
    total.own += 2.0 * slope * hyper.own * (1.0 if rows.regression else rows.p)
    total.sigma2 += (1.0 / noise - 2.0 / whole) / len(hyper.sigma2)
    if hyper.rank[0]:
        r1, r2 = hyper.rank
        s = (hyper.core @ hyper.core.T).reshape(r1, r2, r1, r2)
        total.u += 2.0 * slope / outputs * hyper.u @ np.einsum("ajcl,jl->ac", s, a2)
        total.v += 2.0 * slope / outputs * hyper.v @ np.einsum("ajcl,ac->jl", s, a1)
        total.core += 2.0 * slope / outputs * turned
    return float(np.log(signal) + np.log(noise) - 2.0 * np.log(whole))


def target(rows: RotatedRows, hyper: Hyper, rules: Rules) -> tuple[float, Gradient]:
    """What is maximised: the log marginal likelihood with the weak priors, and its gradient."""
    value, total = with_gradient(rows, hyper, rules.free_mean)
    return value + penalty(rows, hyper, rules, total), total


def gauged(hyper: Hyper) -> Hyper:
    """The same prior with orthonormal U and V along the principal axes of the cores."""
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
    floor = max(float(values[-1]), 1e-300) * 1e-14
    return replace(hyper, u=u @ turn_u, v=v @ turn_v, core=vectors * np.sqrt(np.maximum(values, floor)))


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
        out = replace(
            origin,
            tau2=origin.tau2 * float(np.exp(moved[at["tau2"]][0])),
            sigma2=origin.sigma2 * np.exp(moved[at["sigma2"]]),
        )
        if "u" in at:
            out = replace(out, u=origin.u + moved[at["u"]].reshape(origin.u.shape))
        if "v" in at:
            out = replace(out, v=origin.v + moved[at["v"]].reshape(origin.v.shape))
        if "core" in at:
            out = replace(out, core=origin.core + origin.core @ moved[at["core"]].reshape(origin.core.shape))
        if "own" in at:
            out = replace(out, own=origin.own * np.exp(moved[at["own"]]))
        if "mean" in at:
            mean = origin.mean + moved[at["mean"]].reshape(origin.mean.shape)
            if "shared_mean" in at:
                core = (origin.core @ moved[at["shared_mean"]]).reshape(origin.rank)
                mean = mean + origin.u @ core @ origin.v.T
            out = replace(out, mean=mean)
        return out

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


def climb(rows: RotatedRows, start: Hyper, rules: Rules, goal: float, most: int, ways: int = 10) -> Climb:
    """Maximise the target by L-BFGS with restarts in fresh coordinates; every step accepted raises it.

    Parameters
    ----------
    goal : largest derivative, per standard error of its parameter, at the end.
    most : most steps.
    ways : steps before the first change of coordinates; then twice as many, and so on.
    """
    state = Climb(gauged(start))
    stuck = 0
    while state.sweeps < most and not state.converged and stuck < 2:
        steps = min(ways, most - state.sweeps)
        gained = _round(rows, state, rules, goal, steps)
        stuck = 0 if gained or state.converged else stuck + 1
        ways *= 2
    return state


def _round(rows: RotatedRows, state: Climb, rules: Rules, goal: float, steps: int) -> bool:
    """One run of L-BFGS from the present point; returns whether it got anywhere."""
    frame = Coordinates(rows, state.hyper, rules)
    bounds = frame.bounds()
    low = np.array([-np.inf if b[0] is None else b[0] for b in bounds])
    high = np.array([np.inf if b[1] is None else b[1] for b in bounds])

    def descend(vector: Array) -> tuple[float, Array]:
        try:
            with np.errstate(all="ignore"):
                hyper = frame.hyper(vector)
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

    found = minimize(
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
    if not np.isfinite(value) or value <= -1e299 or value < before:
        return False
    vector = np.asarray(found.x)
    slope = np.asarray(found.jac)
    projected = np.clip(vector - slope, low, high) - vector
    state.steepness = float(np.abs(projected).max(initial=0.0))
    state.converged = state.steepness <= goal
    state.hyper = gauged(frame.hyper(vector))
    state.values.extend(values)
    state.value = value
    return value > before + 1e-13 * abs(before) if np.isfinite(before) else True
