"""Results: what is stored of a study, as tables. Also of a running study, and of a mere copy of its store."""

from __future__ import annotations

import functools
import json
import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from colora_theory.errors import InputError
from colora_theory.model.checks import check_flag
from colora_theory.results.checksum import row_hash
from colora_theory.results.moments import standard_error
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

    def _groups(self) -> Iterator[tuple[Cell, EstimatorSpec, tuple[int, int]]]:
        for cell in self.study.cells:
            for spec in self.study.estimators:
                if cell.id in self._cells and spec.label in self._estimators:
                    yield cell, spec, (self._cells[cell.id], self._estimators[spec.label])

    @_reading
    def frame(self, *, cell_id: bool = False) -> pd.DataFrame:
        """Return one row per trial, estimator and metric, in the study's order.

        Columns: the varied problem fields, trial, estimator, metric, value (NaN where undefined), status.
        `cell_id` adds the cell's id in front.
        """
        check_flag("cell_id", cell_id)
        names = self.study.metrics
        chosen = ", ".join(["trial", "status", *map(quoted, names)])
        pieces = []
        with self._connection() as connection:
            for cell, spec, key in self._groups():
                rows = connection.execute(
                    f"SELECT {chosen} FROM trial WHERE cell = ? AND estimator = ? AND trial < ? ORDER BY trial",
                    (*key, self._most),
                ).fetchall()
                if rows:
                    trials, statuses = [r[0] for r in rows], [r[1] for r in rows]
                    pieces.append((cell, spec.label, trials, statuses, [r[2:] for r in rows]))
        return self._tidy(pieces, names, cell_id)

    def _tidy(self, pieces: list[Any], names: tuple[str, ...], cell_id: bool) -> pd.DataFrame:
        import pandas as pd

        m = len(names)
        sizes = [len(trials) * m for _, _, trials, _, _ in pieces]
        values = [np.array(v, dtype=float).reshape(-1) for *_, v in pieces]
        columns: dict[str, Any] = {}
        if cell_id:
            columns["cell"] = np.repeat([cell.id for cell, *_ in pieces], sizes)
        for name in self.study.cells[0].varied:
            entries = np.empty(len(pieces), dtype=object)
            entries[:] = [cell.varied[name] for cell, *_ in pieces]
            columns[name] = pd.Series(np.repeat(entries, sizes)).infer_objects()
        columns["trial"] = np.concatenate([np.repeat(p[2], m) for p in pieces] or [np.empty(0, int)])
        columns["estimator"] = np.repeat([label for _, label, *_ in pieces], sizes)
        columns["metric"] = np.tile(names, sum(sizes) // m)
        columns["value"] = np.concatenate(values or [np.empty(0)])
        columns["status"] = np.concatenate([np.repeat(p[3], m) for p in pieces] or [np.empty(0, str)])
        return pd.DataFrame(columns)

    @_reading
    def summary(self) -> pd.DataFrame:
        """Return one row per cell, estimator and metric: n, mean, std, mcse (std/√n), rows, failures.

        n counts the trials in which the metric is defined, `failures` those without a usable estimate. Computed
        inside SQLite in two passes, so memory does not grow with the number of trials.
        """
        import pandas as pd

        failed = ", ".join(f"'{status}'" for status in FAILURES)
        names = [quoted(name) for name in self.study.metrics]
        where = "FROM trial WHERE cell = ? AND estimator = ? AND trial < ?"
        first = f"SELECT count(*), coalesce(sum(status IN ({{}})), 0), {{}} {where}".format(
            failed, ", ".join(f"count({n}), avg({n}), sum(typeof({n}) IN ('text', 'blob'))" for n in names)
        )  # SQLite would count text as zero
        second = f"SELECT {{}} {where}".format(", ".join(f"sum(({n} - ?) * ({n} - ?))" for n in names))
        out = []
        with self._connection() as connection:
            for cell, spec, key in self._groups():
                rows, failures, *moments = connection.execute(first, (*key, self._most)).fetchone()
                counts, means, texts = moments[::3], moments[1::3], moments[2::3]
                if any(texts):
                    raise ValueError(f"{spec.label} holds text where numbers belong")
                squares = connection.execute(
                    second, [*[m for m in means for _ in range(2)], *key, self._most]
                ).fetchone()
                for name, n, mean, square in zip(self.study.metrics, counts, means, squares, strict=True):
                    mcse = standard_error(n, square) if n > 1 else math.nan
                    out.append(
                        {
                            "cell": cell.id,
                            **cell.varied,
                            "estimator": spec.label,
                            "metric": name,
                            "n": n,
                            "mean": math.nan if mean is None else mean,
                            "std": mcse * math.sqrt(n),
                            "mcse": mcse,
                            "rows": rows,
                            "failures": failures,
                        }
                    )
        return pd.DataFrame(out)

    @_reading
    def failures(self) -> pd.DataFrame:
        """Return every row without a usable estimate: varied fields, cell, trial, estimator, status, message."""
        import pandas as pd

        marks = ", ".join("?" * len(FAILURES))
        query = (
            "SELECT trial, status, message FROM trial WHERE cell = ? AND estimator = ? "
            f"AND trial < ? AND status IN ({marks}) ORDER BY trial"
        )
        out = []
        with self._connection() as connection:
            for cell, spec, key in self._groups():
                for trial, status, message in connection.execute(query, (*key, self._most, *FAILURES)):
                    row = {**cell.varied, "cell": cell.id, "trial": trial, "estimator": spec.label}
                    out.append({**row, "status": status, "message": message})
        columns = [*self.study.cells[0].varied, "cell", "trial", "estimator", "status", "message"]
        return pd.DataFrame(out, columns=columns)

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
        out = []
        with self._connection() as connection:
            for guarantee in stored if name is None else [name]:
                observed = f"observed:{guarantee}"
                second = quoted(observed) if observed in self.columns else "NULL"
                query = (
                    f"SELECT trial, {quoted('guarantee:' + guarantee)}, {second}, status FROM trial "
                    "WHERE cell = ? AND estimator = ? AND trial < ? ORDER BY trial"
                )
                for cell, spec, key in self._groups():
                    for trial, claim, seen, status in connection.execute(query, (*key, self._most)):
                        row = {**cell.varied, "cell": cell.id, "trial": trial, "estimator": spec.label}
                        out.append(
                            {**row, "guarantee": guarantee, "claim": claim, "observed": seen, "status": status}
                        )
        varied = list(self.study.cells[0].varied)
        columns = [*varied, "cell", "trial", "estimator", "guarantee", "claim", "observed", "status"]
        return pd.DataFrame(out, columns=columns).astype({"claim": float, "observed": float})

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
        rows = failed = 0
        for names in self.tally().values():
            for name, (n, *_) in names.items():
                kind, _, word = name.partition(":")
                rows += n * (kind == "status")
                failed += n * (kind == "status" and word in FAILURES)
        return rows, failed

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
