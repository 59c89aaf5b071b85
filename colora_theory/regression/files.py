"""Tables from files, CSV or Parquet: numbers and users' labels, or one sentence with the row and the column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from colora_theory.errors import InputError, nearest

#: What stands for a missing number; in the column of users only an empty cell does.
_MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "-", "."]


def read_table(
    path: Path,
    user: str,
    *,
    target: str | None = None,
    features: Sequence[str] = (),
    ignore: Sequence[str] = (),
    drop_missing: bool = False,
) -> tuple[pd.DataFrame, int]:
    """Read a table: users' labels, the target where there is one, and features in the order of the file.

    Parameters
    ----------
    user, target : names of columns. features : columns to use; none: all that are not ignored.
    drop_missing : leave rows with missing cells out, instead of refusing them.

    Returns the table and the number of rows left out. In CSV files labels are text as it stands there ("007"
    stays "007", "NA" is a label), and everything else is read as numbers. Raises InputError for a file that cannot
    be read, for unknown columns, and for cells that are no numbers, naming row (the first one of data is 1) and
    column.
    """
    frame = _parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _csv(path, user)
    columns = [str(name) for name in frame.columns]
    frame.columns = pd.Index(columns)
    wanted = [user, *([target] if target is not None else []), *features, *ignore]
    for name in wanted:
        if name not in columns:
            raise InputError(f"{path} has no column {name!r}; {nearest(name, columns)}")
    if target is not None and target == user:
        raise InputError(f"target and user must be two columns, got {user!r} for both.")
    kept = list(features) or [name for name in columns if name not in (user, target, *ignore)]
    used = [name for name in columns if name in (user, target) or name in kept]
    if not kept:
        raise InputError(f"{path} has no feature besides {user!r} and {target!r}; add a column of numbers.")
    frame = frame[used]
    if not len(frame):
        raise InputError(f"{path} has no rows of data.")
    missing = np.zeros(len(frame), dtype=bool)
    out = {}
    for name in used:
        column = frame[name]
        out[name] = column if name == user else _numbers(path, name, column)
        empty = out[name].isna().to_numpy()
        if empty.any() and not drop_missing:
            raise InputError(
                f"{path}: row {int(np.argmax(empty)) + 1}, column {name!r} is empty ({int(empty.sum())} cells "
                "of this column are); fill it in, or leave such rows out with --drop-missing."
            )
        missing |= empty
    table = pd.DataFrame(out)[~missing]
    if not len(table):
        raise InputError(f"{path}: every row has an empty cell; ignore the column that is empty with --ignore.")
    return table, int(missing.sum())


def _csv(path: Path, user: str) -> pd.DataFrame:
    try:
        head = pd.read_csv(path, nrows=0, encoding="utf-8-sig")
        names = pd.read_csv(path, nrows=1, header=None, dtype=str, encoding="utf-8-sig").iloc[0].tolist()
        for name in names:  # pandas renames them in silence
            if names.count(name) > 1:
                raise InputError(f"{path}: the column {name!r} is there {names.count(name)} times; rename one.")
        empty = {name: ([""] if name == user else _MISSING) for name in head.columns}
        text = {user: str} if user in head.columns else {}
        return pd.read_csv(
            path, dtype=text, na_values=empty, keep_default_na=False, encoding="utf-8-sig", low_memory=False
        )
    except FileNotFoundError:
        raise InputError(f"the table {path} does not exist.") from None
    except (OSError, ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"the table {path} cannot be read: {' '.join(str(error).split())}.") from None


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path).reset_index(drop=True)
    except FileNotFoundError:
        raise InputError(f"the table {path} does not exist.") from None
    except ImportError:
        raise InputError("Parquet files need pyarrow: pip install 'colora_theory[parquet]'.") from None
    except Exception as error:  # pyarrow has errors of its own
        raise InputError(f"the table {path} cannot be read: {' '.join(str(error).split())[:300]}.") from None


def _numbers(path: Path, name: str, column: pd.Series[float]) -> pd.Series[float]:
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_complex_dtype(column.dtype):
        values = column.to_numpy(dtype=float, na_value=np.nan)
    elif pd.api.types.is_datetime64_any_dtype(column.dtype):
        raise InputError(
            f"{path}: column {name!r} holds dates; turn it into a number, or leave it out with --ignore."
        )
    else:
        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        wrong = np.isnan(values) & column.notna().to_numpy()
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"{path}: row {row + 1}, column {name!r} is {str(column.iloc[row])[:60]!r}, which is no number; "
                "correct it, turn categories into 0/1 columns, or leave the column out with --ignore."
            )
    if np.isinf(values).any():
        raise InputError(f"{path}: row {int(np.argmax(np.isinf(values))) + 1}, column {name!r} is infinite.")
    return pd.Series(values, column.index)
