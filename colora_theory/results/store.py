"""The SQLite file of a study: one row per trial × estimator, its numbers beside it. One writer, many readers.

Rows are only ever added, inside transactions of at most 2 s or 1 000 rows, in write-ahead mode: readers never
wait, and a process that is killed loses what it had not committed and nothing else. `tally` repeats counts and
moments per cell, estimator and column so that the status of 10⁶ rows is one small query; it is written in the
same transactions as the rows.
"""

from __future__ import annotations

import fcntl
import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from colora_theory.errors import InputError, expect
from colora_theory.results.rows import Row

if TYPE_CHECKING:
    from colora_theory.studies.study import Study

FILE: Final = "results.sqlite"
LOCK: Final = ".lock"
APPLICATION_ID: Final = 0x636F6C6F  # "colo"
VERSION: Final = 1
COMMIT_ROWS: Final = 1000
COMMIT_SECONDS: Final = 2.0
_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cell (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, position INTEGER NOT NULL,
    content TEXT NOT NULL, varied TEXT NOT NULL
);
CREATE TABLE estimator (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, position INTEGER NOT NULL);
CREATE TABLE tally (
    cell INTEGER, estimator INTEGER, name TEXT, n INTEGER NOT NULL, mean REAL NOT NULL, m2 REAL NOT NULL,
    PRIMARY KEY (cell, estimator, name)
) WITHOUT ROWID;
"""


def quoted(name: str) -> str:
    """Return `name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def locate(path: str | Path) -> Path:
    """Return the store file of a run folder, or the file itself; raise InputError if there is none."""
    expect("path", path, (str, Path), "give the folder of a run")
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"there are no results at {path}; give the folder of a run (it holds {FILE}).")
    return file


def connect(file: Path, *, write: bool = False) -> sqlite3.Connection:
    """Open a store; raise InputError if it is none, or from a newer version."""
    try:
        connection = _open(file, "rw" if write else "ro")
    except sqlite3.Error as error:
        raise InputError(f"{file} cannot be opened as a store of results: {error}.") from None
    try:
        _check(file, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(file: Path, connection: sqlite3.Connection) -> None:
    """Refuse a file that is no store, is from another version, or lacks a part."""
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise InputError(f"{file} cannot be opened as a store of results: {error}.") from None
    if application != APPLICATION_ID:
        raise InputError(f"{file} is no store of colora_theory results.")
    if version != VERSION:
        raise InputError(
            f"{file} has store version {version}, this colora_theory reads version {VERSION}; "
            "open it with the version that wrote it (see its manifest)."
        )
    if missing := {"meta", "cell", "estimator", "tally", "trial"} - tables:
        raise InputError(f"{file} is damaged: it has no table {min(missing)!r}; restore it, or run again.")


def _open(file: Path, mode: str) -> sqlite3.Connection:
    uri = file.resolve().as_uri() + f"?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=60.0, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        connection.close()
        if mode != "ro" or not isinstance(error, sqlite3.OperationalError):
            raise
        # In a folder we may not write to, write-ahead mode has nowhere to put its index; read the file as it is.
        connection = sqlite3.connect(uri + "&immutable=1", uri=True, isolation_level=None)
    return connection


def meta(connection: sqlite3.Connection, key: str) -> Any:
    """Return one entry of the store's description, or None."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    try:
        return None if row is None else json.loads(row[0])
    except ValueError:
        raise InputError(
            f"the store is damaged: its entry {key!r} is not JSON; restore it, or run again."
        ) from None


def value_columns(connection: sqlite3.Connection) -> list[str]:
    """Names of the stored numbers."""
    names = [row[1] for row in connection.execute("PRAGMA table_info(trial)")]
    return names[names.index("message") + 1 :]


class Writer:
    """The one process that adds rows. Holds a lock on the folder for as long as it is open."""

    def __init__(self, out: Path, study: Study, columns: Sequence[str], about: dict[str, Any]) -> None:
        self._lock = _lock(out)
        try:
            file = out / FILE
            if not file.exists():
                _create(file, columns, about)
            self.connection = connect(file, write=True)
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")
            self._columns = value_columns(self.connection)
            _set_meta(self.connection, about)
            self.cells = self._ids(
                "cell (key, position, content, varied)",
                [
                    (c.id, i, json.dumps(c.problem.content()), json.dumps(c.varied))
                    for i, c in enumerate(study.cells)
                ],
            )
            self.estimators = self._ids(
                "estimator (key, position)", [(e.label, i) for i, e in enumerate(study.estimators)]
            )
            marks = ", ".join("?" * (5 + len(self._columns)))
            self._insert = f"INSERT INTO trial VALUES ({marks})"
            self._tally: dict[tuple[int, int, str], tuple[int, float, float]] = {
                (c, e, name): (n, mean, m2)
                for c, e, name, n, mean, m2 in self.connection.execute("SELECT * FROM tally")
            }
            self._touched: set[tuple[int, int, str]] = set()
            self._pending, self._committed, self._abandoned = 0, time.monotonic(), False
        except BaseException:
            if hasattr(self, "connection"):
                self.connection.close()
            self._lock.close()
            raise

    def _ids(self, target: str, entries: list[tuple[Any, ...]]) -> list[int]:
        """Return the row ids of the study's cells or estimators, adding those that are new."""
        table, marks = target.partition(" ")[0], ", ".join("?" * len(entries[0]))
        self.connection.execute("BEGIN")
        self.connection.executemany(
            f"INSERT INTO {target} VALUES ({marks}) ON CONFLICT (key) DO UPDATE SET position = excluded.position",
            entries,
        )
        self.connection.execute("COMMIT")
        ids = dict(self.connection.execute(f"SELECT key, id FROM {table}").fetchall())
        return [ids[entry[0]] for entry in entries]

    def set_meta(self, **entries: Any) -> None:
        """Write entries of the store's description (in the running transaction, if there is one)."""
        if not self._abandoned:
            _set_meta(self.connection, entries)

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
            for row in rows:
                cell, estimator = self.cells[row.cell], self.estimators[row.estimator]
                self._count((cell, estimator, f"status:{row.status}"), 0.0)
                for name, value in zip(self._columns, row.values, strict=True):
                    if value is not None:
                        self._count((cell, estimator, name), value)
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

    def _count(self, key: tuple[int, int, str], value: float) -> None:
        n, mean, m2 = self._tally.get(key, (0, 0.0, 0.0))
        delta = value - mean
        mean += delta / (n + 1)
        self._tally[key] = (n + 1, mean, m2 + delta * (value - mean))
        self._touched.add(key)

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
                self.connection.execute("COMMIT")
            self._touched.clear()
        self._pending, self._committed = 0, time.monotonic()

    def stored(self, cell: int, estimator: int) -> Iterator[int]:
        """Numbers of the trials stored for a cell and estimator (indices of the study)."""
        key = (self.cells[cell], self.estimators[estimator])
        for (trial,) in self.connection.execute("SELECT trial FROM trial WHERE cell = ? AND estimator = ?", key):
            yield trial

    def values(self, cell: int, estimator: int, name: str, trials: range) -> list[float]:
        """The numbers of some trials, in trial order, where defined."""
        query = (
            f"SELECT {quoted(name)} FROM trial WHERE cell = ? AND estimator = ? AND trial >= ? AND trial < ? "
            f"AND {quoted(name)} IS NOT NULL ORDER BY trial"
        )
        key = (self.cells[cell], self.estimators[estimator], trials.start, trials.stop)
        return [value for (value,) in self.connection.execute(query, key)]

    def recount(self) -> None:
        """Compute the tally afresh from the rows (inside the running transaction)."""
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
            # A finished store is one plain file: copyable, readable on read-only media. Fails while being read.
            try:
                self.connection.execute("PRAGMA busy_timeout = 200")
                self.connection.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.OperationalError:
                pass
            self.connection.close()
        finally:
            self._lock.close()


def _set_meta(connection: sqlite3.Connection, entries: dict[str, Any]) -> None:
    pairs = [(key, json.dumps(value)) for key, value in entries.items()]
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", pairs)


def _storable(value: float) -> float:
    return value if math.isfinite(value) else 0.0  # moments that overflow: SQLite has no NaN


def _lock(out: Path) -> IO[str]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK).open("w")
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}.") from None
    for patience in (0.1, 0.2, 0.3, 0.0):  # someone may just be asking whether we run
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            time.sleep(patience)
    lock.close()
    raise InputError(f"another process is writing to {out}; wait for it, or choose another --out.")


def is_locked(out: Path) -> bool:
    """Whether a process is writing to the results in this folder."""
    try:
        with (out / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _create(file: Path, columns: Sequence[str], about: dict[str, Any]) -> None:
    """Create an empty store in one step: a store that exists is complete."""
    draft = file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    connection = sqlite3.connect(draft)
    values = "".join(f", {quoted(name)} REAL" for name in columns)
    connection.executescript(
        _SCHEMA + "CREATE TABLE trial (cell INTEGER, estimator INTEGER, trial INTEGER, status TEXT NOT NULL, "
        f"message TEXT NOT NULL{values}, PRIMARY KEY (cell, estimator, trial)) WITHOUT ROWID;"
        f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
    )
    _set_meta(connection, about)
    connection.commit()
    connection.close()
    draft.rename(file)
