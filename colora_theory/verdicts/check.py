"""Verdicts: stored results against the guarantees of their study, cell by cell and overall.

The statistics are those of `evidence` and `grid_evidence`. All tests of a study form one family, whose error rate
Holm's method controls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from colora_theory.errors import expect
from colora_theory.guarantees import Guarantee, get
from colora_theory.model.problem import Problem
from colora_theory.verdicts.judge import (
    ALPHA,
    STATUSES,
    Claim,
    Sample,
    Verdict,
    holm,
    judge,
    p_value,
)
from colora_theory.verdicts.scaling import judge_pooled, judge_rate, pooled_deviation, pooled_p

if TYPE_CHECKING:
    from colora_theory.results.results import Results

__all__ = ["STATUSES", "Verdict", "check", "check_guarantee"]


def claim_of(guarantee: Guarantee, problem: Problem, delta: float | None = None) -> Claim:
    """Return how `guarantee` is tested on `problem`; `delta` replaces its own failure probability."""
    if guarantee.kind == "certificate":
        form = "always"
    elif delta is None and guarantee.expectation:
        form = "mean"
    else:
        form = "rate"
    side = "upper" if guarantee.side == "threshold" else guarantee.side
    scale = max(1.0, problem.num_users * problem.signal_norm**2)
    allowed = guarantee.failure_probability if delta is None else delta
    return Claim(side, form, allowed, guarantee.tolerance, guarantee.trivial(problem), scale)


def is_scaling(guarantee: Guarantee) -> bool:
    """Whether the claim is a rate in the problem up to a constant (a rate about single runs has a number)."""
    return guarantee.kind == "rate" and not guarantee.per_trial


def inapplicable(guarantee: Guarantee, problem: Problem) -> str:
    """Return why `guarantee` says nothing testable about `problem`, or "" if it does."""
    if guarantee.kind == "rate" and guarantee.side == "threshold":
        return "a threshold whose constant is open: it is drawn, not tested"
    for hypothesis in [*guarantee.hypotheses(problem), *guarantee.test_conditions(problem)]:
        if not hypothesis:
            return f"{hypothesis.name}: {hypothesis.message}"
    return ""


@dataclass(eq=False)
class _Group:
    """One guarantee, one estimator: its cells and their samples."""

    guarantee: Guarantee
    estimator: str
    alpha: float
    delta: float | None
    cells: list[tuple[Any, Claim, Sample, str]] = field(default_factory=list)


def check(results: Results) -> list[Verdict]:
    """Return the verdicts of all guarantees of the study: for each estimator overall, then cell by cell."""
    from colora_theory.results.results import Results

    expect("results", results, Results, "open them with ct.Results.open(path)")
    groups = list(_groups(results))
    slots = [(g, i) for g in groups if not is_scaling(g.guarantee) for i in range(len(g.cells))]
    p_values: dict[tuple[int, int], float] = {}
    for group, index in slots:
        _, claim, sample, why = group.cells[index]
        p = None if why else p_value(claim, sample)
        if p is not None:
            p_values[id(group), index] = p
    for group in groups:
        p = None if is_scaling(group.guarantee) else _pooled_p(group)
        if p is not None:
            p_values[id(group), -1] = p
    rates = sum(is_scaling(g.guarantee) and g.guarantee.side != "threshold" for g in groups)
    family = len(p_values) + rates
    # rates are judged at Bonferroni's level; as members with p = 1 they keep Holm's steps valid for the others
    adjusted = holm([*p_values.values(), *[1.0] * rates])
    by_slot = dict(zip(p_values, adjusted, strict=False))
    verdicts: list[Verdict] = []
    for group in groups:
        verdicts += _verdicts(group, by_slot, max(1, family))
    return verdicts


def _verdicts(group: _Group, adjusted: dict[tuple[int, int], float], family: int) -> list[Verdict]:
    if is_scaling(group.guarantee):
        return [_named(_rate(group, family), group)]
    cells = []
    for index, (cell, claim, sample, why) in enumerate(group.cells):
        if why:
            verdict = Verdict(guarantee="", status="not applicable", reason=why, side=claim.side)
        else:
            p = adjusted.get((id(group), index))
            verdict = judge(claim, sample, alpha=group.alpha, family=family, adjusted=p)
        cells.append(replace(_named(verdict, group), cell=cell.id, where=str(cell)))
    return [_named(_overall(group, cells, adjusted.get((id(group), -1)), family), group), *cells]


def _named(verdict: Verdict, group: _Group) -> Verdict:
    g = group.guarantee
    return replace(
        verdict,
        guarantee=g.name,
        kind=g.kind,
        metric=g.metric,
        estimator=group.estimator,
        source=g.source,
        alpha=group.alpha,
    )


def _live(group: _Group) -> list[tuple[Claim, Sample]]:
    """Cells with evidence: applicable, not wholly vacuous, without failures where a mean is claimed."""
    return [
        (claim, sample)
        for _, claim, sample, why in group.cells
        if not why and sample.size and not (len(sample.claimed) and claim.vacuous(sample.claimed).all())
    ]


def _pooled_trials(live: list[tuple[Claim, Sample]]) -> tuple[Claim, Sample]:
    """All trials of a claim about single trials: each may break it with probability at most δ."""
    total = Sample(
        # whether each trial breaks its claim, so that cells with claims of different size can be pooled
        np.concatenate([np.where(c.excess(s.observed, s.claimed) > 0, 2.0, 0.0) for c, s in live]),
        np.concatenate([np.ones(len(s.claimed)) for _, s in live]),
        sum(s.failures for _, s in live),
        sum(s.undefined for _, s in live),
    )
    return Claim("upper", "rate", max(c.delta for c, _ in live)), total


def _pooled_p(group: _Group) -> float | None:
    live = _live(group)
    if len(live) < 2 or live[0][0].form == "always":
        return None
    if live[0][0].form == "rate":
        return p_value(*_pooled_trials(live))
    deviation = pooled_deviation([s for _, s in live])
    return None if deviation is None else pooled_p(live[0][0], deviation)


def _pooled(group: _Group, adjusted: float | None, family: int) -> Verdict | None:
    """Verdict on all cells together, or None where they cannot be pooled."""
    live = _live(group)
    if adjusted is None:
        return None
    if live[0][0].form == "rate":
        return judge(*_pooled_trials(live), alpha=group.alpha, family=family, adjusted=adjusted)
    deviation = pooled_deviation([s for _, s in live])
    assert deviation is not None
    return judge_pooled(live[0][0], deviation, alpha=group.alpha, family=family, adjusted=adjusted)


def _overall(group: _Group, cells: list[Verdict], adjusted: float | None, family: int) -> Verdict:
    count = {status: sum(v.status == status for v in cells) for status in STATUSES}
    listed = ", ".join(f"{status} in {n}" for status, n in count.items() if n)
    live = [v for v in cells if v.status not in ("not applicable", "vacuous")]
    base = Verdict(
        guarantee="",
        status="inconclusive",
        trials=sum(v.trials for v in cells),
        failures=sum(v.failures for v in cells),
        undefined=sum(v.undefined for v in cells),
        violations=sum(v.violations for v in cells),
        side=group.guarantee.side,
        family=family,
        reason=f"{listed} of {len(cells)} cells",
    )
    if ratios := [v.tightness for v in live if math.isfinite(v.tightness)]:
        base = replace(base, tightness=float(np.median(ratios)))
    pooled = _pooled(group, adjusted, family)
    if pooled is None and len(live) == 1:  # its evidence is all there is
        base = replace(base, interval=live[0].interval, reason=f"{base.reason}; {live[0].reason}")
    elif pooled is not None:
        base = replace(
            base,
            interval=pooled.interval,
            p_value=pooled.p_value,
            adjusted=pooled.adjusted,
            reason=f"{base.reason}; {pooled.reason}",
        )
    if count["violated"]:
        status = "violated"
    elif not live:
        status = "vacuous" if count["vacuous"] else "not applicable"
    elif pooled is not None and (not base.failures or pooled.trials):
        status = pooled.status  # a mean has none where trials failed; a rate has counted them
    else:
        status = "holds" if count["holds"] == len(live) else "inconclusive"
    return replace(base, status=status)


def _rate(group: _Group, family: int) -> Verdict:
    usable = [(c, s) for _, c, s, why in group.cells if not why and s.size]
    reasons = [why for *_, why in group.cells if why]
    if not usable:
        return Verdict(guarantee="", status="not applicable", reason=reasons[0] if reasons else "no cells")
    failures = sum(s.failures for _, s in usable)
    if failures:
        text = f"{failures} failed trials have no finite error, so the mean has none"
        return Verdict(guarantee="", status="violated", failures=failures, reason=text)
    rate = np.array([float(s.claimed.mean()) for _, s in usable])
    verdict = judge_rate(
        group.guarantee.side, rate, [s.observed for _, s in usable], alpha=group.alpha, family=family
    )
    skipped = f"; {len(reasons)} cells outside the hypotheses ({reasons[0]})" if reasons else ""
    return replace(verdict, reason=verdict.reason + skipped)


def _groups(results: Results) -> Iterable[_Group]:
    from colora_theory.results.rows import FAILURES
    from colora_theory.studies.study import guarantee_of

    study = results.study
    if not study.guarantees:
        return
    frame = results.frame(cell_id=True)
    for spec in study.guarantees:
        guarantee = guarantee_of(spec)
        realised = results.guarantee_values(spec.name) if guarantee.per_trial and results.columns else None
        for estimator in study.estimators:
            if spec.estimator not in (None, estimator.label):
                continue
            if spec.estimator is None and guarantee.estimators and estimator.name not in guarantee.estimators:
                continue
            group = _Group(guarantee, estimator.label, spec.alpha or ALPHA, spec.delta)
            mine = frame[(frame.estimator == estimator.label) & (frame.metric == guarantee.metric)]
            claims = None if realised is None else realised[realised.estimator == estimator.label]
            for cell in study.cells:
                rows = mine[mine.cell == cell.id]
                inside = None if claims is None else claims[claims.cell == cell.id]
                sample, why = _sample(guarantee, cell.problem, rows, inside, FAILURES)
                group.cells.append((cell, claim_of(guarantee, cell.problem, spec.delta), sample, why))
            yield group


def _sample(
    guarantee: Guarantee, problem: Problem, rows: Any, inside: Any, failed: tuple[str, ...]
) -> tuple[Sample, str]:
    """The trials of one cell, and why the guarantee does not apply to it (or "")."""
    why = inapplicable(guarantee, problem)
    claimed: Any
    if inside is not None:
        seen = inside if hasattr(guarantee, "observed") else rows
        values = inside.observed if hasattr(guarantee, "observed") else rows.value
        claimed, status, trials = inside.claim.to_numpy(), seen.status, seen.trial
    else:
        values, status, trials = rows.value, rows.status, rows.trial
        claimed = guarantee.value(problem)
        if guarantee.side == "threshold":
            position = float(min(problem.counts) if guarantee.against == "num_samples" else problem.num_users)
            if not why and not position < claimed:
                why = f"{guarantee.against} is not below the threshold {claimed:g}"
            claimed = 0.0
    broken = status.isin(failed).to_numpy()
    if guarantee.side == "threshold":  # a failed fit is no recovery
        values, broken = values.where(~broken, 0.0), np.zeros(len(values), bool)
    sample = Sample.of(values.to_numpy(), claimed, broken, trials.to_numpy())
    if not why and len(values) and np.isnan(values.to_numpy()[~broken]).all() and (~broken).any():
        why = f"{guarantee.metric} is not defined for this estimator"
    return sample, why


def check_guarantee(
    name: str | Guarantee, problem: Problem, observed: Any, claimed: Any = None, **settings: Any
) -> Verdict:
    """Judge one guarantee on arrays: `observed` (n,), NaN for a failed trial, and its claims (default: value).

    Settings: alpha (default ALPHA), delta, failed (mask), trials (numbers).
    """
    guarantee = get(name) if isinstance(name, str) else name
    alpha, delta = settings.pop("alpha", ALPHA), settings.pop("delta", None)
    claim = claim_of(guarantee, problem, delta)
    if why := inapplicable(guarantee, problem):
        verdict = Verdict(guarantee="", status="not applicable", reason=why)
    else:
        said = guarantee.value(problem) if claimed is None else claimed
        verdict = judge(claim, Sample.of(observed, said, **settings), alpha=alpha)
    return _named(replace(verdict, where=""), _Group(guarantee, "", alpha, delta))
