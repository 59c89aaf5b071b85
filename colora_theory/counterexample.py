"""Counterexample search: the problem, inside a claim's hypotheses, on which the claim is violated or tightest.

    >>> import colora_theory as ct
    >>> ct.attack("local_least_squares_risk", bounds={"dim_in": (2, 6), "num_users": (1, 5)}, trials=300).status
    'inconclusive'

Problems are drawn over all fields, extreme values included, and refused where a hypothesis fails. Most of the
trials explore: many problems with few trials each, then the more suspicious ones with twice as many, and their
neighbours (successive halving). The most suspicious problems are confirmed on fresh seeds, as one family of tests,
so that the search itself cannot make a true claim look false.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
import tomli_w

from colora_theory import estimators, guarantees
from colora_theory.assertion import Assertion, EstimatorLike, number_of, spec_of
from colora_theory.engine.trial import Recipe, TrialGuarantee, draw
from colora_theory.errors import InputError, expect, nearest
from colora_theory.guarantees import Guarantee
from colora_theory.model import metrics
from colora_theory.model.checks import check_integer, check_real
from colora_theory.model.covariates import LAWS
from colora_theory.model.problem import Problem
from colora_theory.verdicts.check import inapplicable, requirement_of
from colora_theory.verdicts.judge import CellTest, Requirement, judge_family
from colora_theory.verdicts.verdict import Verdict

_log = logging.getLogger(__name__)

#: What is searched unless the caller bounds or fixes it: (low, high) of a logarithmic range, or a list of choices,
#: which may be ranges of real numbers.
SPACE: Final[dict[str, Any]] = {
    "num_users": (1, 100),
    "num_samples": (1, 400),
    "dim_in": (1, 40),
    "rank": (1, 6),
    "dim_out": [1, 1, 1, 2, 3, 5],
    "noise_std": [0.0, *[(1e-3, 10.0)] * 5],  # some claims are about problems without noise
    "design": ["regression", "regression", "sensing"],
    "covariates": ["gaussian", "gaussian", *LAWS],
    "core_distribution": ["gaussian", "unit", "orthogonal", "equal"],
    "signal_norm": [1.0, 1.0, 1e-3, 1e3],
    "condition_number": [1.0, 1.0, 10.0, 1e3],
    "pretrained_norm": [0.0, 0.0, 5.0],
    "similarity_angle": [0.0, 0.0, 0.0, 0.3, 1.5],
    "outlier_fraction": [0.0, 0.0, 0.0, 0.3],
}
_WHOLE: Final = ("num_users", "num_samples", "dim_in", "rank", "dim_out")
#: Trials of a first look; problems confirmed; share of the trials kept for that; fewest trials that confirm one
#: (with fewer the skewness of its errors is not known).
FIRST, CONFIRMED, KEPT, ENOUGH = 3, 3, 0.3, 40


@dataclass(frozen=True)
class Explored:
    """One problem of the search, its trials, and how far the observation lies on the violated side of the claim.

    suspicion : in shares of the claim, or in Monte Carlo errors where the claim is about a mean. tightness : as in
    `Verdict`.
    """

    problem: Problem
    trials: int
    suspicion: float
    tightness: float


@dataclass(frozen=True)
class AttackVerdict(Verdict):
    """The verdict of a search: "violated" (confirmed on fresh seeds) or "inconclusive": nothing was found.

    problem : the violating problem, or the tightest one found. study : a study file that reproduces it.
    explored : everything that was looked at.
    """

    problem: Problem | None = None
    study: str = field(default="", repr=False)
    explored: tuple[Explored, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as plain values, with the problem's fields and the study file."""
        plain = {f.name: getattr(self, f.name) for f in fields(Verdict)}
        content = None if self.problem is None else self.problem.content()
        return {**Verdict(**plain).as_dict(), "problem": content, "study": self.study}


def attack(
    claim: str | Guarantee | Callable[[Problem], float],
    *,
    bounds: Mapping[str, Any] | None = None,
    metric: str = "parameter_error",
    estimator: EstimatorLike = None,
    params: Mapping[str, Any] | None = None,
    side: str = "upper",
    delta: float | None = None,
    trials: int = 2000,
    alpha: float = 0.01,
    seed: int = 0,
) -> AttackVerdict:
    """Search for a problem inside the claim's hypotheses on which it is violated.

    Parameters
    ----------
    claim : a guarantee (name or object), or a function from a Problem to a number about `metric` (NaN: does not
        apply), as for `testing.assert_holds`, with `side` and `delta`.
    bounds : for each field a value (fixed), (low, high), or a list of choices; the others are those of `SPACE`.
    estimator, params : as in `testing`.
    trials : of the whole search, confirmation included; at least 150.
    alpha : probability with which a true claim may be called violated.

    Raises InputError for unknown fields, wrong arguments, and when hardly any problem satisfies the hypotheses.
    """
    target = _Target(claim, metric, estimator, params, side, delta)
    space = _space({} if bounds is None else bounds)
    trials = check_integer("trials", trials, 150)
    alpha = check_real("alpha", alpha, 0.0, 1.0)
    rng = np.random.default_rng(check_integer("seed", seed, 0))
    explored = _search(target, space, int(trials * (1 - KEPT)), rng)
    kept = int(trials * KEPT)
    suspects = sorted(explored, key=lambda each: -each.suspicion)[: max(1, min(CONFIRMED, kept // ENOUGH))]
    each = kept // len(suspects)
    runs = [target.assertion(s.problem, seed=int(rng.integers(2**62))) for s in suspects]
    for number, run in enumerate(runs, start=1):
        _log.info("%s: problem %d of %d again, %d trials", target.name, number, len(runs), each)
        _ran(run, each)
    verdicts = judge_family([CellTest(run.required, run.sample(), alpha) for run in runs])
    spent = sum(e.trials for e in explored) + each * len(runs)
    worst = min(range(len(runs)), key=lambda i: (verdicts[i].status != "violated", -suspects[i].suspicion))
    found = verdicts[worst].status == "violated"
    known = [e for e in explored if math.isfinite(e.tightness)]
    tight = [e for e in known if e.trials > 2 * FIRST] or known  # a ratio of few trials is near one by chance
    best = (
        suspects[worst].problem if found or not tight else min(tight, key=lambda e: abs(e.tightness - 1)).problem
    )
    told = f"{len(explored)} problems inside the hypotheses in {spent} trials"
    reason = (
        f"{told}; violated on fresh seeds: {verdicts[worst].reason}"
        if found
        else f"{told}; none violates the claim on fresh seeds"
    )
    values = {f.name: getattr(verdicts[worst], f.name) for f in fields(Verdict)}
    values |= {
        "guarantee": target.name,
        "estimator": target.spec.name,
        "where": ", ".join(f"{k}={v!r}" for k, v in best.content().items()),
        "status": "violated" if found else "inconclusive",
        "trials": spent,
        "reason": reason,
    }
    study = target.study(best, each, int(runs[worst].recipe.seed))
    return AttackVerdict(**values, problem=best, study=study, explored=tuple(explored))


class _Target:
    """The claim under attack: whether it applies to a problem, and its assertion there."""

    def __init__(
        self, claim: Any, metric: str, estimator: EstimatorLike, params: Any, side: str, delta: float | None
    ) -> None:
        self.guarantee = guarantees.get(claim) if isinstance(claim, str) else claim
        self.metric, self.side, self.delta = metric, side, delta
        if isinstance(self.guarantee, Guarantee):
            available = [n for n in self.guarantee.estimators if n in estimators.names()]
            self.spec = spec_of(estimator, params, (available or ["altmin"])[0], self.guarantee.recording)
            self.name = self.guarantee.name
            if (
                self.guarantee.kind == "rate" and not self.guarantee.per_trial
            ) or self.guarantee.side == "threshold":
                raise InputError(
                    f"{self.name!r} is no claim about one problem; attack takes bounds and identities."
                )
            return
        if not callable(claim):
            raise InputError(f"claim must be a guarantee or a function of a Problem, got {claim!r:.60}.")
        if not isinstance(metric, str) or metric not in metrics.NAMES:
            raise InputError(f"unknown metric {metric!r}; {nearest(str(metric), metrics.NAMES)}")
        if not isinstance(side, str) or side not in ("upper", "lower", "equality"):
            raise InputError(f"side must be upper, lower or equality, got {side!r}.")
        self.spec = spec_of(estimator, params, "full_finetuning")
        self.name = getattr(claim, "__name__", "claim")

    def applies(self, problem: Problem) -> bool:
        if isinstance(self.guarantee, Guarantee):
            return not inapplicable(self.guarantee, problem)
        return math.isfinite(number_of(self.guarantee, problem))

    def assertion(self, problem: Problem, seed: int) -> Assertion:
        g = self.guarantee
        if not isinstance(g, Guarantee):
            form = "mean" if self.delta is None else "share" if self.delta else "always"
            scale = max(1.0, problem.num_users * problem.signal_norm**2)
            required = Requirement(self.side, form, self.delta or 0.0, scale=scale)
            recipe = Recipe(seed, (self.spec,), (self.metric,))
            return Assertion(self.name, required, problem, recipe, number_of(g, problem))
        inside = (TrialGuarantee(g, (0,)),) if g.per_trial or hasattr(g, "observed") else ()
        compared = (g.metric,) if g.metric in metrics.NAMES else ()
        fixed = None if g.per_trial else g.value(problem)
        required = requirement_of(g, problem, self.delta)
        return Assertion(self.name, required, problem, Recipe(seed, (self.spec,), compared, inside), fixed)

    def study(self, problem: Problem, trials: int, seed: int) -> str:
        """A study file of this one problem; a claim of one's own is named in its text."""
        own = not isinstance(self.guarantee, Guarantee)
        metric = self.metric if own or self.guarantee.metric not in metrics.NAMES else self.guarantee.metric
        content = {k: list(v) if isinstance(v, tuple) else v for k, v in problem.content().items()}
        tables: dict[str, Any] = {
            "schema": 1,
            "name": f"attack_{self.name}".replace("<", "").replace(">", "")[:80],
            "claim": f"{self.name} holds for this problem." + (" (A claim of one's own.)" if own else ""),
            "seed": seed,
            "problem": content,
            "estimator": [{"name": self.spec.name, "params": dict(self.spec.params)}],
            "metrics": {"use": [metric]},
            "run": {"trials": trials},
        }
        if not own:
            tables["guarantee"] = [{"name": self.name}]
        return tomli_w.dumps(tables)


def _space(bounds: Mapping[str, Any]) -> dict[str, Any]:
    expect("bounds", bounds, Mapping, "name fields of Problem")
    known = [f.name for f in fields(Problem)]
    for name in bounds:
        if name not in known:
            raise InputError(f"bounds: unknown field {name!r}; {nearest(str(name), known)}")
    return {**SPACE, **bounds}


def _drawn(space: Mapping[str, Any], rng: np.random.Generator, near: Problem | None = None) -> Problem | None:
    """A problem of the space, or a neighbour of one: None where the fields do not fit together."""
    values: dict[str, Any] = {}
    for name, allowed in space.items():
        if near is not None and rng.random() < 0.6:
            values[name] = getattr(near, name)
            continue
        several = isinstance(allowed, list)
        if several:
            allowed = allowed[int(rng.integers(len(allowed)))]
        whole = several and name in _WHOLE  # among choices a pair of whole numbers is a rank, or counts
        pair = isinstance(allowed, tuple) and len(allowed) == 2 and not whole
        if pair and all(isinstance(v, int | float) for v in allowed):
            low, high = float(allowed[0]), float(allowed[1])
            edge = rng.random()  # the ends of a range are where claims break
            point = low if edge < 0.1 else high if edge > 0.9 else _between(low, high, rng)
            if near is not None and low <= getattr(near, name) <= high:
                point = float(np.clip(getattr(near, name) * math.exp(0.3 * rng.standard_normal()), low, high))
            values[name] = round(point) if name in _WHOLE else point
        else:
            values[name] = allowed
    if values.get("core_distribution") != "orthogonal":
        values.pop("condition_number", None)
    if isinstance(values["rank"], int):
        values["rank"] = min(values["rank"], values["dim_in"], values["num_users"] * values["dim_out"])
    try:
        return Problem(**values)
    except InputError:
        return None


def _between(low: float, high: float, rng: np.random.Generator) -> float:
    return low * (high / low) ** rng.random() if low > 0 else low + (high - low) * rng.random()


def _search(target: _Target, space: Mapping[str, Any], trials: int, rng: np.random.Generator) -> list[Explored]:
    """Successive halving over problems inside the hypotheses; the best ones get more trials and neighbours."""
    first = max(10, int(0.6 * trials / FIRST))
    fresh = [_look(target, problem, FIRST, rng) for problem in _candidates(target, space, first, rng)]
    explored, left, each = list(fresh), trials - FIRST * len(fresh), 2 * FIRST
    pool = fresh
    while left > 2 * each and len(pool) > CONFIRMED:
        pool = sorted(pool, key=lambda e: -e.suspicion)[: max(CONFIRMED, len(pool) // 4)]
        spend = min(left // 2, each * 2 * len(pool))
        count = max(1, spend // each // 2)
        again = [_look(target, e.problem, each, rng) for e in pool[:count]]
        parents = [e.problem for e in pool[:count]]
        neighbours = _candidates(target, space, count, rng, parents)
        again += [_look(target, problem, each, rng) for problem in neighbours]
        explored += again
        left -= each * len(again)
        pool, each = again, 2 * each
    return explored


def _candidates(
    target: _Target, space: Mapping[str, Any], count: int, rng: np.random.Generator, near: Any = ()
) -> list[Problem]:
    found: list[Problem] = []
    for tried in range(200 * count + 2000):
        if len(found) == count:
            break
        parent = near[tried % len(near)] if near else None
        problem = _drawn(space, rng, parent)
        if problem is not None and target.applies(problem):
            found.append(problem)
    if not found and not near:
        raise InputError(
            f"no problem within the bounds satisfies the hypotheses of {target.name!r}; widen or fix the bounds "
            f"(the guarantee's text says what it needs)."
        )
    return found


def _ran(run: Assertion, trials: int) -> bool:
    """Run trials; False where no truth can be drawn (some orthogonal cores do not exist); other refusals raise."""
    try:
        run.run(trials)
    except InputError:
        try:
            for trial in range(trials):
                draw(run.recipe, run.segment.words, run.problem, trial)
        except InputError:
            return False
        raise
    return True


def _look(target: _Target, problem: Problem, trials: int, rng: np.random.Generator) -> Explored:
    """How suspicious a problem is after some trials on a seed of its own."""
    shape = f"{problem.num_users} users, {problem.num_samples} samples, {problem.dim_in} inputs"
    _log.info("%s: %d trials with %s", target.name, trials, shape)
    run = target.assertion(problem, int(rng.integers(2**62)))
    if not _ran(run, trials):
        return Explored(problem, trials, -math.inf, math.nan)
    required, sample = run.required, run.sample()
    if sample.failures:
        return Explored(problem, trials, math.inf, math.nan)
    if len(sample.observed) < 2 or required.vacuous(sample.claimed).all():
        return Explored(problem, trials, -math.inf, math.nan)
    excess = required.excess(sample.observed, sample.claimed)
    size = max(float(np.abs(sample.claimed).mean()), 1e-300)
    seen = float(sample.observed.mean())
    above, below = (seen, size) if required.side == "lower" else (size, seen)
    tightness = above / below if below and np.abs(sample.claimed).any() else math.nan  # zero is no size
    if required.form != "mean":
        return Explored(problem, trials, float(excess.max()) / size, tightness)
    difference = sample.observed - sample.claimed
    error = max(float(difference.std(ddof=1)) / math.sqrt(trials), 0.05 * size / math.sqrt(trials))
    deviation = float(difference.mean()) / error
    signed = {"upper": deviation, "lower": -deviation, "equality": abs(deviation)}[required.side]
    return Explored(problem, trials, signed, tightness)
