"""Empirical Bayes: users' weights as draws from a common prior whose covariance is low-rank plus isotropic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, TypeAlias

import numpy as np

from colora_theory.errors import InputError, expect
from colora_theory.estimators.base import Estimator, Fit, register
from colora_theory.estimators.hyper_parameters import Climb, aim, climb
from colora_theory.estimators.marginal_likelihood import Hyper, RotatedRows, log_likelihood
from colora_theory.estimators.posterior import mixed_mean
from colora_theory.estimators.posterior_errors import Averaged, posterior_deviation
from colora_theory.estimators.prior_evidence import Weighed, weighed
from colora_theory.estimators.prior_stacking import scarce, stacked
from colora_theory.estimators.prior_starts import (
    alone,
    narrowed,
    promising,
    unrestricted,
    visible_directions,
    widened,
)
from colora_theory.estimators.ranks import is_auto, is_zero, resolve_rank
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.estimators.trace import Trace
from colora_theory.estimators.weak_priors import Rules
from colora_theory.model.checks import check_integer, check_real, check_word
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array

#: Log evidence by which a rank may fall behind the best and still be averaged over.
_BEHIND = 12.0
#: Largest derivative per standard error while hypotheses compete, and most steps of one of them.
_LOOSE, _STEPS = 0.1, 60
#: Log likelihood that the absence of deviations may cost and still be considered.
_HOPELESS = 30.0
#: Covariates' entries from which on the guessed rank is checked by a short climb, of so many steps, first.
_LARGE, _SKETCH = 2_000_000, 16
#: Log evidence per dimension that one direction costs at the very most.
_DIRECTION = 10.0


@register
@dataclass(frozen=True, kw_only=True)
class Hierarchical(Estimator):
    """Empirical Bayes: the prior of users' weights and the noise are estimated, then every user's posterior.

    Model       vec W_i ~ N(μ, Γ), Γ = (V⊗U) S (V⊗U)ᵀ + τ² I: cores with covariance S in shared subspaces, and
                deviations of every user from them; W_i − W_0 where a pretrained weight is known. Noise σ².
                τ = 0 is the shared model with shrunken cores (`altmin`), S = 0 is `ridge` at the strength of
                maximum likelihood, S = 0 = τ one pooled weight, τ = ∞ tuning alone; no samples: μ. At the full
                rank and without weak priors S is any covariance and τ = 0 (a linear mixed model).
    Objective   The marginal likelihood of all responses, U averaged over instead of maximised (Laplace), with
                weak priors on the shape of S. Ranks 0, 1, … compete by it (and ½ log k per parameter of S), and
                the posterior means of those that are not beaten clearly are averaged with their probabilities.
    Algorithm   L-BFGS in coordinates of about one standard error each, from the leading directions of the
                deviations; every accepted step raises the objective. Where users or rows are few the evidence is
                too sure of itself: there the posterior means of all ranks tried are combined by the weights that
                predict rows held out best (stacking over five folds, with the evidence worth four observations),
                so that no simpler model among them does much better. Covariates are divided by their columns'
                root mean squares, so that units do not matter (sensing: by a common one).
    Cost        Two products with the data per step, O(N d r), and one factorization per user, O(n d min(n, d)).
    Source      Laird & Ware 1982 (random effects); Tipping & Bishop 1999 (low-rank plus isotropic covariance);
                Minka 2000 (averaging over subspaces); Breiman 1996 (stacking); docs/theory.md, "Empirical Bayes".

    Parameters
    ----------
    rank : r, (rank_in, rank_out), 0 (nothing shared but the prior's size), or "auto".
    mean : "zero" (relative to the pretrained weight) or "free", a common weight μ of all users.
    noise : "common" σ² or "per_user".
    own_columns : inputs, such as an intercept's, whose weights have a further variance of their own.
    priors : "weak", or "none": plain maximum likelihood, which overfits when k·n is near the degrees of freedom.
    average : "held_out", stacking where users or rows are few (rank = "auto" with weak priors); or "evidence".
    tol : largest derivative of the objective at the end, per standard error of its parameter and observation.
    max_sweeps : most steps for one rank.

    Fit.history holds, of the most probable prior, "log_posterior" (the objective after every step),
    "log_likelihood" (of all responses), "rank", "noise_std" (one number, or one per user), "deviation_std"
    (τ in the units of each input, shape (dim_in,)) and "steepness" (the largest derivative at the end); and
    "rank_probabilities" (rank_in → probability), "rank_weights" (rank_in → weight in the estimate) and
    "exactly_shared" (the probability that nobody strays).
    """

    name: ClassVar[str] = "hierarchical"

    rank: int | tuple[int, int] | str | None = "auto"
    mean: str = "zero"
    noise: str = "common"
    own_columns: tuple[int, ...] = ()
    priors: str = "weak"
    average: str = "held_out"
    tol: float = 1e-6
    max_sweeps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_word("mean", self.mean, ("zero", "free"))
        check_word("noise", self.noise, ("common", "per_user"))
        check_word("priors", self.priors, ("weak", "none"))
        check_word("average", self.average, ("held_out", "evidence"))
        check_real("tol", self.tol)
        check_integer("max_sweeps", self.max_sweeps, 1)

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate the prior and every user's posterior mean; `rng` only splits sufficient rows."""
        rank = None if is_auto(self.rank) else (0, 0) if is_zero(self.rank) else resolve_rank(self.rank, data)
        columns = self._columns(data)
        model = SharedModel(data)
        units, size = internal_units(model)
        if size == 0.0:  # nothing to learn
            return Fit(status="converged", dense=np.zeros((model.k, model.d, model.p)), pretrained=data.pretrained)
        rows = RotatedRows.of(model, units, size)
        rules = Rules(self.mean == "free", self.noise == "per_user", self.priors == "weak")
        search = _Search(rows, rules, self.tol, self.max_sweeps, columns)
        search.run(rank)
        shares = search.probabilities()
        leader = max(shares, key=lambda claim: shares[claim])
        doubtful = rank is None and rules.priors and scarce(rows, leader[0][0] + 1)
        if doubtful and self.average == "held_out" and data.counts.max() > 1 and len(search.climbs) > 1:
            priors = {claim: found.hyper for claim, found in search.climbs.items()}
            own = np.random.default_rng(0) if rng is None else rng
            shares = stacked(data, units, size, rules, priors, search.probabilities(even=True), own)
        return _estimate(search, leader, shares, units, size, data)

    def _columns(self, data: Dataset) -> tuple[int, ...]:
        expect("own_columns", self.own_columns, Sequence, "list the positions of the inputs")
        columns = tuple(self.own_columns)
        for j in columns:
            if isinstance(j, bool) or not isinstance(j, int | np.integer) or not 0 <= j < data.dim_in:
                raise InputError(f"own_columns must lie between 0 and dim_in - 1 = {data.dim_in - 1}, got {j!r}.")
        if len(set(columns)) < len(columns):
            raise InputError(f"own_columns must name every input once, got {columns}.")
        return columns


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


#: One hypothesis: (rank_in, rank_out), and whether nobody strays from the shared model.
_Claim: TypeAlias = tuple[tuple[int, int], bool]


class _Search:
    """The climbs of all hypotheses tried, and the log evidence of each."""

    def __init__(self, rows: RotatedRows, rules: Rules, tol: float, most: int, columns: tuple[int, ...]) -> None:
        self.rows, self.rules, self.goal, self.most = rows, rules, aim(rows, tol), most
        self.columns = columns
        self.climbs: dict[_Claim, Climb] = {}
        self.weighed: dict[_Claim, Weighed] = {}

    def run(self, rank: tuple[int, int] | None) -> None:
        """Climb at one rank, or at all that compete."""
        first = alone(self.rows, self.columns)
        if rank == (self.rows.d, self.rows.p) and not self.rules.priors:
            self._climb((rank, True), unrestricted(self.rows, self.rules), self.goal, self.most)
            return
        if rank is not None:
            start = first
            if rank[0]:
                base = climb(self.rows, first, self.rules, _LOOSE, min(self.most, _STEPS))
                start = widened(self.rows, base.hyper, rank)
            self._climb((rank, False), start, self.goal, self.most)
            return
        self._climb(((0, 0), False), first, _LOOSE, min(self.most, _STEPS))
        guess = self._begin(promising(self.rows, self.climbs[((0, 0), False)].hyper))
        for r in range(guess - 1, 0, -1):
            if not self._alive(r + 1):
                break
            self._try(r, r + 1)
        r = guess
        while self._allowed(r + 1) and self._hopeful(r, guess):
            r += 1
            self._try(r, r - 1)
        done: set[_Claim] = set()
        while (leader := max(self.weighed, key=lambda claim: self.weighed[claim].evidence)) not in done:
            self._climb(leader, self.climbs[leader].hyper, self.goal, self.most)  # the others are near enough
            done.add(leader)

    def _begin(self, guess: int) -> int:
        """Climb at the guessed rank, or in large data at that of the directions which a short climb there sees."""
        if self.rows.x.size >= _LARGE and guess > 1:
            base = self.climbs[((0, 0), False)].hyper
            sketch = climb(
                self.rows, widened(self.rows, base, self._pair(guess)), self.rules, _LOOSE, _SKETCH
            ).hyper
            seen = max(1, visible_directions(self.rows, sketch))
            if seen < guess:
                self._try(seen, guess, sketch)
                return seen
        self._try(guess, 0)
        return guess

    def _alive(self, r: int) -> bool:
        return self._worth(r) > self.best - _BEHIND

    def _worth(self, r: int) -> float:
        """Best log evidence at rank r."""
        pair = self._pair(r)
        return max(self.weighed[claim].evidence for claim in self.weighed if claim[0] == pair)

    def _hopeful(self, r: int, guess: int) -> bool:
        """Whether to go beyond rank r: two (large data: one) more than the best so far, unless r is beaten.

        One direction may be worth nothing without a second: against rank 0 two are always tried.
        """
        top = max(self.weighed, key=lambda claim: self.weighed[claim].evidence)[0][0]
        beyond = 1 if self.rows.x.size >= _LARGE else 2
        return r <= guess + 1 if top == 0 else r < top + beyond and self._alive(r)

    def _pair(self, r: int) -> tuple[int, int]:
        return r, min(r, self.rows.p)

    def _allowed(self, r: int) -> bool:
        r1, r2 = self._pair(r)
        return r1 <= min(self.rows.d, len(self.rows.x) * r2)

    def _try(self, r: int, origin: int, found_there: Hyper | None = None) -> None:
        """Climb at rank r from the prior found at another rank, then without deviations if that may be so."""
        pair, steps = self._pair(r), min(self.most, _STEPS)
        at = found_there or self.climbs[(self._pair(origin), False)].hyper
        start = widened(self.rows, at, pair) if r > origin else narrowed(at, pair)
        floor = -np.inf
        if r < origin and found_there is None:  # a direction less saves at most what one costs
            saved = _DIRECTION * (self.rows.d + self.rows.p) * (origin - r)
            floor = self.climbs[(self._pair(origin), False)].value - saved - _BEHIND
        self._climb((pair, False), start, _LOOSE, steps, floor)
        if self.climbs[(pair, False)].value < floor:
            return
        found = self.climbs[(pair, False)].hyper
        exact = replace(found, stretch=np.zeros_like(found.stretch))
        gap = log_likelihood(self.rows, found).sum() - log_likelihood(self.rows, exact).sum()
        if self.rules.priors and gap < _HOPELESS:
            self._climb((pair, True), exact, _LOOSE, steps)

    def _climb(self, claim: _Claim, start: Hyper, goal: float, most: int, floor: float = -np.inf) -> None:
        new, old = climb(self.rows, start, self.rules, goal, most, floor=floor), self.climbs.get(claim)
        if old is not None:
            new.values = old.values + new.values
        self.climbs[claim] = new
        self.weighed[claim] = weighed(self.rows, new.hyper, self.rules)

    @property
    def best(self) -> float:
        """Largest evidence so far."""
        return max(prior.evidence for prior in self.weighed.values())

    def kept(self) -> list[_Claim]:
        """Hypotheses that are not beaten clearly."""
        return [claim for claim, prior in self.weighed.items() if prior.evidence > self.best - _BEHIND]

    def probabilities(self, even: bool = False) -> dict[_Claim, float]:
        """Posterior probabilities of the hypotheses that are not beaten clearly; `even`: no odds for sharing."""
        logs = {c: self.weighed[c].evidence - (self.weighed[c].favour if even else 0.0) for c in self.kept()}
        top = max(logs.values())
        chances = {claim: float(np.exp(log - top)) for claim, log in logs.items()}
        return {claim: chance / sum(chances.values()) for claim, chance in chances.items()}


def _stopped(top: Climb, most: int) -> str:
    if top.sweeps >= most:
        return f"max_sweeps = {most} reached before the derivatives vanished."
    return "no step raises the objective any further, though its derivatives do not vanish (variances at a bound)."


def _estimate(
    search: _Search, leader: _Claim, shares: dict[_Claim, float], units: Array, size: float, data: Dataset
) -> Fit:
    """Average the posterior means with these shares, and bring everything back to the units of the data."""
    rows, weights = search.rows, np.zeros((data.num_users, data.dim_in, data.dim_out))
    probabilities = search.probabilities()
    shares = {claim: share for claim, share in shares.items() if share > 0.0}
    for claim, share in shares.items():
        prior = search.weighed[claim]
        weights += share * mixed_mean(rows, prior.hyper, prior.factors, prior.shares)[0]
    back = size / units.reshape((-1, 1) if rows.regression else (rows.d, rows.p))
    top = search.climbs[leader]
    priors = tuple((share, search.weighed[claim]) for claim, share in shares.items())
    subspaces: dict[str, Any] = {}
    if leader[0][0]:
        best = search.weighed[leader]
        leading_cores = mixed_mean(rows, best.hyper, best.factors, best.shares)[1]
        scale = back if rows.regression else back[:, :1]
        u, triangle = np.linalg.qr(scale * top.hyper.u)
        subspaces = {
            "input_subspace": u,
            "output_subspace": top.hyper.v,
            "cores": triangle @ leading_cores,
        }
    sigma = size * np.sqrt(top.hyper.sigma2)
    stray = np.sqrt(top.hyper.tau2 * top.hyper.stretch.mean())
    deviation = stray * (back[:, 0] if rows.regression else back.mean(1))
    return Fit(
        status="converged" if top.converged else "stopped",
        message="" if top.converged else _stopped(top, search.most),
        dense=back * weights,
        pretrained=data.pretrained,
        sweeps=top.sweeps,
        uncertainty=partial(posterior_deviation, Averaged(rows, priors, back)),
        history=Trace(
            log_posterior=np.array(top.values),
            log_likelihood=float(log_likelihood(rows, top.hyper).sum()) - rows.num_observations * np.log(size),
            rank=leader[0],
            rank_probabilities=_by_rank(probabilities),
            rank_weights=_by_rank(shares),
            exactly_shared=sum(share for claim, share in probabilities.items() if claim[1]),
            noise_std=sigma if search.rules.per_user else sigma[0],
            deviation_std=deviation,
            steepness=top.steepness,
        ),
        **subspaces,
    )


def _by_rank(shares: dict[_Claim, float]) -> dict[int, float]:
    """Shares of hypotheses summed by rank_in."""
    out: dict[int, float] = {}
    for claim, share in sorted(shares.items()):
        out[claim[0][0]] = out.get(claim[0][0], 0.0) + share
    return out
