"""The one process that adds rows to a store."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from colora_theory.results.checksum import row_hash
from colora_theory.results.rows import Row
from colora_theory.results.store import (
    CHECKSUM,
    FILE,
    connect,
    create,
    damage,
    lock,
    quoted,
    set_meta,
    value_columns,
)

if TYPE_CHECKING:
    from colora_theory.studies.study import Study

COMMIT_ROWS: Final = 1000
COMMIT_SECONDS: Final = 2.0

#: What a store will say of itself, from its file when it exists already; refuses what may not be added to it.
Describe: TypeAlias = Callable[[Path | None], dict[str, Any]]


class Writer:
    """The one process that adds rows. Holds a lock on the folder for as long as it is open.

    `hold` leaves the first transaction open, for a caller that may still refuse everything.
    """

    def __init__(
        self, out: Path, study: Study, columns: Sequence[str], describe: Describe, *, hold: bool = False
    ) -> None:
        self._lock = lock(out)
        self._file = file = out / FILE
        self._created = False
        try:
            # Under the lock, so that no other study can come in between the question and the first row.
            with damage(file):
                about = {**describe(file if file.exists() else None), "open": True}
            if not file.exists():
                create(file, columns, about)
                self._created = True
            self.connection = connect(file, write=True)
            self.about = about
            with damage(file):
                set_meta(self.connection, {"open": True})  # before the log, so that a copy without the log says so
                self.connection.execute(CHECKSUM)
                self.connection.execute("PRAGMA journal_mode = WAL")
                self.connection.execute("PRAGMA synchronous = NORMAL")
                self._prepare(study, about, hold)
            self._pending, self._committed, self._abandoned = 0, time.monotonic(), False
        except BaseException:
            if hasattr(self, "connection"):
                self.connection.close()
            self._lock.close()
            raise

    def _prepare(self, study: Study, about: dict[str, Any], hold: bool) -> None:
        """Write what the store says of itself, and read what it holds already."""
        self._columns = value_columns(self.connection)
        self.connection.execute("BEGIN")
        set_meta(self.connection, about)
        cells, estimators = study.cells, study.estimators
        cell_ids = self._ids(
            "cell (key, position, content, varied)",
            [cell.id for cell in cells],
            lambda i: (json.dumps(cells[i].setting.content()), json.dumps(cells[i].varied)),
        )
        estimator_ids = self._ids("estimator (key, position)", [spec.label for spec in estimators], lambda i: ())
        self.cells = [cell_ids[cell.id] for cell in cells]
        self.estimators = [estimator_ids[spec.label] for spec in estimators]
        self._names = [{row: key for key, row in ids.items()} for ids in (cell_ids, estimator_ids)]
        marks = ", ".join("?" * (5 + len(self._columns)))
        self._insert = f"INSERT INTO trial VALUES ({marks})"
        self._touched: set[tuple[int, int, str]] = set()
        self._forget()
        if self._has_rows("tally") and not self._has_rows("checksum"):  # a store of version 0.1
            self._sum_up()
        if not hold:
            self.connection.execute("COMMIT")

    def _ids(self, target: str, keys: Sequence[str], content: Callable[[int], tuple[str, ...]]) -> dict[str, int]:
        """Return the row ids of all cells or estimators by key, once those of the study have their positions.

        content : what a new one says of itself, by its position.
        """
        table, marks = target.partition(" ")[0], ", ".join("?" * (1 + target.count(",")))
        known = dict(self.connection.execute(f"SELECT key, position FROM {table}").fetchall())
        self.connection.executemany(
            f"INSERT INTO {target} VALUES ({marks}) ON CONFLICT (key) DO UPDATE SET position = excluded.position",
            [(key, i, *content(i)) for i, key in enumerate(keys) if known.get(key) != i],
        )
        return dict(self.connection.execute(f"SELECT key, id FROM {table}").fetchall())

    def _forget(self) -> None:
        """Start without tallies and checksums in memory; those of a group are read when it gets rows."""
        self._tally: dict[tuple[int, int, str], tuple[int, float, float]] = {}
        self._sums: dict[tuple[int, int], int] = {}

    def _recall(self, cell: int, estimator: int) -> None:
        """Read the tallies and the checksum of a group, unless they are known."""
        key = cell, estimator
        if key in self._sums:
            return
        where = "WHERE cell = ? AND estimator = ?"
        with damage(self._file):
            for name, n, *moments in self.connection.execute(f"SELECT name, n, mean, m2 FROM tally {where}", key):
                mean, m2 = map(float, moments)
                self._tally[cell, estimator, name] = int(n), mean, m2
            found = self.connection.execute(f"SELECT sum FROM checksum {where}", key).fetchone()
            self._sums[key] = 0 if found is None else int(found[0])

    def set_meta(self, **entries: Any) -> None:
        """Write entries of the store's description (in the running transaction, if there is one)."""
        if not self._abandoned:
            set_meta(self.connection, entries)

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows; they are durable after the next commit, which happens by itself."""
        rows = list(rows)
        if not rows:
            return
        with self._all_or_nothing():
            if not self._pending:
                self.connection.execute("BEGIN")
            self._pending += len(rows)
            self.connection.executemany(
                self._insert,
                [
                    (self.cells[r.cell], self.estimators[r.estimator], r.trial, r.status, r.message, *r.values)
                    for r in rows
                ],
            )
            for (c, e), group in _grouped(rows).items():
                cell, estimator = self.cells[c], self.estimators[e]
                self._recall(cell, estimator)
                self._sum(cell, estimator, ((row.trial, row.status, row.message, *row.values) for row in group))
                for status, number in Counter(row.status for row in group).items():
                    self._count((cell, estimator, f"status:{status}"), [0.0] * number)
                for name, column in zip(
                    self._columns, zip(*(row.values for row in group), strict=True), strict=True
                ):
                    self._count((cell, estimator, name), [v for v in column if v is not None])
        self.tick()

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Give up the running transaction, and all later ones, when anything (a full disk, Ctrl-C) cuts in:
        the tally must never be committed without the rows it counts, nor the rows without it.
        """
        try:
            yield
        except BaseException:
            self._abandoned = True
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def _count(self, key: tuple[int, int, str], values: list[float]) -> None:
        """Add numbers to a tally of count, mean and sum of squared deviations (Welford 1962)."""
        if not values:
            return
        n, mean, m2 = self._tally.get(key, (0, 0.0, 0.0))
        for value in values:
            n += 1
            delta = value - mean
            mean += delta / n
            m2 += delta * (value - mean)
        self._tally[key] = (n, mean, m2)
        self._touched.add(key)

    def _sum(self, cell: int, estimator: int, rows: Iterable[Sequence[Any]]) -> None:
        """Add rows of a cell and estimator, as they are stored, to their checksum."""
        names = self._names[0][cell], self._names[1][estimator]
        total = self._sums.get((cell, estimator), 0)
        for row in rows:
            total += row_hash((*names, *row))
        self._sums[cell, estimator] = total % 2**64

    def _sum_up(self) -> None:
        """Compute the checksums afresh from the rows."""
        self._sums = self._sums_of_rows()
        self._write_sums(self._sums)
        self._forget()

    def _sums_of_rows(self) -> dict[tuple[int, int], int]:
        self._forget()
        for cell, estimator, *row in self.connection.execute("SELECT * FROM trial"):
            self._sum(cell, estimator, [row])
        return self._sums

    def _check_sums(self) -> None:
        """Refuse rows that are not those that were written: sums computed afresh would hide it."""
        told = self.connection.execute("SELECT cell, estimator, sum FROM checksum").fetchall()
        if {(cell, estimator): int(total) for cell, estimator, total in told} != self._sums_of_rows():
            raise ValueError("rows are not those that were written")

    def _write_sums(self, keys: Iterable[tuple[int, int]]) -> None:
        self.connection.executemany(
            "INSERT OR REPLACE INTO checksum VALUES (?, ?, ?)", [(*key, str(self._sums[key])) for key in keys]
        )

    def tick(self) -> None:
        """Commit if it is time to."""
        if self._pending >= COMMIT_ROWS or time.monotonic() - self._committed >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Make all added rows durable."""
        if self._pending and not self._abandoned:
            with self._all_or_nothing():
                self.connection.executemany(
                    "INSERT OR REPLACE INTO tally VALUES (?, ?, ?, ?, ?, ?)",
                    [(*key, *(_storable(v) for v in self._tally[key])) for key in self._touched],
                )
                self._write_sums({key[:2] for key in self._touched})
                self.connection.execute("COMMIT")
            self._touched.clear()
        self._pending, self._committed = 0, time.monotonic()

    def stored(self, most: int) -> list[list[bytearray]]:
        """Which trials below `most` are stored, for each cell and estimator of the study: 1 at their numbers."""
        marks = [[bytearray() for _ in self.estimators] for _ in self.cells]
        cells, estimators = ({row: i for i, row in enumerate(ids)} for ids in (self.cells, self.estimators))
        below = "CASE WHEN trial < :most THEN trial END"
        query = (
            f"SELECT cell, estimator, count({below}), min({below}), max({below}), "
            "sum(typeof(trial) <> 'integer' OR trial < 0) FROM trial GROUP BY cell, estimator"
        )
        with damage(self._file):
            for *key, count, first, last, strange in self.connection.execute(query, {"most": most}):
                if strange:
                    raise ValueError(f"numbers of {strange} trials are none")
                if not count or key[0] not in cells or key[1] not in estimators:
                    continue
                mark = marks[cells[key[0]]][estimators[key[1]]]
                mark.extend(bytes(first) + b"\1" * (last + 1 - first))
                if count != last + 1 - first:  # with gaps
                    mark[:] = bytes(last + 1)
                    each = "SELECT trial FROM trial WHERE cell = ? AND estimator = ? AND trial < ?"
                    for (trial,) in self.connection.execute(each, (*key, most)):
                        mark[trial] = 1
        return marks

    def values(self, cell: int, estimator: int, name: str, trials: range) -> list[float]:
        """The numbers of some trials, in trial order, where defined."""
        query = (
            f"SELECT {quoted(name)} FROM trial WHERE cell = ? AND estimator = ? AND trial >= ? AND trial < ? "
            f"AND (trial - ?) % ? = 0 AND {quoted(name)} IS NOT NULL ORDER BY trial"
        )
        key = (self.cells[cell], self.estimators[estimator], trials.start, trials.stop, trials.start, trials.step)
        with damage(self._file):
            return [float(value) for (value,) in self.connection.execute(query, key)]

    def forget_failures(self, statuses: Sequence[str]) -> dict[str, int]:
        """Delete the failed rows with these statuses, so that they are run again; return how many of each."""
        counts: dict[str, int] = {}
        with self._all_or_nothing():
            self.connection.execute("BEGIN")
            with damage(self._file):
                self._check_sums()
            for status in statuses:
                done = self.connection.execute("DELETE FROM trial WHERE status = ?", (status,)).rowcount
                counts |= {status: done} if done else {}
            self.recount()
            self.connection.execute("COMMIT")
        return counts

    def abandon(self) -> None:
        """Give up what is not committed; a store that was only just created is removed by `close`."""
        self._abandoned = True
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def _has_rows(self, table: str = "trial") -> bool:
        return self.connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None

    def recount(self) -> None:
        """Compute the tally and the checksums afresh from the rows (inside the running transaction)."""
        self.connection.execute("DELETE FROM checksum")
        self._sum_up()
        execute = self.connection.execute
        execute("DELETE FROM tally")
        execute(
            "INSERT INTO tally SELECT cell, estimator, 'status:' || status, count(*), 0.0, 0.0 FROM trial "
            "GROUP BY cell, estimator, status"
        )
        for name in map(quoted, self._columns):
            execute(
                f"INSERT INTO tally SELECT t.cell, t.estimator, ?, count(*), m, sum(({name} - m) * ({name} - m)) "
                f"FROM trial t JOIN (SELECT cell, estimator, avg({name}) AS m FROM trial GROUP BY 1, 2) a "
                f"ON a.cell = t.cell AND a.estimator = t.estimator WHERE {name} IS NOT NULL GROUP BY 1, 2",
                (name[1:-1],),
            )

    def close(self) -> None:
        """Commit, fold the write-ahead log into the file, release the lock. May be called twice."""
        if self._lock.closed:
            return
        try:
            self.commit()
            if self._abandoned and self._created and not self._has_rows():
                self.connection.close()  # nothing came of it: no empty store is left behind
                for file in (self._file, self._file.with_name(self._file.name + "-wal")):
                    file.unlink(missing_ok=True)
                return
            # A finished store is one plain file: copyable, readable on read-only media. Fails while being read.
            try:
                self.connection.execute("PRAGMA busy_timeout = 200")
                self.connection.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.OperationalError:
                pass
            set_meta(self.connection, {"open": False})
            self.connection.close()
        finally:
            self._lock.close()


def _grouped(rows: Iterable[Row]) -> dict[tuple[int, int], list[Row]]:
    """Rows by cell and estimator."""
    out: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        out.setdefault((row.cell, row.estimator), []).append(row)
    return out


def _storable(value: float) -> float:
    return value if math.isfinite(value) else 0.0  # moments that overflow: SQLite has no NaN
