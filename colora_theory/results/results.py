"""Results: what is stored of a study, as tables. Also of a running study, and of a mere copy of its store."""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from colora_theory.errors import InputError
from colora_theory.model.checks import check_flag
from colora_theory.results import tables
from colora_theory.results.checksum import row_hash
from colora_theory.results.rows import FAILURES
from colora_theory.results.store import connect, damage, locate, meta, quoted, value_columns
from colora_theory.studies.cells import Cell, EstimatorSpec
from colora_theory.studies.study import Study

if TYPE_CHECKING:
    import pandas as pd


F = TypeVar("F", bound=Callable[..., Any])


def _reading(method: F) -> F:
    """Tell of stored values that no table can be made of, as of any other damage."""

    @functools.wraps(method)
    def read(self: Results, *args: Any, **kwargs: Any) -> Any:
        with damage(self.file):
            return method(self, *args, **kwargs)

    return cast(F, read)


class Results:
    """Stored results of a study, opened read-only with `Results.open(path)`.

    Attributes
    ----------
    path : the run's folder. file : its SQLite store. study : the resolved Study. manifest : what produced it.
    """

    _snapshot: sqlite3.Connection | None = None

    def __init__(self, file: Path) -> None:
        self.file, self.path = file, file.parent
        with self._connection() as connection:
            self._table, self._source = meta(connection, "study"), meta(connection, "source")
            self.manifest: dict[str, Any] = meta(connection, "manifest") or {}
            self.quick = bool(meta(connection, "quick"))
            self.columns = value_columns(connection)
            self._cells = dict(connection.execute("SELECT key, id FROM cell").fetchall())
            self._estimators = dict(connection.execute("SELECT key, id FROM estimator").fetchall())
            if not isinstance(self.manifest, dict) or not isinstance(self._table, dict | None):
                raise TypeError("the store's description is no table")
        if self._table is None:
            raise InputError(f"{file} does not say which study it belongs to; it is damaged.")

    @cached_property
    def study(self) -> Study:
        """The study as it was run, overrides included."""
        with damage(self.file):
            return Study.from_dict(self._table, source_text=self._source or "", stored=True)

    @classmethod
    def open(cls, path: str | Path) -> Results:
        """Open the results in a run folder (or its .sqlite file); raise InputError if there are none."""
        return cls(locate(path))

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with damage(self.file):
            if self._snapshot is not None:
                yield self._snapshot
                return
            connection = connect(self.file)
            try:
                connection.execute("BEGIN")  # one consistent view, also of a store that is being written
                yield connection
            finally:
                connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Show one state of the store to everything that reads in the body, also while a run goes on writing."""
        if self._snapshot is not None:
            yield
            return
        with self._connection() as connection:
            self._snapshot = connection
            try:
                yield
            finally:
                self._snapshot = None

    @property
    def claims(self) -> list[dict[str, str]]:
        """What was claimed before the first run, and every later edit: {"claim", "started"} in that order."""
        with self._connection() as connection:
            return list(meta(connection, "claims") or [])

    @property
    def _most(self) -> int:
        """Trials that the study shows; a study that was made shorter keeps its rows, and does not show them."""
        return self.study.run.most_trials

    @cached_property
    def _groups(self) -> tables.Groups:
        return tables.Groups(self.study, self._cells, self._estimators)

    @_reading
    def frame(self, *, cell_id: bool = False) -> pd.DataFrame:
        """Return one row per trial, estimator and metric, in the study's order.

        Columns: the varied problem fields, trial, estimator, metric, value (NaN where undefined), status.
        `cell_id` adds the cell's id in front.
        """
        check_flag("cell_id", cell_id)
        with self._connection() as connection:
            table = tables.frame(connection, self._groups, self.study.metrics, self._most)
        return table if cell_id else table.drop(columns="cell")

    @_reading
    def summary(self) -> pd.DataFrame:
        """Return one row per cell, estimator and metric: n, mean, std, mcse (std/√n), rows, failures.

        n counts the trials in which the metric is defined, `failures` those without a usable estimate. Computed
        inside SQLite in two passes, so memory does not grow with the number of trials.
        """
        with self._connection() as connection:
            return tables.summary(connection, self._groups, self.study.metrics, self._most)

    @_reading
    def failures(self) -> pd.DataFrame:
        """Return every row without a usable estimate: varied fields, cell, trial, estimator, status, message."""
        with self._connection() as connection:
            return tables.failures(connection, self._groups, self._most)

    @_reading
    def guarantee_values(self, name: str | None = None) -> pd.DataFrame:
        """Return the claims that were evaluated inside the trials.

        Columns: varied fields, cell, trial, estimator, guarantee, claim, observed (NaN when the guarantee compares
        with a metric instead), status. Empty when the study has no such guarantee.
        """
        import pandas as pd

        stored = [c.partition(":")[2] for c in self.columns if c.startswith("guarantee:")]
        if name is not None and name not in stored:
            raise InputError(f"no values of guarantee {name!r} are stored; stored: {', '.join(stored) or 'none'}.")
        with self._connection() as connection:
            parts = [
                tables.claims(connection, self._groups, each, f"observed:{each}" in self.columns, self._most)
                for each in (stored if name is None else [name])
            ]
        if parts:
            return pd.concat(parts, ignore_index=True)
        columns = ["cell", "trial", "estimator", "guarantee", "claim", "observed", "status"]
        empty = pd.DataFrame([], columns=[*self.study.cells[0].varied, *columns])
        return empty.astype({"claim": float, "observed": float})

    def row(self, cell: Cell, spec: EstimatorSpec, trial: int) -> tuple[str, str, dict[str, float | None]] | None:
        """Return status, message and numbers of one stored row, or None."""
        with self._connection() as connection:
            key = (self._cells.get(cell.id), self._estimators.get(spec.label), trial)
            query = "SELECT * FROM trial WHERE cell = ? AND estimator = ? AND trial = ?"
            found = connection.execute(query, key).fetchone()
        return None if found is None else (found[3], found[4], dict(zip(self.columns, found[5:], strict=True)))

    @cached_property
    def _labels(self) -> dict[int, str]:
        return {number: label for label, number in self._estimators.items()}

    @_reading
    def tally(self) -> dict[tuple[str, str], dict[str, tuple[int, float, float]]]:
        """Return {(cell id, label): {name: (n, mean, sum of squared deviations)}}, the running sums of the writer.

        Names are metrics and "status:…". Instant for any number of rows; the last digits depend on the order in
        which trials finished, so use `summary` for numbers to publish.
        """
        ids = {number: cell for cell, number in self._cells.items()}
        out: dict[tuple[str, str], dict[str, tuple[int, float, float]]] = {}
        with self._connection() as connection:
            for cell, estimator, name, n, mean, m2 in connection.execute("SELECT * FROM tally"):
                out.setdefault((ids[cell], self._labels[estimator]), {})[name] = (n, mean, m2)
        return out

    def blocks(self, size: int) -> Iterator[list[tuple[Any, ...]]]:
        """Yield all rows in blocks: (cell id, label, trial, status, message, *numbers as in `columns`)."""
        query = (
            "SELECT cell.key, estimator.key, trial.trial, status, message"
            + "".join(f", {quoted(name)}" for name in self.columns)
            + " FROM trial JOIN cell ON cell.id = trial.cell JOIN estimator ON estimator.id = trial.estimator"
        )
        with self._connection() as connection:
            cursor = connection.execute(query)
            while block := cursor.fetchmany(size):
                yield block

    @_reading
    def verify(self) -> list[tuple[str, str]] | None:
        """Return the (cell id, label) of every group of rows that no longer has the checksum it was written with.

        Empty when all numbers are those that were written; None for a store that is older than checksums.
        """
        with self._connection() as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if "checksum" not in tables:
                return None
            sums = {(c, e): int(text) for c, e, text in connection.execute("SELECT * FROM checksum")}
            cells = {number: key for key, number in self._cells.items()}
            found: dict[tuple[int, int], int] = {}
            for cell, estimator, *rest in connection.execute("SELECT * FROM trial"):
                row = (cells.get(cell, cell), self._labels.get(estimator, estimator), *rest)
                found[cell, estimator] = (found.get((cell, estimator), 0) + row_hash(row)) % 2**64
        return [
            (str(cells.get(c, c)), str(self._labels.get(e, e)))
            for c, e in sorted({*sums, *found}, key=str)
            if sums.get((c, e), 0) != found.get((c, e), 0)
        ]

    @_reading
    def counts(self) -> tuple[int, int]:
        """Return the numbers of stored rows and of failures among them."""
        query = "SELECT name, sum(n) FROM tally WHERE name GLOB 'status:*' GROUP BY name"
        with self._connection() as connection:
            found = {name.partition(":")[2]: n for name, n in connection.execute(query)}
        return sum(found.values()), sum(n for word, n in found.items() if word in FAILURES)

    @_reading
    def failure_messages(self, most: int = 10) -> list[tuple[str, int]]:
        """Return the commonest kinds of failure, as "estimator: status: message", with their counts."""
        marks = ", ".join("?" * len(FAILURES))
        query = (
            f"SELECT estimator, status, message, count(*) AS n FROM trial WHERE status IN ({marks}) "
            "GROUP BY 1, 2, 3 ORDER BY n DESC LIMIT ?"
        )
        with self._connection() as connection:
            found = connection.execute(query, (*FAILURES, most)).fetchall()
        return [(f"{self._labels[e]}: {status}: {message}", n) for e, status, message, n in found]

    def progress(self) -> dict[str, Any]:
        """Return what the writer last said about its speed: {"running", "seconds", "trials"}."""
        with self._connection() as connection:
            return dict(meta(connection, "progress") or {})

    def __repr__(self) -> str:
        return f"Results({json.dumps(str(self.path))}, study {self.study.name!r})"
