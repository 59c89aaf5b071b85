"""The population that a fit describes: a mixture of priors, and the posterior of any user given its rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import scipy
from numpy.typing import NDArray

from colora_theory.errors import InputError
from colora_theory.estimators.base import Fit
from colora_theory.estimators.marginal_likelihood import Hyper, RotatedRows, Seen, Users
from colora_theory.estimators.posterior import likelihoods, mixed_mean, scores
from colora_theory.model.linalg import Array
from colora_theory.regression.user_rows import take

#: Chance of a factor of τ² from which on it counts in variances.
_SEEN = 1e-3
#: Posterior probability of a prior from which on it is kept.
_KEPT = 0.02
#: Most common sizes of deviations that are averaged over.
_COMMON = 6
#: Most users that are asked whether they differ in noise or in deviations.
_TELLING = 400
#: Weights, dim_in × dim_out, up to which the uncertainty of the population's mean is computed.
_DENSE = 2000


@dataclass(frozen=True, eq=False)
class Component:
    """One prior of the mixture, in internal units.

    Attributes
    ----------
    share : its posterior probability.
    hyper : the prior; `stretch` and `sigma2` of its first user hold for users never seen.
    factors, chances : a new user's τ² is factors[j] times the prior's with probability chances[j].
    """

    share: float
    hyper: Hyper
    factors: Array
    chances: Array

    def at(self, rows: RotatedRows, known: Array | None = None) -> tuple[Hyper, Array]:
        """The prior for these users, and their posterior probabilities of the factors, shape (k, factors).

        `known` are noise variances, shape (k,), where users have their own.
        """
        k = len(rows.x)
        noise = np.full(k, float(self.hyper.sigma2.mean())) if known is None else known
        hyper = replace(self.hyper, stretch=np.full(k, self.hyper.stretch[0]), sigma2=noise)
        logs = likelihoods(rows, hyper, self.factors) + np.log(np.maximum(self.chances, 1e-300))
        shares = np.exp(logs - logs.max(1, keepdims=True))
        return hyper, shares / shares.sum(1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Population:
    """Prior of users' weights in internal units (x / units, y / size of standard units).

    Attributes
    ----------
    components : the mixture; the first is the most probable one.
    units : shape (inputs,). size : of the responses.
    mean_covariance : of the estimated population mean, shape (inputs·dim_out, inputs·dim_out), or None.
    """

    components: tuple[Component, ...]
    units: Array
    size: float
    mean_covariance: Array | None

    @property
    def back(self) -> Array:
        """Factor from internal weights to standard ones, shape (inputs, 1)."""
        return (self.size / self.units)[:, None]

    def mean(self) -> Array:
        """The population's weights in standard units, shape (inputs, dim_out)."""
        return self.back * np.sum([c.share * c.hyper.mean for c in self.components], axis=0)

    def noise(self, known: Array | None) -> Array:
        """Noise variances in internal units: of single users where known, else the common one, shape (1,)."""
        if known is not None:
            return known
        return self.components[0].hyper.sigma2.mean(keepdims=True)

    def weights(self, rows: RotatedRows, known: Array | None = None) -> Array:
        """Posterior means in standard units, shape (k, inputs, dim_out)."""
        total = np.zeros((len(rows.x), rows.d, rows.p))
        for c in self.components:
            hyper, shares = c.at(rows, known)
            total += c.share * mixed_mean(rows, hyper, c.factors, shares)[0]
        return self.back * total

    def covariances(self, rows: RotatedRows, known: Array | None = None) -> Array:
        """Posterior covariances of vec(weights) in internal units, shape (k, inputs·dim_out, same).

        Within every prior, between priors, and of the population's mean; exact given the variances.
        """
        k, size = len(rows.x), rows.d * rows.p
        mean, square = np.zeros((k, size)), np.zeros((k, size, size))
        for c in self.components:
            hyper, shares = c.at(rows, known)
            for j in np.flatnonzero(shares.max(0, initial=0.0) > _SEEN):
                users = Users(Seen(rows, hyper, slice(None)), c.factors[j] * hyper.tau2 * hyper.stretch)
                share = c.share * shares[:, j]
                at = users.weights(hyper.mean).reshape(k, size)
                mean += share[:, None] * at
                square += share[:, None, None] * (_covariance(users) + at[:, :, None] * at[:, None, :])
        total = square - mean[:, :, None] * mean[:, None, :]
        if self.mean_covariance is not None:
            total += self._of_mean(rows, known)
        return total

    def effective(self, rows: RotatedRows, known: Array | None = None) -> Array:
        """Effective number of parameters of every user, tr(Γ X_iᵀM_i⁻¹X_i), shape (k,).

        0: the user is predicted by the population; the number of inputs (times outputs): by its own rows alone.
        """
        leader = self.components[0]
        hyper, shares = leader.at(rows, known)
        out, size = np.empty(len(rows.x)), rows.d * rows.p
        step = max(1, (1 << 22) // size**2)
        tau2 = (shares @ leader.factors) * hyper.tau2 * hyper.stretch
        for first in range(0, len(rows.x), step):
            block = slice(first, first + step)
            users = Users(Seen(rows, hyper, block), tau2[block])
            loads = np.einsum("da,abr,pb->dpr", users.u, users.loads, users.v).reshape(size, -1)
            known_of = precisions(users)
            out[block] = np.einsum("xr,kxr->k", loads, known_of @ loads)
            out[block] += tau2[block] * np.einsum("kxx->k", known_of)
        return out

    def _of_mean(self, rows: RotatedRows, known: Array | None) -> Array:
        """What the uncertainty of μ adds: a change δ moves the posterior mean by (I − Γ X_iᵀM_i⁻¹X_i) δ."""
        leader = self.components[0]
        hyper, shares = leader.at(rows, known)
        tau2 = (shares @ leader.factors) * hyper.tau2 * hyper.stretch
        users = Users(Seen(rows, hyper, slice(None)), tau2)
        size = rows.d * rows.p
        loads = np.einsum("da,abr,pb->dpr", users.u, users.loads, users.v).reshape(size, -1)
        gamma = loads @ loads.T + tau2[:, None, None] * np.eye(size)
        left = np.eye(size) - gamma @ precisions(users)
        return np.asarray(left @ self.mean_covariance @ left.swapaxes(1, 2))


def _covariance(users: Users) -> Array:
    """Posterior covariances of vec(W_i), rows of W one after the other, shape (k, d·p, d·p)."""
    tau2, p = users.tau2, users.p
    k, d = len(users.x), users.d
    alone = users.x.swapaxes(1, 2) @ ((users.w * tau2**2)[:, :, None] * users.x)
    alone = tau2[:, :, None] * np.eye(d) - alone
    seen = tau2[:, :, None] * (users.x.swapaxes(1, 2) @ (users.w[:, :, None] * users.features))
    part = np.einsum("kda,abr,pb->kdpr", users.u - seen, users.loads, users.v, optimize=True)
    part = part.reshape(k, d * p, -1)
    total = part @ users.inverse @ part.swapaxes(1, 2)
    return np.asarray(total + (alone if p == 1 else np.kron(alone, np.eye(p))))


def precisions(users: Users) -> Array:
    """X_iᵀM_i⁻¹X_i for all users, M_i the marginal covariance of the responses; shape (k, d·p, d·p)."""
    k, d, p = len(users.x), users.d, users.p
    plain = users.x.swapaxes(1, 2) @ (users.w[:, :, None] * users.x)
    heard = users.x.swapaxes(1, 2) @ (users.w[:, :, None] * users.features)
    part = np.einsum("kda,abr,pb->kdpr", heard, users.loads, users.v, optimize=True).reshape(k, d * p, -1)
    whole = plain if p == 1 else np.kron(plain, np.eye(p))
    return np.asarray(whole - part @ users.inverse @ part.swapaxes(1, 2))


def population_of(
    fit: Fit, pretrained: Array | None, unshrunk: tuple[int, ...]
) -> tuple[Population, RotatedRows, Array | None]:
    """The population that a fit of `hierarchical` describes, its users' rows in internal units, and their noise.

    The noise is that of every user, shape (k,), where it differs between them, else None.

    Parameters
    ----------
    pretrained : the mean that the fit started from, standard units, or None.
    unshrunk : inputs (an intercept) whose mean is not drawn to zero.

    The population's mean is estimated by generalised least squares with a Gaussian prior around zero whose
    variance has the largest marginal likelihood: with few rows it is shrunken, with many it is not.
    """
    if not isinstance(fit.uncertainty, partial):
        raise InputError("estimator must be 'hierarchical' for a population of users, got a fit without a prior.")
    averaged = fit.uncertainty.args[0]
    rows: RotatedRows = averaged.rows
    units_over_size = 1.0 / averaged.back[:, 0]
    size = float(np.sqrt((averaged.back**2).mean()))
    units = size * units_over_size
    start = np.zeros((rows.d, rows.p))
    if pretrained is not None:
        start = pretrained / averaged.back
        rows = replace(rows, y=rows.y + rows.x @ start)
    found: list[Component] = []
    covariance = None
    priors = sorted(averaged.priors, key=lambda each: -each[0])
    leader = priors[0][1]
    noise = _noise_of_users(rows, replace(leader.hyper, mean=leader.hyper.mean + start), leader.factors)
    for share, prior in priors:
        if share < _KEPT:
            continue
        hyper = replace(prior.hyper, mean=prior.hyper.mean + start)
        hyper = hyper if noise is None else replace(hyper, sigma2=noise)
        for part, factors, chances in _scales(rows, hyper, prior.factors, noise):
            at = hyper
            if rows.d * rows.p <= _DENSE:
                typical = replace(hyper, tau2=hyper.tau2 * float(chances @ factors))
                mean, spread = _population_mean(rows, typical, unshrunk)
                at = replace(hyper, mean=mean)
                covariance = spread if covariance is None else covariance
            found.append(Component(share * part, at, factors, chances))
    whole = sum(each.share for each in found)
    found = [replace(each, share=each.share / whole) for each in found]
    return Population(tuple(found), units, size, covariance), rows, noise


def _noise_of_users(rows: RotatedRows, hyper: Hyper, factors: Array) -> Array | None:
    """Users' noise variances, shape (k,), where these differ rather than the sizes of users' deviations.

    Users with more noise look like users that stray: were they given larger τ², their noise would be learned. The
    two are weighed by marginal likelihood, deviations of one size being as large as suits them; None: they stray.
    Where the fit gave users noise of their own, the mean of its posterior replaces the most probable value.
    """
    differs = np.ptp(hyper.sigma2) > 0.0
    if not differs and (not hyper.stretch.any() or len(factors) == 1):
        return None
    if differs:
        hyper = replace(hyper, sigma2=np.full(len(rows.x), np.exp(np.log(hyper.sigma2).mean())))
    some = take(rows, np.arange(0, len(rows.x), -(-len(rows.x) // _TELLING)))
    few = replace(hyper, sigma2=hyper.sigma2[: len(some.x)], stretch=hyper.stretch[: len(some.x)])
    straying = -np.inf if differs else scale_prior(likelihoods(some, few, factors), _logs(factors))[0]
    sizes = [hyper.tau2 * factor for factor in (0.0, *factors[1::4])]
    coarse = np.log(2.0) * np.arange(-4.0, 5.0)
    noisy = [scale_prior(_by_noise(some, replace(few, tau2=size), coarse), coarse)[0] for size in sizes]
    if max(noisy) <= straying:
        return None
    fine = 0.5 * np.log(2.0) * np.arange(-8.0, 9.0)
    table = _by_noise(rows, replace(hyper, tau2=sizes[int(np.argmax(noisy))]), fine)
    table = np.nan_to_num(table, nan=-1e300, neginf=-1e300)
    shares = np.exp(table - table.max(1, keepdims=True)) * scale_prior(table, fine)[1]
    shares /= shares.sum(1, keepdims=True)
    return np.asarray(hyper.sigma2 * (shares @ np.exp(fine)))


def _by_noise(rows: RotatedRows, hyper: Hyper, logs: Array) -> Array:
    """Log likelihood of every user at noise variances scaled by exp(logs), shape (k, scales)."""
    one = np.ones(1)
    at = [likelihoods(rows, replace(hyper, sigma2=hyper.sigma2 * np.exp(log)), one) for log in logs]
    return np.concatenate(at, axis=1)


def _scales(
    rows: RotatedRows, hyper: Hyper, factors: Array, noise: Array | None
) -> list[tuple[float, Array, Array]]:
    """Parts of a prior: their shares, factors of τ² and chances; common factors where the noise differs."""
    if len(factors) == 1:
        return [(1.0, factors, np.ones(1))]
    table = likelihoods(rows, hyper, factors)
    if noise is None:
        return [(1.0, factors, scale_prior(table, _logs(factors))[1])]
    totals = np.nan_to_num(table.sum(0), nan=-np.inf)
    if not np.isfinite(totals.max()):
        return [(1.0, np.ones(1), np.ones(1))]
    shares = np.exp(totals - totals.max())
    kept = [j for j in np.argsort(-shares)[:_COMMON] if shares[j] > _KEPT]
    whole = float(shares[kept].sum())
    return [(float(shares[j]) / whole, factors[j : j + 1], np.ones(1)) for j in kept]


def _logs(factors: Array) -> Array:
    """Logarithms of factors, of 0 as if it were one step below the smallest other one."""
    positive = factors[factors > 0]
    least = float(np.log(positive.min())) - 0.5 * np.log(2.0)
    return np.where(factors > 0, np.log(np.maximum(factors, 1e-300)), least)


def scale_prior(table: Array, logs: Array) -> tuple[float, Array]:
    """Log evidence that users' scales are log-normal on a grid, and the distribution that follows.

    Parameters
    ----------
    table : log likelihoods of every user at every scale, shape (k, scales). logs : logarithms of the scales.

    Spread (0 among others) and location are averaged over.
    """
    table = np.nan_to_num(table, nan=-1e300, neginf=-1e300)  # variances too small for floating point
    priors = []
    for centre in logs:
        for spread in (0.0, 0.5, 1.0, 2.0):
            distance = np.abs(logs - centre)
            weight = np.exp(-0.5 * (distance / spread) ** 2) if spread else (distance == 0.0).astype(float)
            priors.append(weight / weight.sum())
    top = table.max(1, keepdims=True)
    scaled = np.exp(table - top)
    with np.errstate(divide="ignore"):
        totals = np.array([float(np.log(scaled @ prior).sum()) for prior in priors])
    chance = np.exp(totals - totals.max())
    evidence = float(top.sum() + totals.max() + np.log(chance.mean()))
    return evidence, np.asarray((chance / chance.sum()) @ np.array(priors))


def _population_mean(rows: RotatedRows, typical: Hyper, unshrunk: tuple[int, ...]) -> tuple[Array, Array]:
    """Posterior mean (d, p) and covariance (d·p, d·p) of μ given the variances."""
    size = rows.d * rows.p
    information = np.zeros((size, size))
    step = max(1, (1 << 22) // size**2)
    for first in range(0, len(rows.x), step):
        block = slice(first, first + step)
        users = Users(Seen(rows, typical, block), typical.tau2 * typical.stretch[block])
        information += precisions(users).sum(0)
    score = scores(rows, typical)[0].sum(0).reshape(-1)
    moment = information @ typical.mean.reshape(-1) + score
    free = np.zeros((rows.d, rows.p), dtype=bool)
    free[list(unshrunk)] = True
    shrunk, fixed = np.flatnonzero(~free.reshape(-1)), np.flatnonzero(free.reshape(-1))
    precision = _strength(information, moment, shrunk, fixed)
    total = information.copy()
    total[shrunk, shrunk] += precision
    covariance: Array = np.asarray(np.linalg.pinv(total, rcond=1e-13, hermitian=True), dtype=np.float64)
    return (covariance @ moment).reshape(rows.d, rows.p), covariance


def _strength(information: Array, moment: Array, shrunk: NDArray[np.intp], fixed: NDArray[np.intp]) -> float:
    """Precision of the prior around zero of the entries `shrunk` of μ, by its marginal likelihood."""
    if not len(shrunk):
        return 0.0
    k_ss, b_s = information[np.ix_(shrunk, shrunk)], moment[shrunk]
    if len(fixed):
        cross = information[np.ix_(shrunk, fixed)]
        inverse = np.linalg.pinv(information[np.ix_(fixed, fixed)], hermitian=True)
        k_ss, b_s = k_ss - cross @ inverse @ cross.T, b_s - cross @ inverse @ moment[fixed]
    values, vectors = np.linalg.eigh(k_ss)
    seen = values > 1e-12 * max(float(values[-1]), 1e-300)
    if not seen.any():
        return 0.0
    values, ratio = values[seen], (vectors.T @ b_s)[seen] ** 2 / values[seen]

    def cost(log_variance: float) -> float:
        spread = 1.0 + values * np.exp(log_variance)
        return float((np.log(spread) + ratio / spread).sum())

    middle = -float(np.log(values).mean())
    found = scipy.optimize.minimize_scalar(cost, bounds=(middle - 14.0, middle + 28.0), method="bounded")
    return float(np.exp(-found.x))
