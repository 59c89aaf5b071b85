"""Claims of a study about its methods: one against another in every cell, and where two are equally good."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy

from colora_theory.model.linalg import Array
from colora_theory.results.rows import FAILURES
from colora_theory.studies.cells import matching
from colora_theory.studies.claims import rivals
from colora_theory.verdicts.judge import MIN_TRIALS, Requirement, Sample
from colora_theory.verdicts.verdict import ALPHA, Verdict

if TYPE_CHECKING:
    import pandas as pd

    from colora_theory.results.results import Results
    from colora_theory.studies.cells import Cell
    from colora_theory.studies.schema import BreakEvenTable
    from colora_theory.studies.study import Study


@dataclass(frozen=True)
class Comparison:
    """What verdicts say about a `[[comparison]]` with one method: the fields of a guarantee that they name."""

    name: str
    metric: str
    side: str
    kind: ClassVar[str] = "comparison"
    standing: ClassVar[str] = "stated by its author"
    source: ClassVar[str] = ""
    per_trial: ClassVar[bool] = True


def compared(
    results: Results, frame: pd.DataFrame
) -> Iterator[tuple[Comparison, str, float, list[tuple[Cell, Requirement, Sample, str]]]]:
    """Every comparison with every rival: the claim, who is compared, its level, and its cells with their samples.

    A claim that one mean is at most c times another is one about the mean of paired differences: trials have the
    same data for all methods. `frame` : rows that may be judged, as `Results.frame(cell_id=True)` gives them.
    """
    study = results.study
    for table in study.comparisons:
        side, factor = ("upper", table.at_most) if table.at_most is not None else ("lower", table.at_least)
        assert factor is not None
        for rival in rivals(table):
            claim = Comparison(table.name, table.metric, side)
            who = f"{table.estimator} {'≤' if side == 'upper' else '≥'} {factor:g} × {rival}"
            cells = []
            mine_of, other_of = (_values(frame, label, table.metric) for label in (table.estimator, rival))
            for cell in study.cells:
                if not matching(cell.varied, table.where):
                    continue
                mine, other = mine_of(cell), other_of(cell).add_prefix("rival_")
                both = mine.join(other, how="inner")
                claimed = factor * both["rival_value"].where(~both["rival_status"].isin(FAILURES))
                broken = both["status"].isin(FAILURES)
                sample = Sample.of(both["value"], claimed, broken, both.index)
                cells.append((cell, Requirement(side, "mean"), sample, ""))
            yield claim, who, table.alpha or ALPHA, cells


def by_cell(frame: pd.DataFrame) -> Callable[[Cell], pd.DataFrame]:
    """What gives the rows of a cell, found once for all cells."""
    found = {str(number): rows for number, rows in frame.groupby("cell", sort=False)}
    none = frame.iloc[:0]
    return lambda cell: found.get(cell.id, none)


def _values(frame: pd.DataFrame, label: str, metric: str) -> Callable[[Cell], pd.DataFrame]:
    """What gives value and status of every trial of a cell, indexed by trial."""
    rows = frame[(frame.estimator == label) & (frame.metric == metric)].set_index("trial")
    found = by_cell(rows[["cell", "value", "status"]])
    return lambda cell: found(cell)[["value", "status"]]


# --- where two methods are equally good --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class BreakEvenTest:
    """Whether two methods are equally good where a prediction says so, along cells of one value of a field.

    along : shape (cells,), increasing. measured, predicted : lists of paired differences of the two methods in the
    trials of each cell, each of shape (trials,). failures : trials in which one of the four numbers is missing.
    """

    along: Array
    measured: Sequence[Array]
    predicted: Sequence[Array]
    within: float
    alpha: float = ALPHA
    failures: int = 0

    def found(self) -> tuple[float, float, float]:
        """Where the measured and the predicted means cross zero, and the standard error of their difference."""
        ways = [
            crossing(self.along, np.array([d.mean() for d in kind])) for kind in (self.measured, self.predicted)
        ]
        (met, slope), (foretold, slope_of) = ways
        variance = 0.0
        for j, (d, p) in enumerate(zip(self.measured, self.predicted, strict=True)):
            variance += float((slope[j] * d - slope_of[j] * p).var(ddof=1)) / len(d)
        return met, foretold, math.sqrt(variance)

    @property
    def enough(self) -> bool:
        """Whether there are cells and trials to judge from, and none without a number."""
        return not self.failures and len(self.along) >= 2 and min(len(d) for d in self.measured) >= MIN_TRIALS

    def p_value(self) -> float | None:
        if not self.enough:
            return None
        met, foretold, error = self.found()
        if math.isnan(met - foretold):
            return None
        beyond = abs(met - foretold) - self.within
        return float(2.0 * scipy.stats.norm.sf(beyond / error)) if beyond > 0 and error > 0 else float(beyond <= 0)

    def verdict(self, family: int, adjusted: float | None) -> Verdict:
        base = Verdict(
            guarantee="",
            status="inconclusive",
            side="equality",
            form="mean",
            trials=sum(len(d) for d in self.measured),
            failures=self.failures,
            alpha=self.alpha,
            family=family,
            adjusted=adjusted,
        )
        if self.failures:
            return replace(base, reason=f"{self.failures} trials lack a number, so the means have none")
        if not self.enough:
            return replace(base, reason=f"needs at least two cells of {MIN_TRIALS} trials")
        met, foretold, error = self.found()
        low, high = self.along[0], self.along[-1]
        for what, place in (("the methods", met), ("their predicted errors", foretold)):
            if math.isnan(place):
                return replace(base, reason=f"{what} do not cross between {low:.3g} and {high:.3g}")
        wide = float(scipy.stats.norm.isf(self.alpha / family / 2.0)) * error
        interval = (met - foretold - wide, met - foretold + wide)
        status = "holds" if max(-interval[0], interval[1]) <= self.within else "inconclusive"
        if adjusted is not None and adjusted <= self.alpha:
            status = "violated"
        return replace(
            base,
            status=status,
            observed=met,
            claimed=foretold,
            interval=interval,
            p_value=self.p_value(),
            reason=(
                f"equally good at {met:.3g}, predicted at {foretold:.3g}; difference in "
                f"[{interval[0]:.3g}, {interval[1]:.3g}], claimed within {self.within:g}"
            ),
        )


def crossing(along: Array, means: Array) -> tuple[float, Array]:
    """Where the line through the means crosses zero, from the largest `along` down, and its gradient in the means.

    NaN where it does not.
    """
    slope = np.zeros(len(means))
    for j in range(len(means) - 1, 0, -1):
        low, high = means[j - 1], means[j]
        if low * high <= 0.0 and low != high:
            width, gap = along[j] - along[j - 1], low - high
            slope[j - 1], slope[j] = -width * high / gap**2, width * low / gap**2
            return float(along[j - 1] + width * low / gap), slope
    return math.nan, slope


@dataclass(frozen=True)
class BreakEven:
    """A `[[break_even]]`: what its verdicts say of themselves, and a test at every value of its field."""

    base: Verdict
    tests: list[tuple[str, BreakEvenTest]]

    def verdicts(self, judged: list[Verdict]) -> list[Verdict]:
        """The verdict on the whole claim, as bad as the worst of its parts, and those of the parts."""
        base, parts = self.base, []
        for (where, _), each in zip(self.tests, judged, strict=True):
            about = replace(each, guarantee=base.guarantee, kind=base.kind, standing=base.standing, cell=where)
            parts.append(replace(about, metric=base.metric, estimator=base.estimator, where=where))
        statuses = {part.status for part in parts}
        status = "violated" if "violated" in statuses else "holds" if statuses == {"holds"} else "inconclusive"
        whole = replace(
            base,
            status=status,
            trials=sum(part.trials for part in parts),
            failures=sum(part.failures for part in parts),
            form="mean",
            reason="; ".join(f"{part.where}: {part.reason}" for part in parts),
        )
        return [whole, *parts]


def break_evens(results: Results, frame: pd.DataFrame) -> Iterator[BreakEven]:
    """Every claim about break-even places with its tests; `frame` as for `compared`."""
    study = results.study
    for table in study.break_evens:
        base = Verdict(
            guarantee=table.name,
            status="inconclusive",
            kind="comparison",
            standing=Comparison.standing,
            metric=table.metric,
            estimator=f"{table.estimator} = {table.of}",
            alpha=table.alpha or ALPHA,
        )
        values = dict.fromkeys(cell.varied[table.each] for cell in study.cells)
        tests = [(f"{table.each} = {value}", _along(study, frame, table, value)) for value in values]
        yield BreakEven(base, tests)


def _along(study: Study, frame: pd.DataFrame, table: BreakEvenTable, value: Any) -> BreakEvenTest:
    """The cells with one value of the claim's field, ordered by the mean of the metric along which they lie."""
    places: list[tuple[float, Array, Array]] = []
    missing = 0
    kinds = (table.metric, table.predicted, table.along)
    found = {m: [_values(frame, label, m) for label in (table.estimator, table.of)] for m in kinds}
    for cell in study.cells:
        if cell.varied[table.each] != value:
            continue
        columns = {}
        for metric, ways in found.items():
            one, two = (way(cell)["value"] for way in ways)
            together = one.index.intersection(two.index)
            columns[metric] = (one if metric == table.along else one - two)[together]
        numbers = np.array([columns[m].to_numpy(float) for m in (table.along, table.metric, table.predicted)])
        missing += int(np.isnan(numbers).any(0).sum())
        if numbers.shape[1]:
            places.append((float(np.nanmean(numbers[0])), numbers[1], numbers[2]))
    places.sort(key=lambda place: place[0])
    measured, predicted = [place[1] for place in places], [place[2] for place in places]
    at = np.array([place[0] for place in places])
    return BreakEvenTest(at, measured, predicted, table.within, table.alpha or ALPHA, missing)
