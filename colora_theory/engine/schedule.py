"""Which trials are left to do, handed out in chunks: batch by batch over all cells, so that every point of a
figure grows at the same pace. Time decides nothing here but the size of a chunk, so results never depend on it.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from colora_theory.engine.trial import CHUNK_SECONDS, Segment
from colora_theory.results.rows import Row
from colora_theory.studies.study import Study

#: More trials than this are never in one chunk, so that memory stays bounded however small the trials are.
MOST_TRIALS: Final = 5000
#: A unit (trial × estimator) whose worker died this often is given up.
MOST_KILLS: Final = 2


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` (0 and `count` are the same part)."""

    index: int = 0
    count: int = 1

    def has(self, number: int) -> bool:
        """Whether the item of this number belongs to the part."""
        return number % self.count == self.index % self.count


@dataclass(frozen=True)
class Chunk:
    """Segments that one worker runs together; `alone`: a single trial × estimator, run by itself."""

    segments: tuple[Segment, ...]
    alone: bool = False

    def units(self) -> Iterator[Segment]:
        """Every trial × estimator as a segment of its own."""
        for segment in self.segments:
            yield from _units(segment, segment.estimators)


class Schedule:
    """The trials of a study that are not stored yet.

    stored : stored[cell][estimator][trial] is 1 when that row exists (arrays may be shorter than the study).
    finished : asked once per cell at each complete batch (first trial not in it); True ends the cell. None: never.
    """

    def __init__(
        self,
        study: Study,
        stored: list[list[bytearray]],
        shard: Shard,
        workers: int,
        finished: Callable[[int, int], bool] | None,
    ) -> None:
        self._study, self._stored, self._shard, self._workers = study, stored, shard, workers
        self._finished, self._most, self._batch = finished, study.run.most_trials, study.run.batch
        ordered = sorted(range(len(study.cells)), key=lambda i: study.cells[i].words)
        self._order = {cell: place for place, cell in enumerate(ordered)}
        cells = [c for c in range(len(study.cells)) if finished is None or shard.has(self._order[c])]
        left = {cell: self._missing(cell, 0, self._most) for cell in cells}
        self.units_left = sum(left.values())
        # (cell, first trial of its next batch); a complete cell has none, unless batches decide how many there are
        self._waiting = deque((cell, 0) for cell in cells if left[cell] or finished is not None)
        self._ready: deque[Segment] = deque()
        self._alone: deque[Segment] = deque()
        self._open: Counter[int] = Counter()  # units of the cell's current batch that are not stored yet
        self._stop: dict[int, int] = {}
        self.stopped: dict[str, int] = {}  # cell id → trials at which its target was met
        self._kills: Counter[Segment] = Counter()
        self._killers: set[int] = set()  # estimators that killed a worker while alone in it
        self._seconds: dict[int, float] = {}  # per trial, by cell
        self._latest: float | None = None

    @property
    def trials_left(self) -> int:
        """Trials still to run; with adaptive stopping, the most there can be."""
        return math.ceil(self.units_left / len(self._study.estimators))

    def _trials(self, cell: int, start: int, stop: int) -> range:
        """The shard's trials among [start, stop); with adaptive stopping, a shard has whole cells."""
        if self._finished is not None or self._shard.count == 1:
            return range(start, stop)
        # Trials congruent to index - place, so that the shards share the cells' remainders evenly.
        step = self._shard.count
        first = start + (self._shard.index - self._order[cell] - start) % step
        return range(first, stop, step)

    def _missing(self, cell: int, start: int, stop: int) -> int:
        trials = self._trials(cell, start, stop)
        return sum(len(trials) - sum(s[trials.start : trials.stop : trials.step]) for s in self._stored[cell])

    def _open_batch(self) -> bool:
        """Move the next batch to `_ready`; False when none is waiting."""
        if not self._waiting:
            return False
        cell, start = self._waiting.popleft()
        stop = min(start + self._batch, self._most)
        todo: dict[tuple[int, ...], list[int]] = {}
        for trial in self._trials(cell, start, stop) if self._missing(cell, start, stop) else ():
            missing = tuple(e for e, s in enumerate(self._stored[cell]) if trial >= len(s) or not s[trial])
            if missing:
                todo.setdefault(missing, []).append(trial)
        here = self._study.cells[cell]
        for missing, trials in todo.items():
            self._ready.append(Segment(cell, here.words, here.setting, tuple(trials), missing))
        self._stop[cell] = stop
        self._open[cell] = sum(len(missing) * len(trials) for missing, trials in todo.items())
        if self._finished is None:
            self._continue(cell)
        elif not self._open[cell]:
            self._decide(cell)
        return True

    def _continue(self, cell: int) -> None:
        if self._stop[cell] < self._most:
            self._waiting.append((cell, self._stop[cell]))

    def _decide(self, cell: int) -> None:
        assert self._finished is not None
        if self._finished(cell, self._stop[cell]):
            self.units_left -= self._missing(cell, self._stop[cell], self._most)
            self.stopped[self._study.cells[cell].id] = self._stop[cell]
        else:
            self._continue(cell)

    def _next(self) -> Segment | None:
        while not self._ready:
            if not self._open_batch():
                return None
        segment = self._ready.popleft()
        if self._killers.isdisjoint(segment.estimators):
            return segment
        self._alone.extend(_units(segment, [e for e in segment.estimators if e in self._killers]))
        safe = tuple(e for e in segment.estimators if e not in self._killers)
        return replace(segment, estimators=safe) if safe else self._next()

    def take(self, isolated: bool = True) -> Chunk | None:
        """Return work for one worker, or None when nothing can be done right now.

        Units to be run alone come first; without `isolated` nothing is returned while there are any.
        """
        if self._alone:
            return Chunk((self._alone.popleft(),), alone=True) if isolated else None
        segments: list[Segment] = []
        seconds, count, limit = 0.0, 0, self._share()
        while count < limit and seconds < CHUNK_SECONDS:
            segment = self._next()
            if segment is None:
                break
            each = self._seconds.get(segment.cell, self._latest)
            fitting = limit - count
            if each is not None:
                fitting = min(fitting, max(1, int((CHUNK_SECONDS - seconds) / max(each, 1e-6))))
            if len(segment.trials) > fitting:
                self._ready.appendleft(replace(segment, trials=segment.trials[fitting:]))
                segment = replace(segment, trials=segment.trials[:fitting])
            segments.append(segment)
            count += len(segment.trials)
            seconds += len(segment.trials) * (each or 0.0)
        if not segments and self._alone:  # all that was ready must be run alone
            return self.take(isolated)
        return Chunk(tuple(segments)) if segments else None

    def _share(self) -> int:
        """Most trials for one chunk: fewer near the end, so that all workers finish together."""
        share = self.trials_left if self._workers == 1 else math.ceil(self.trials_left / (2 * self._workers))
        least = int(CHUNK_SECONDS / 10 / self._latest) if self._latest else 1
        return min(MOST_TRIALS, max(1, share, least))

    def measured(self, chunk: Chunk, trials: int, seconds: float) -> None:
        """Learn how long a trial takes."""
        self._latest = seconds / max(trials, 1)
        for segment in chunk.segments:
            self._seconds[segment.cell] = self._latest

    def put_back(self, segments: Iterable[Segment]) -> None:
        """Take back what a worker did not get to."""
        self._ready.extendleft(reversed(list(segments)))

    def stored_now(self, rows: Iterable[Row]) -> None:
        """Note that rows are in the store."""
        for row in rows:
            self.units_left -= 1
            self._open[row.cell] -= 1
            if not self._open[row.cell] and self._finished is not None:
                self._decide(row.cell)

    def died(self, chunk: Chunk, values: int, timed_out: bool, reason: str) -> list[Row]:
        """Note that the worker died under a chunk; return the rows (of `values` empty numbers) to be given up.

        Units that died in company are run again alone, to find which one did it.
        """
        rows = []
        for unit in chunk.units():
            self._kills[unit] += 1
            if not chunk.alone or (self._kills[unit] < MOST_KILLS and not timed_out):
                self._alone.append(unit)
                continue
            status = "timeout" if timed_out else "crashed"
            message = "the fit outlived run.timeout in native code" if timed_out else f"the worker died: {reason}"
            empty = (None,) * values
            rows.append(Row(unit.cell, unit.estimators[0], unit.trials[0], status, message, empty))
            self._killers.add(unit.estimators[0])
        return rows


def _units(segment: Segment, estimators: Iterable[int]) -> Iterator[Segment]:
    for trial in segment.trials:
        for estimator in estimators:
            yield replace(segment, trials=(trial,), estimators=(estimator,))
