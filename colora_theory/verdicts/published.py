"""Published numbers against the study's own, point by point.

Two samples: a test of the difference of the means from the published mean, standard deviation and number of
repetitions, corrected for the skewness of our trials (see `two_samples`). Paired: the t-test with Hall's
correction on the differences trial by trial. All points of a paper form one family, at a stated level, by Holm's
method; points judged in other studies count as members that are not rejected.

A point that is rejected differs, unless counting says that its samples do not determine the shared model, so that
no number is the right one; or unless the study explains it: then the estimator that the explanation names must
agree with the published number by the same test.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy

from colora_theory.guarantees.counting import enough_samples
from colora_theory.model.linalg import Array
from colora_theory.studies.published import Point, points_of
from colora_theory.verdicts.judge import MIN_TRIALS
from colora_theory.verdicts.statistics import doubted, holm, skewed_mean

if TYPE_CHECKING:
    from colora_theory.results.results import Results
    from colora_theory.studies.cells import Cell
    from colora_theory.studies.schema import ExplainedTable, PublishedTable

STATUSES: Final = ("agrees", "differs", "not converged", "not identifiable", "inconclusive", "not run")
#: Differences below this share of the published number are rounding.
ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class MeanTest:
    """A comparison of two means: p-value, difference (ours less theirs) and its interval at the family's level.

    why : why there is none, or "".
    """

    p_value: float = 1.0
    difference: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    ours: float = math.nan
    trials: int = 0
    why: str = ""


@dataclass(frozen=True)
class PointVerdict:
    """One published point and its verdict, one of STATUSES.

    explained : whether a verdict that is no "agrees" has an explanation that a run confirms ("not identifiable" is
    its own). explanation : its text. adjusted : p-value after Holm's method over `family` points of the paper.
    """

    point: Point
    paper: str
    status: str
    test: MeanTest
    adjusted: float = 1.0
    level: float = 0.05
    family: int = 1
    cell: str = ""
    explained: bool = False
    explanation: str = ""
    reason: str = ""

    @property
    def open(self) -> bool:
        """Whether the point differs and nothing explains it."""
        return self.status == "differs" and not self.explained

    def __str__(self) -> str:
        place = ", ".join(f"{name} = {value}" for name, value in self.point.where)
        parts = [f"{self.paper} [{self.point.series}, {self.point.metric}, {place}]: {self.status}"]
        if self.test.trials:
            parts.append(f"published {self.point.y:.4g}, ours {self.test.ours:.4g} over {self.test.trials} trials")
        if self.test.trials and not self.test.why:
            low, high = self.test.interval
            parts.append(
                f"difference {self.test.difference:.3g} in [{low:.3g}, {high:.3g}]; p = {self.test.p_value:.2g}, "
                f"Holm over {self.family} points {self.adjusted:.2g}, level {self.level:g}"
            )
        return " – ".join([*parts, *filter(None, [self.reason, self.explanation])])


def compare_published(results: Results) -> list[PointVerdict]:
    """The verdicts on all published points of a study, in the order of its files."""
    with results.snapshot():
        if not results.study.table.published:
            return []
        values = _Values(results)
        return [one for table in results.study.table.published for one in _paper(values, table)]


def tally(comparisons: Sequence[PointVerdict]) -> str:
    """How many points of each verdict: "172 agree, 3 differ (explained)"."""
    count = Counter(c.status for c in comparisons)
    words = {"agrees": "agree" if count["agrees"] != 1 else "agrees"}
    words |= {"differs": "differ" if count["differs"] != 1 else "differs"}
    parts = [f"{count[status]} {words.get(status, status)}" for status in STATUSES if count[status]]
    unexplained = sum(c.open for c in comparisons)
    return ", ".join(parts) + (f" ({unexplained} unexplained)" if unexplained else "")


class _Values:
    """Trials of a study, looked up by cell, estimator and metric: {trial: value}, read once."""

    def __init__(self, results: Results) -> None:
        self.study = results.study
        frame = results.frame(cell_id=True)
        wanted = {point.metric for table in self.study.table.published for point in points_of(table)}
        frame = frame[frame["metric"].isin(wanted) & frame["value"].notna()]
        groups = frame.groupby(["cell", "estimator", "metric"], sort=False)
        self._found = {key: (rows["trial"].to_numpy(), rows["value"].to_numpy(float)) for key, rows in groups}

    def of(self, cell: Cell, label: str, metric: str) -> tuple[Any, Array]:
        """Trials and their values; empty where nothing was measured."""
        return self._found.get((cell.id, label, metric), (np.empty(0, int), np.empty(0)))


def _paper(values: _Values, table: PublishedTable) -> list[PointVerdict]:
    points = points_of(table)
    family = table.family or len(points)
    cells = [next((cell for cell in values.study.cells if point.of(cell)), None) for point in points]

    def tested(number: int, label: str) -> MeanTest:
        cell = cells[number]
        return (
            MeanTest(why="no cell of this run")
            if cell is None
            else _test(values, table, points[number], cell, label)
        )

    tests = [tested(number, point.series) for number, point in enumerate(points)]
    adjusted = _family(tests, family)
    rejected = [n for n, p in enumerate(adjusted) if p <= table.level]
    entries = {n: _entry(table, points[n]) for n in rejected}
    again = {n: tested(n, entry.by) for n, entry in entries.items() if entry is not None}
    agreeing = dict(zip(again, _family(list(again.values()), family), strict=True))
    out = []
    for number, point in enumerate(points):
        cell, test, entry = cells[number], tests[number], entries.get(number)
        base = PointVerdict(
            point,
            table.paper,
            "agrees",
            test,
            adjusted[number],
            table.level,
            family,
            cell=cell.id if cell else "",
        )
        if test.why:
            status = "not run" if cell is None or not test.trials else "inconclusive"
            base = replace(base, status=status, reason=test.why)
        elif number in rejected:
            base = _rejected(base, values, cell, entry, again.get(number), agreeing.get(number, 0.0))
        out.append(base)
    return out


def _family(tests: list[MeanTest], family: int) -> list[float]:
    """Holm's adjusted p-values; points that are not here have p = 1."""
    padded = [test.p_value for test in tests] + [1.0] * (family - len(tests))
    return holm(padded)[: len(tests)]


def _entry(table: PublishedTable, point: Point) -> ExplainedTable | None:
    return next((entry for entry in table.explained if point.matches(entry)), None)


def _rejected(
    base: PointVerdict,
    values: _Values,
    cell: Cell | None,
    entry: ExplainedTable | None,
    again: MeanTest | None,
    adjusted: float,
) -> PointVerdict:
    """The verdict on a point that the test rejects."""
    assert cell is not None
    spec = next(spec for spec in values.study.estimators if spec.label == base.point.series)
    fits = {"rank", "max_sweeps"} <= set(spec.cls.parameters())  # a minimiser of the shared model's objective
    if fits and not (counted := enough_samples(cell.problem)):
        return replace(base, status="not identifiable", explained=True, reason=counted.message)
    if entry is None:
        return replace(base, status="differs", reason="no explanation in the study")
    assert again is not None
    if again.why or adjusted <= base.level:
        told = again.why or f"{again.ours:.4g}, adjusted p = {adjusted:.2g}"
        reason = f"the run that should explain it does not: {entry.by!r} gives {told}"
        return replace(base, status="differs", reason=reason)
    reason = f"explained: {entry.by!r} gives {again.ours:.4g}, which agrees (adjusted p = {adjusted:.2g})"
    text = " ".join(entry.text.split())
    return replace(base, status=entry.verdict, explained=True, explanation=text, reason=reason)


def _test(values: _Values, table: PublishedTable, point: Point, cell: Cell, label: str) -> MeanTest:
    """The test of one point against one estimator."""
    trials, numbers = values.of(cell, label, point.metric)
    if not len(numbers):
        return MeanTest(why="no trial gave a number")
    level = table.level / (table.family or max(1, len(points_of(table))))
    slack = max(table.rounding, ROUNDING * abs(point.y))
    if point.paired:
        theirs = dict(point.paired)
        shared = np.array([trial in theirs for trial in trials])
        if not shared.any():
            return MeanTest(why="none of the published trials was run")
        ours = numbers[shared]
        gaps = ours - np.array([theirs[trial] for trial in trials[shared]])
        base = MeanTest(ours=float(ours.mean()), trials=len(ours), difference=float(gaps.mean()))
        if (np.abs(gaps) <= slack).all():
            return replace(base, interval=(float(gaps.min()), float(gaps.max())))
        if len(gaps) < MIN_TRIALS:
            return replace(base, why=f"needs {MIN_TRIALS} trials of the published seeds, got {len(gaps)}")
        low_p, high_p, low, high = skewed_mean(gaps, level)
        return replace(base, p_value=min(1.0, 2.0 * min(low_p, high_p)), interval=(low, high))
    base = MeanTest(ours=float(numbers.mean()), trials=len(numbers), difference=float(numbers.mean()) - point.y)
    if len(numbers) < MIN_TRIALS or point.reps < 2:
        return replace(
            base, why=f"needs {MIN_TRIALS} trials of ours and 2 of theirs, got {len(numbers)}, {point.reps}"
        )
    spread = point.std * math.sqrt(point.reps / (point.reps - 1)) if table.ddof == 0 else point.std
    return two_samples(base, numbers, spread, point.reps, level, slack)


def two_samples(base: MeanTest, ours: Array, spread: float, reps: int, level: float, slack: float) -> MeanTest:
    """Test of the mean of `ours` against that of `reps` published repetitions with standard deviation `spread`.

    If the point agrees, both samples have one law, whose variance and skewness ours tell. The difference is then
    close to a gamma law (Pearson's type III) of its first three moments, which is exact for errors that are gamma
    distributed and, unlike Student's t with few skewed repetitions, keeps the level far in the tails
    (tests/test_published.py). Caution: the larger of the common and Welch's variance, a skewness up to half as
    large again (`doubted`), and Student's tails for the variance that ours estimate.
    """
    n, variance = len(ours), float(ours.var(ddof=1))
    scale = math.sqrt(max(variance * (1.0 / n + 1.0 / reps), variance / n + spread**2 / reps))
    if scale <= max(slack, 1e-300):  # both are constants
        equal = abs(base.difference) <= max(slack, 1e-300)
        return replace(base, p_value=1.0 if equal else 0.0, interval=(base.difference, base.difference))
    third = float(((ours - ours.mean()) ** 3).mean())
    low, high = doubted(third * (1.0 / n**2 - 1.0 / reps**2) / scale**3)
    z = base.difference / scale
    tail = min(float(scipy.stats.pearson3.sf(z, high)), float(scipy.stats.pearson3.cdf(z, low)))
    p_value = 2.0 * float(scipy.stats.t.sf(scipy.stats.norm.isf(max(tail, 1e-300)), n - 1))
    edge = float(scipy.stats.norm.sf(scipy.stats.t.isf(level / 2.0, n - 1)))
    largest, least = float(scipy.stats.pearson3.isf(edge, high)), float(scipy.stats.pearson3.ppf(edge, low))
    limits = base.difference - scale * largest, base.difference - scale * least
    return replace(base, p_value=min(1.0, p_value), interval=limits)
