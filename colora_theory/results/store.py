"""The SQLite file of a study: one row per trial × estimator, its numbers beside it. One `writer`, many readers.

Rows are only ever added, inside transactions of at most 2 s or 1 000 rows, in write-ahead mode: readers never
wait, and a process that is killed loses what it had not committed and nothing else. `tally` repeats counts and
moments per cell, estimator and column so that the status of 10⁶ rows is one small query; it is written in the
same transactions as the rows.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import sqlite3
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from colora_theory.errors import InputError, expect

FILE: Final = "results.sqlite"
LOCK: Final = ".lock"
PATIENCE = 60.0  # seconds to wait for another program's lock on the file
APPLICATION_ID: Final = 0x636F6C6F  # "colo"
VERSION: Final = 1
SCHEMA: Final = """
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
#: The sum modulo 2^64 of the rows' hashes, for each cell and estimator; stores of version 0.1 have none.
CHECKSUM: Final = (
    "CREATE TABLE IF NOT EXISTS checksum (cell INTEGER, estimator INTEGER, sum TEXT NOT NULL, "
    "PRIMARY KEY (cell, estimator)) WITHOUT ROWID"
)


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


class Connection(sqlite3.Connection):
    """Closes its cursors with itself: one that the traceback of an error keeps would go on locking the file."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """Execute a statement with a cursor of its own, and return that."""
        cursor = self.cursor()
        self._cursors.add(cursor)
        return cursor.execute(*arguments)

    def close(self) -> None:
        """Close the cursors, then the file."""
        for cursor in list(self._cursors):
            cursor.close()
        super().close()


def connect(file: Path, *, write: bool = False) -> sqlite3.Connection:
    """Open a store; raise InputError if it is none, or from a newer version."""
    alone = not _log_of(file).exists() and not (file.parent / LOCK).exists()  # asked before SQLite makes a log
    try:
        connection = _open(file, "rw" if write else "ro")
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter of a name that SQLite quotes
        raise InputError(f"{file} cannot be opened as a store of results: {error}.") from None
    try:
        _check(file, connection)
        if alone and not write and meta(connection, "open"):
            raise InputError(
                f"{file} is a copy that was made while a run was writing, without its log {_log_of(file).name}: "
                "rows are missing. Copy both files, or resume the run where it was made."
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _log_of(file: Path) -> Path:
    return file.with_name(file.name + "-wal")


def _check(file: Path, connection: sqlite3.Connection) -> None:
    """Refuse a file that is no store, is from another version, or lacks a part."""
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except (sqlite3.Error, UnicodeDecodeError) as error:
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
    log = _log_of(file)
    has_log = log.is_file() and log.stat().st_size > 0
    connection = sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None, factory=Connection)
    connection.text_factory = _text
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException as error:
        connection.close()
        if not isinstance(error, sqlite3.OperationalError):
            raise
        if _busy(error):
            raise _unreadable(file, error) from None
        if mode != "ro":
            raise
        if has_log:
            raise InputError(
                f"{file} has rows in its log, and its folder is read-only, so that they cannot be read; copy it "
                f"together with {log.name} to a folder of yours."
            ) from None
        # In a folder we may not write to, write-ahead mode has nowhere to put its index; read the file as it is.
        connection = sqlite3.connect(uri + "&immutable=1", uri=True, isolation_level=None, factory=Connection)
        connection.text_factory = _text
    return connection


#: Texts of a damaged store may be no UTF-8; what stands for the damage cannot be taken for a name.
_text = functools.partial(str, encoding="utf-8", errors="replace")


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


def set_meta(connection: sqlite3.Connection, entries: dict[str, Any]) -> None:
    """Write entries of the store's description."""
    pairs = [(key, json.dumps(value)) for key, value in entries.items()]
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", pairs)


def create(file: Path, columns: Sequence[str], about: dict[str, Any]) -> None:
    """Create an empty store in one step: a store that exists is complete."""
    draft = file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    connection = sqlite3.connect(draft)
    values = "".join(f", {quoted(name)} REAL" for name in columns)
    connection.executescript(
        SCHEMA + "CREATE TABLE trial (cell INTEGER, estimator INTEGER, trial INTEGER, status TEXT NOT NULL, "
        f"message TEXT NOT NULL{values}, PRIMARY KEY (cell, estimator, trial)) WITHOUT ROWID;"
        f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
    )
    set_meta(connection, about)
    connection.commit()
    connection.close()
    draft.rename(file)


@contextmanager
def damage(file: Path) -> Iterator[None]:
    """Tell of a file whose contents are not what was written in one sentence, whatever trips over it."""
    try:
        yield
    except InputError:
        raise
    except sqlite3.OperationalError as error:
        raise _unreadable(file, error) from error
    except (sqlite3.Error, *_TRIPS) as error:
        raise _damaged(file, error) from error


@contextmanager
def malformed(file: Path) -> Iterator[None]:
    """As `damage`, while much else may go wrong: of what SQLite itself finds, other than a full disk or a lock."""
    try:
        yield
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise _damaged(file, error) from error


def _busy(error: sqlite3.Error) -> bool:
    """Whether another connection holds a lock; SQLite's extended codes add to the upper bytes."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _unreadable(file: Path, error: sqlite3.OperationalError) -> InputError:
    if _busy(error):
        return InputError(
            f"{file} is locked by another program, and was for {PATIENCE:g} s; close it there, and give the same "
            "command again."
        )
    return InputError(f"{file} cannot be read: {error}.")


def _damaged(file: Path, error: Exception) -> InputError:
    text = " ".join(str(error).split())[:200]
    return InputError(f"{file} is damaged ({type(error).__name__}: {text}); restore it from a copy, or run again.")


_TRIPS: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)


def lock(out: Path) -> IO[str]:
    """Lock the results in a folder, made if need be, for writing; InputError while another process writes."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        file = os.fdopen(descriptor, "w")
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}.") from None
    for patience in (0.1, 0.2, 0.3, 0.0):  # someone may just be asking whether we run
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            time.sleep(patience)
    file.close()
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
