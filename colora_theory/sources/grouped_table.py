"""Any table with a column of users: CSV or Parquet, a regression for every user."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from colora_theory.errors import InputError
from colora_theory.model.checks import check_flag, check_real, check_word
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array
from colora_theory.regression.units import Units
from colora_theory.sources.base import Source, Split, check_text, register


@register
@dataclass(frozen=True, kw_only=True)
class GroupedTable(Source):
    """Rows of a CSV or Parquet file, grouped by the column `user`; licence: that of the file.

    Parameters
    ----------
    path : the file. target, user : its columns of responses and of users' labels.
    features : columns to use; none: all that are numbers and neither named above nor in `ignore`.
    drop_missing : leave rows with empty cells out, instead of refusing them.
    num_users : users drawn for every split; 0: all who have enough rows.
    num_samples : rows of each user to learn from (its shots); all others are held out. 0: all but a share.
    held_out : that share of every user's rows, at least one row.
    standardise : "train", columns and responses in units of the rows to learn from (less their means, over their
        standard deviations), with an intercept as last column; or "none", as they stand, without intercept.

    Users with fewer than num_samples + 1 rows (two, with a share) take no part.
    """

    name: ClassVar[str] = "grouped_table"
    places: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    target: str
    user: str
    features: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    drop_missing: bool = False
    held_out: float = 0.2
    standardise: str = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("path", "target", "user"):
            check_text(option, getattr(self, option))
        for option in ("features", "ignore"):
            columns = getattr(self, option)
            if not isinstance(columns, tuple | list):
                raise InputError(f"{option} must be a list of columns, got {columns!r:.60}.")
            object.__setattr__(self, option, tuple(check_text(option, column) for column in columns))
        check_flag("drop_missing", self.drop_missing)
        check_word("standardise", self.standardise, ("train", "none"))
        if not 0.0 < check_real("held_out", self.held_out, 0.0, 1.0) < 1.0:
            raise InputError(f"held_out must lie strictly between 0 and 1, got {self.held_out:g}.")

    def _rows(self) -> tuple[Array, Array, list[NDArray[np.int64]]]:
        """Covariates (rows, columns), responses (rows, 1) and the rows of every user who takes part."""
        x, y, users = _read(
            self.path, _changed(self.path), self.target, self.user, self.features, self.ignore, self.drop_missing
        )
        least = max(self.num_samples, 1) + 1
        return x, y, [rows for rows in users if len(rows) >= least]

    def check(self) -> None:
        _, _, users = self._rows()
        if len(users) < max(self.num_users, 1):
            raise InputError(
                f"{self.path} has {len(users)} users with at least {max(self.num_samples, 1) + 1} rows, "
                f"{max(self.num_users, 1)} are asked for; lower num_users or num_samples."
            )

    def fingerprint(self) -> str:
        return hashlib.sha256(_content(self.path)).hexdigest()

    def split(self, rng: np.random.Generator) -> Split:
        x, y, users = self._rows()
        count = self.num_users or len(users)
        drawn = sorted(rng.choice(len(users), count, replace=False)) if count < len(users) else range(len(users))
        parts = [rng.permutation(users[i]) for i in drawn]
        sizes = [self.num_samples or len(part) - max(1, round(self.held_out * len(part))) for part in parts]
        learned = [part[:size] for part, size in zip(parts, sizes, strict=True)]
        rest = [part[size:] for part, size in zip(parts, sizes, strict=True)]
        if self.standardise == "train":
            seen = np.concatenate(learned)
            units = Units.of(x[seen], y[seen], None, True)
            x, y = units.standard(x), (y - units.y_centre) / units.y_scale
        train, held_out = (
            Dataset.from_arrays([x[rows] for rows in part], [y[rows] for rows in part]) for part in (learned, rest)
        )
        return Split(train, held_out)


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"the table {path} cannot be read: {error.strerror or error}.") from None


def _changed(path: str) -> Any:
    """Size and time of the file, so that a changed one is read again."""
    try:
        found = Path(path).stat()
    except OSError as error:
        raise InputError(f"the table {path} cannot be read: {error.strerror or error}.") from None
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=4)
def _read(
    path: str,
    changed: Any,
    target: str,
    user: str,
    features: tuple[str, ...],
    ignore: tuple[str, ...],
    drop_missing: bool,
) -> tuple[Array, Array, list[NDArray[np.int64]]]:
    from colora_theory.regression.files import read_table

    frame, _ = read_table(
        Path(path), user, target=target, features=features, ignore=ignore, drop_missing=drop_missing
    )
    columns = [name for name in frame.columns if name not in (user, target)]
    x, y = frame[columns].to_numpy(float), frame[[target]].to_numpy(float)
    labels = frame[user].astype(str).to_numpy()
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.r_[True, labels[order][1:] != labels[order][:-1]])
    users = np.split(order, starts[1:])
    for array in (x, y, *users):
        array.flags.writeable = False
    return x, y, users
