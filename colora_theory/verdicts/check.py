"""Verdicts: stored results against the guarantees and claims of their study, cell by cell and overall.

The statistics are those of `judge` and `scaling`. All tests of a study form one family, whose error rate
Holm's method controls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from colora_theory.errors import expect
from colora_theory.guarantees import Guarantee
from colora_theory.model.problem import Problem
from colora_theory.studies.run_options import judged
from colora_theory.verdicts.anytime import AnytimeTest
from colora_theory.verdicts.comparisons import Comparison, break_evens, by_cell, compared
from colora_theory.verdicts.judge import CellTest, FamilyTest, Requirement, Sample, judge_family
from colora_theory.verdicts.scaling import PooledTest, RateTest
from colora_theory.verdicts.verdict import ALPHA, STATUSES, Verdict

if TYPE_CHECKING:
    from colora_theory.results.results import Results

__all__ = ["Verdict", "check"]


def requirement_of(guarantee: Guarantee, problem: Problem, delta: float | None = None) -> Requirement:
    """Return how `guarantee` is tested on `problem`; `delta` replaces its own failure probability."""
    if guarantee.kind == "certificate":
        form = "always"
    elif delta is None and guarantee.expectation:
        form = "mean"
    else:
        form = "share"
    side = "upper" if guarantee.side == "threshold" else guarantee.side
    scale = max(1.0, problem.num_users * problem.signal_norm**2)
    allowed = guarantee.failure_probability if delta is None else delta
    return Requirement(side, form, allowed, guarantee.tolerance, guarantee.trivial(problem), scale)


def is_scaling(guarantee: Guarantee | Comparison) -> bool:
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
    """One claim, one estimator: its cells and their samples, and why the claim says nothing about a cell."""

    guarantee: Guarantee | Comparison
    estimator: str
    alpha: float
    cells: list[tuple[Any, Requirement, Sample, str]] = field(default_factory=list)
    anytime: bool = False

    @property
    def tested(self) -> list[tuple[Any, Requirement, Sample]]:
        """Cells to which the claim applies."""
        return [(cell, required, sample) for cell, required, sample, why in self.cells if not why]

    @property
    def rate(self) -> bool:
        """Whether the claim is one rate over all cells."""
        return is_scaling(self.guarantee)

    def tests(self) -> list[FamilyTest]:
        """What is tested: a rate over all cells; or every cell, and all cells with evidence together."""
        if self.rate:
            usable = [sample for _, _, sample in self.tested if sample.size]
            if not usable or any(sample.failures for sample in usable):
                return []
            rate = np.array([float(sample.claimed.mean()) for sample in usable])
            return [RateTest(self.guarantee.side, rate, [sample.observed for sample in usable], self.alpha)]
        live = [
            (required, sample)
            for _, required, sample in self.tested
            if sample.size and not (len(sample.claimed) and required.vacuous(sample.claimed).all())
        ]
        if self.anytime:  # pooled tests are for fixed numbers of trials
            return [*(AnytimeTest(required, sample, self.alpha) for _, required, sample in self.tested), _NO_POOL]
        cells = [CellTest(required, sample, self.alpha) for _, required, sample in self.tested]
        return [*cells, PooledTest(live, self.alpha)]


_NO_POOL: Final = PooledTest([], ALPHA)


def check(results: Results, *, anytime: bool | None = None) -> list[Verdict]:
    """Return the verdicts of all claims of the study: for each estimator overall, then cell by cell.

    anytime : judge cells by evidence that may be looked at after every batch, and because of which a run may stop
        or go on (`verdicts.anytime`). None: where the study's trials decide how many there are (`target_mcse`);
        otherwise tests for a fixed number of trials. Rates and claims about methods have no such evidence: their
        even trials decide when to stop, and the odd ones are judged.
    """
    from colora_theory.results.results import Results

    expect("results", results, Results, "open them with ct.Results.open(path)")
    with results.snapshot():
        at_any_time = results.study.run.adaptive if anytime is None else anytime
        groups = [*_groups(results, at_any_time), *_comparisons(results)]
        places = list(break_evens(results, _judged(results))) if results.study.break_evens else []
    tests: list[Sequence[FamilyTest]] = [group.tests() for group in groups]
    tests += [[test for _, test in place.tests] for place in places]
    judged = iter(judge_family([test for each in tests for test in each]))
    verdicts: list[Verdict] = []
    for group, each in zip(groups, tests, strict=False):
        mine = [next(judged) for _ in each]
        verdicts += _of_rate(group, mine) if group.rate else _of_cells(group, mine)
    for place in places:
        verdicts += place.verdicts([next(judged) for _ in place.tests])
    return verdicts


def _of_cells(group: _Group, judged: list[Verdict]) -> list[Verdict]:
    """The verdict on all cells, then those of the cells in the study's order."""
    *tested, pooled = judged
    by_cell = iter(tested)
    cells = []
    if not group.cells:
        none = "no cell of this form of the study has the values that the claim is about"
        return [_named(Verdict(guarantee="", status="not applicable", reason=none), group)]
    for cell, required, _, why in group.cells:
        verdict = (
            Verdict(guarantee="", status="not applicable", reason=why, side=required.side)
            if why
            else next(by_cell)
        )
        cells.append(replace(_named(verdict, group), cell=cell.id, where=str(cell)))
    return [_named(_overall(group, cells, pooled), group), *cells]


def _named(verdict: Verdict, group: _Group) -> Verdict:
    g = group.guarantee
    return replace(
        verdict,
        guarantee=g.name,
        kind=g.kind,
        standing=g.standing,
        metric=g.metric,
        estimator=group.estimator,
        source=g.source,
        alpha=group.alpha,
    )


def _overall(group: _Group, cells: list[Verdict], pooled: Verdict) -> Verdict:
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
        form=group.cells[0][1].form,
        family=pooled.family if pooled.adjusted is not None else max((v.family for v in cells), default=1),
        reason=f"{listed} of {len(cells)} cells",
    )
    if ratios := [v.tightness for v in live if math.isfinite(v.tightness)]:
        base = replace(base, tightness=float(np.median(ratios)))
    together = pooled.adjusted is not None
    if not together and len(live) == 1:  # its evidence is all there is
        base = replace(base, interval=live[0].interval, reason=f"{base.reason}; {live[0].reason}")
    elif together:
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
    elif together and (not base.failures or pooled.trials):
        status = pooled.status  # a mean has none where trials failed; a rate has counted them
    else:
        status = "holds" if count["holds"] == len(live) else "inconclusive"
    return replace(base, status=status)


def _of_rate(group: _Group, judged: list[Verdict]) -> list[Verdict]:
    """The verdict on a rate, which speaks about all cells together."""
    usable = [sample for _, _, sample in group.tested if sample.size]
    reasons = [why for *_, why in group.cells if why]
    failures = sum(sample.failures for sample in usable)
    if not usable:
        reason = reasons[0] if reasons else "no cells"
        return [_named(Verdict(guarantee="", status="not applicable", reason=reason), group)]
    if failures:
        text = f"{failures} failed trials have no finite error, so the mean has none"
        return [_named(Verdict(guarantee="", status="violated", failures=failures, reason=text), group)]
    skipped = f"; {len(reasons)} cells outside the hypotheses ({reasons[0]})" if reasons else ""
    return [_named(replace(judged[0], reason=judged[0].reason + skipped), group)]


def _groups(results: Results, anytime: bool) -> Iterable[_Group]:
    from colora_theory.results.rows import FAILURES
    from colora_theory.studies.study import guarantee_of

    study = results.study
    if not study.guarantees:
        return
    frame = results.frame(cell_id=True)
    for spec in study.guarantees:
        guarantee = guarantee_of(spec)
        stored = f"guarantee:{spec.name}" in results.columns  # not so by versions that judged it otherwise
        realised = results.guarantee_values(spec.name) if guarantee.per_trial and stored else None
        for estimator in study.estimators:
            if spec.estimator not in (None, estimator.label):
                continue
            told = guarantee.told_too_much(estimator.cls)
            meant = not guarantee.estimators or estimator.name in guarantee.estimators
            if spec.estimator is None and (told or not meant):
                continue
            group = _Group(guarantee, estimator.label, spec.alpha or ALPHA, anytime=anytime)
            # trials that decided when to stop (run_options.deciding) are not judged by tests for fixed numbers
            halved = study.run.adaptive and guarantee.kind != "certificate" and (group.rate or not anytime)
            mine = frame[(frame.estimator == estimator.label) & (frame.metric == guarantee.metric)]
            claims = None if realised is None else realised[realised.estimator == estimator.label]
            if halved:
                mine = mine[judged(mine.trial)]
                claims = None if claims is None else claims[judged(claims.trial)]
            rows_of, inside_of = by_cell(mine), None if claims is None else by_cell(claims)
            for cell in study.cells:
                rows, inside = rows_of(cell), None if inside_of is None else inside_of(cell)
                sample, why = _sample(guarantee, cell.problem, rows, inside, FAILURES)
                why = why or told
                group.cells.append((cell, requirement_of(guarantee, cell.problem, spec.delta), sample, why))
            yield group


def _judged(results: Results) -> Any:
    """Rows that verdicts about methods may use: with adaptive stopping not those that decided when to stop."""
    frame = results.frame(cell_id=True)
    return frame[judged(frame.trial)] if results.study.run.adaptive else frame


def _comparisons(results: Results) -> Iterable[_Group]:
    if results.study.comparisons:
        for claim, who, alpha, cells in compared(results, _judged(results)):
            yield _Group(claim, who, alpha, cells=list(cells))


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
