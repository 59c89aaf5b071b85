"""Empirical Bayes: users' weights as draws from a common prior whose covariance is low-rank plus isotropic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from colora_theory.data import Dataset
from colora_theory.errors import InputError, nearest
from colora_theory.estimators.base import Estimator, Fit, register
from colora_theory.estimators.descent import check_integer, check_real
from colora_theory.estimators.hyper_parameters import Rules, Climb, climb
from colora_theory.estimators.marginal_likelihood import Hyper, RotatedRows, mixed_mean
from colora_theory.estimators.prior_evidence import Weighed, weighed
from colora_theory.estimators.prior_starts import alone, narrowed, promising, widened
from colora_theory.estimators.ranks import resolve_rank
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.linalg import Array

#: Log evidence by which a rank may fall behind the best and still be averaged over.
_BEHIND = 12.0
#: Tolerance while ranks compete, as a multiple of the final one, and most steps of one of them.
_LOOSE, _STEPS = 100.0, 60


@register
@dataclass(frozen=True, kw_only=True)
class Hierarchical(Estimator):
    """Empirical Bayes: what users share, how far they stray and the noise are estimated, then each user's posterior.

    Model       vec W_i ~ N(μ, Γ), Γ = (V⊗U) S (V⊗U)ᵀ + τ² I: cores with covariance S in shared subspaces, and
                deviations of every user from them; W_i − W_0 where a pretrained weight is known. Noise σ².
                τ = 0 is the shared model with shrunken cores (`altmin`), S = 0 is `ridge` at the strength of
                maximum likelihood, S = 0 = τ one pooled weight, τ = ∞ tuning alone; no samples: μ.
    Objective   The marginal likelihood of all responses, U averaged over instead of maximised (Laplace), with
                weak priors on the shape of S. Ranks 0, 1, … compete by it (and ½ log k per parameter of S), and
                the posterior means of those that are not beaten clearly are averaged with their probabilities.
    Algorithm   L-BFGS in coordinates of about one standard error each, from the leading directions of the
                deviations; every accepted step raises the objective. Covariates are divided by their columns'
                root mean squares, so that units do not matter (sensing: by a common one).
    Cost        Two products with the data per step, O(N d r), and one factorization per user, O(n d min(n, d)).
    Source      Laird & Ware 1982 (random effects); Tipping & Bishop 1999 (low-rank plus isotropic covariance);
                Minka 2000 (averaging over subspaces); docs/theory.md, "Empirical Bayes".

    Parameters
    ----------
    rank : r, (rank_in, rank_out), 0 (nothing shared but the prior's size), or "auto".
    mean : "zero" (relative to the pretrained weight) or "free", a common weight μ of all users.
    noise : "common" σ² or "per_user".
    own_columns : inputs, such as an intercept's, whose weights have a further variance of their own.
    priors : "weak", or "none" for plain maximum likelihood, which overfits when k·n is near the degrees of freedom.
    tol : largest derivative of the objective at the end, per standard error of its parameter and observation.
    max_sweeps : most steps for one rank.

    Fit.history holds "objective" (after every step of the most probable rank), "log_likelihood", "rank",
    "rank_probabilities" (rank_in → probability), "noise_std" (one number, or one per user), "deviation_std"
    (τ in the units of each input, shape (dim_in,)), "steepness" (the largest derivative at the end).
    """

    name: ClassVar[str] = "hierarchical"

    rank: int | tuple[int, int] | str | None = "auto"
    mean: str = "zero"
    noise: str = "common"
    own_columns: tuple[int, ...] = ()
    priors: str = "weak"
    tol: float = 1e-6
    max_sweeps: int = 1000

    def __post_init__(self) -> None:
        for name, words in (("mean", ("zero", "free")), ("noise", ("common", "per_user")), ("priors", ("weak", "none"))):
            value = getattr(self, name)
            if value not in words:
                raise InputError(f"{name} must be one of {', '.join(words)}, got {value!r}; {nearest(str(value), words)}")
        check_real("tol", self.tol)
        check_integer("max_sweeps", self.max_sweeps, 1)

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate the prior and every user's posterior mean; draws nothing."""
        rank = None if self.rank == "auto" else (0, 0) if _zero(self.rank) else resolve_rank(self.rank, data)
        columns = self._columns(data)
        model = SharedModel(data)
        units, size = internal_units(model)
        if size == 0.0:  # nothing to learn
            return Fit(
                status="converged", dense=np.zeros((model.k, model.d, model.p)), pretrained=data.pretrained
            )
        rows = RotatedRows.of(model, units, size)
        rules = Rules(self.mean == "free", self.noise == "per_user", self.priors == "weak")
        search = _Search(rows, rules, self.tol, self.max_sweeps, columns)
        search.run(rank)
        return _estimate(search, units, size, data)

    def _columns(self, data: Dataset) -> tuple[int, ...]:
        columns = tuple(self.own_columns)
        for j in columns:
            if isinstance(j, bool) or not isinstance(j, int | np.integer) or not 0 <= j < data.dim_in:
                raise InputError(f"own_columns must be integers from 0 to dim_in - 1 = {data.dim_in - 1}, got {j!r}.")
        if len(set(columns)) < len(columns):
            raise InputError(f"own_columns must name every input once, got {columns}.")
        return columns


def _zero(rank: object) -> bool:
    return isinstance(rank, int | np.integer) and not isinstance(rank, bool) and rank == 0


def internal_units(model: SharedModel) -> tuple[Array, float]:
    """Root mean squares of the covariates' columns, shape (q,), and of the responses.

    Sensing has one unit for all entries: single ones would break the model's two sides apart.
    """
    rows = max(float(model.counts.sum()), 1.0)
    energy = np.zeros(model.x.shape[2])
    for block in model.blocks:
        energy += np.einsum("kmq,kmq->q", model.x[block], model.x[block])
    units = np.sqrt(energy / rows)
    if not model.regression:
        units = np.full_like(units, np.sqrt((units**2).mean()))
    units[units == 0.0] = 1.0
    return units, float(np.sqrt(model.energy / max(model.num_observations, 1)))


class _Search:
    """The climbs of all ranks tried, and the log evidence of each."""

    def __init__(self, rows: RotatedRows, rules: Rules, tol: float, most: int, columns: tuple[int, ...]) -> None:
        self.rows, self.rules, self.tol, self.most = rows, rules, tol, most
        self.columns = columns
        self.climbs: dict[tuple[int, int], Climb] = {}
        self.weighed: dict[tuple[int, int], Weighed] = {}

    def run(self, rank: tuple[int, int] | None) -> None:
        """Climb at one rank, or at all that compete."""
        first = alone(self.rows, self.columns)
        if rank is not None:
            self._climb(rank, self._start_at(first, rank), self.tol, self.most)
            return
        loose = _LOOSE * self.tol
        self._climb((0, 0), first, loose, min(self.most, _STEPS))
        guess = promising(self.rows, self.climbs[(0, 0)].hyper)
        self._try(guess, (0, 0))
        r = guess
        while r > 1 and self.evidence(self._pair(r)) > self.best - _BEHIND:  # downwards
            r -= 1
            self._try(r, self._pair(r + 1))
        r = guess
        while self._allowed(r + 1) and self.evidence(self._pair(r)) > self.best - _BEHIND:
            if r > guess + 1 and self._falling(r):
                break
            r += 1
            self._try(r, self._pair(r - 1))
        for pair in self.kept():
            self._climb(pair, self.climbs[pair].hyper, self.tol, self.most)

    def _falling(self, r: int) -> bool:
        """Whether the last two ranks each brought less than the one before."""
        three = [self.evidence(self._pair(s)) for s in (r - 2, r - 1, r)]
        return three[0] > three[1] > three[2]

    def _pair(self, r: int) -> tuple[int, int]:
        return r, min(r, self.rows.p)

    def _allowed(self, r: int) -> bool:
        r1, r2 = self._pair(r)
        return r1 <= min(self.rows.d, len(self.rows.x) * r2)

    def _start_at(self, first: Hyper, rank: tuple[int, int]) -> Hyper:
        if rank == (0, 0):
            return first
        base = climb(self.rows, first, self.rules, _LOOSE * self.tol, min(self.most, _STEPS))
        return widened(self.rows, base.hyper, rank)

    def _try(self, r: int, origin: tuple[int, int]) -> None:
        pair = self._pair(r)
        if r == 0 or pair in self.climbs:
            return
        at = self.climbs[origin].hyper
        start = widened(self.rows, at, pair) if pair[0] > origin[0] else narrowed(at, pair)
        self._climb(pair, start, _LOOSE * self.tol, min(self.most, _STEPS))

    def _climb(self, pair: tuple[int, int], start: Hyper, tol: float, most: int) -> None:
        new, old = climb(self.rows, start, self.rules, tol, most), self.climbs.get(pair)
        if old is not None:
            new.values = old.values + new.values
        self.climbs[pair] = new
        self.weighed[pair] = weighed(self.rows, new.hyper, self.rules)

    def evidence(self, pair: tuple[int, int]) -> float:
        """Log probability of the data under one rank."""
        return self.weighed[pair].evidence

    @property
    def best(self) -> float:
        """Largest evidence so far."""
        return max(map(self.evidence, self.climbs))

    def kept(self) -> list[tuple[int, int]]:
        """Ranks that are not beaten clearly."""
        return [pair for pair in self.climbs if self.evidence(pair) > self.best - _BEHIND]

    def probabilities(self) -> dict[tuple[int, int], float]:
        """Posterior probabilities of the ranks that are not beaten clearly."""
        kept, best = self.kept(), self.best
        total = sum(np.exp(self.evidence(pair) - best) for pair in kept)
        return {pair: float(np.exp(self.evidence(pair) - best) / total) for pair in kept}


def _estimate(search: _Search, units: Array, size: float, data: Dataset) -> Fit:
    """Average the posterior means, and bring everything back to the units of the data."""
    rows, weights = search.rows, np.zeros((data.num_users, data.dim_in, data.dim_out))
    probabilities = search.probabilities()
    leader = max(probabilities, key=lambda pair: probabilities[pair])
    for pair, share in probabilities.items():
        prior = search.weighed[pair]
        found, cores = mixed_mean(rows, prior.hyper, prior.factors, prior.shares)
        weights += share * found
        if pair == leader:
            leading_cores = cores
    back = size / units.reshape((-1, 1) if rows.regression else (rows.d, rows.p))
    top = search.climbs[leader]
    subspaces: dict[str, Any] = {}
    if leader[0]:
        scale = back if rows.regression else back[:, :1]
        u, triangle = np.linalg.qr(scale * top.hyper.u)
        subspaces = {
            "input_subspace": u,
            "output_subspace": top.hyper.v,
            "cores": triangle @ leading_cores,
        }
    sigma = size * np.sqrt(top.hyper.sigma2)
    deviation = np.sqrt(top.hyper.tau2) * (back[:, 0] if rows.regression else back.mean(1))
    return Fit(
        status="converged" if top.converged else "stopped",
        message="" if top.converged else f"max_sweeps = {search.most} reached before the derivatives vanished.",
        dense=back * weights,
        pretrained=data.pretrained,
        sweeps=top.sweeps,
        history={
            "objective": np.array(top.values),
            "rank": leader,
            "rank_probabilities": {pair[0]: share for pair, share in probabilities.items()},
            "noise_std": sigma if search.rules.per_user else sigma[0],
            "deviation_std": deviation,
            "steepness": top.steepness,
        },
        **subspaces,
    )
