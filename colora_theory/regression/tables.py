"""Tables of numbers with names: covariates, responses and weights of rows, or one sentence why not."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from colora_theory.errors import InputError
from colora_theory.model.checks import check_real
from colora_theory.model.linalg import Array

#: Most columns that a refusal names.
_SOME = 5


class NumbersError(InputError, TypeError):
    """A table with something else than numbers in it; also a TypeError, which scikit-learn prescribes."""


@dataclass(frozen=True, eq=False)
class Table:
    """Covariates of all rows.

    Attributes
    ----------
    x : shape (rows, dim_in), finite.
    names : names of all columns that were given, shape (columns,), or None where not all are text.
    features : name or position of every column of `x`.
    groups : the column that names users, taken out of `x`, or None.
    columns : how many columns were given.
    """

    x: Array
    names: NDArray[np.object_] | None
    features: list[Any]
    groups: Any
    columns: int


def table_of(X: Any, group_column: Any = None) -> Table:
    """Read a table of covariates: an array, a list of rows, or a data frame of pandas, polars or pyarrow.

    Parameters
    ----------
    group_column : name (data frames) or position of the column that names users; None: there is none.

    Raises InputError for anything but finite numbers (text is never read as numbers), naming column and row.
    """
    if hasattr(X, "tocsr"):
        raise NumbersError("X must be a dense array, got a sparse matrix; use X.toarray().")
    if np.ma.is_masked(X):
        raise InputError("X must be complete, got masked entries; remove or impute those rows.")
    frame = frame_of(X)
    if frame is not None:
        return _of_frame(frame, group_column)
    raw = _array("X", X)
    if raw.ndim != 2:
        raise InputError(f"Expected 2D array, got {raw.ndim}D array instead. Reshape your data.")
    groups, kept = None, list(range(raw.shape[1]))
    if group_column is not None:
        position = _position(group_column, raw.shape[1])
        groups = raw[:, position]
        kept.remove(position)
        raw = raw[:, kept]
    _at_least_one(raw.shape, len(kept) + (group_column is not None))
    x = floats("X", raw)
    _finite("X", x, kept)
    return Table(x, None, kept, groups, len(kept) + (group_column is not None))


def frame_of(X: Any) -> pd.DataFrame | None:
    """A data frame of any library as one of pandas, or None for what is none."""
    if isinstance(X, pd.DataFrame):
        return X
    if hasattr(X, "to_pandas") and (hasattr(X, "columns") or hasattr(X, "column_names")):
        try:
            frame = X.to_pandas()
        except ImportError as error:
            raise InputError(f"X cannot be read ({error}); install pyarrow, or pass X.to_numpy().") from None
        return frame if isinstance(frame, pd.DataFrame) else None
    return None


def _of_frame(frame: pd.DataFrame, group_column: Any) -> Table:
    names = feature_names(frame)
    columns, groups, width = list(frame.columns), None, frame.shape[1]
    kept = list(range(width))
    if group_column is not None:
        found = [j for j, name in enumerate(columns) if type(name) is type(group_column) and name == group_column]
        if len(found) != 1:
            some = ", ".join(map(repr, columns[:_SOME])) + (", …" if width > _SOME else "")
            times = "none of them" if not found else f"{len(found)} of them"
            raise InputError(f"group_column must be one of X's columns ({some}), got {group_column!r}: {times}.")
        groups = frame.iloc[:, found[0]]
        kept.remove(found[0])
    _at_least_one((len(frame), len(kept)), width)
    x = np.empty((len(frame), len(kept)))
    for at, j in enumerate(kept):
        x[:, at] = column_of(f"X, column {columns[j]!r},", frame.iloc[:, j])
    _finite("X", x, [columns[j] for j in kept])
    return Table(x, names, [columns[j] for j in kept], groups, width)


def feature_names(frame: pd.DataFrame) -> NDArray[np.object_] | None:
    """Names of the columns when all are text; None when none is."""
    text = [isinstance(name, str) for name in frame.columns]
    if len(text) and all(text):
        return np.asarray(frame.columns, dtype=object)
    if any(text):
        kinds = sorted({type(name).__name__ for name in frame.columns})
        raise NumbersError(
            "Feature names are only supported if all input features have string names, but your input has "
            f"{kinds} as feature name / column name types; rename them with X.columns = X.columns.astype(str)."
        )
    return None


def column_of(where: str, column: pd.Series[Any]) -> Array:
    """One column as floats; missing entries of nullable types become NaN, which the caller refuses."""
    kind = column.dtype
    plain = isinstance(kind, np.dtype) and kind.kind == "O"
    if isinstance(kind, np.dtype) and kind.kind in "biuf":
        return column.to_numpy(dtype=float)
    if isinstance(kind, pd.CategoricalDtype) or (pd.api.types.is_string_dtype(kind) and not plain):
        raise NumbersError(f"{where} must hold numbers, got {kind}; encode it as numbers first.")
    if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind):
        return column.to_numpy(dtype=float, na_value=np.nan)
    if not plain:
        if pd.api.types.is_complex_dtype(kind):
            raise InputError(f"Complex data not supported: {where} holds {kind}.")
        raise NumbersError(f"{where} must hold numbers, got {kind}; encode it as numbers first.")
    return _numbers(where, column.tolist())


def response_of(y: Any, rows: int) -> Array:
    """Responses, shape (rows,) or (rows, dim_out), finite."""
    if y is None:
        raise InputError("fit requires y to be passed, but the target y is None.")
    if np.ma.is_masked(y):
        raise InputError("y must be complete, got masked entries; remove or impute those rows.")
    frame = frame_of(y)
    if frame is not None:
        columns = [column_of(f"y, column {name!r},", frame.iloc[:, j]) for j, name in enumerate(frame.columns)]
        target = np.stack(columns, axis=1) if columns else np.empty((len(frame), 0))
    elif isinstance(y, pd.Series):
        target = column_of("y", y)
    else:
        target = floats("y", _array("y", y))
    if target.ndim not in (1, 2) or len(target) != rows or 0 in target.shape[1:]:
        raise InputError(f"y must have one row per row of X ({rows}), got shape {target.shape}.")
    _finite("y", target, None)
    return target


def weights_of(sample_weight: Any, rows: int) -> Array | None:
    """Weights of rows, shape (rows,), finite and not negative; None when all are one."""
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Real) and not isinstance(sample_weight, bool):
        weights = np.full(rows, check_real("sample_weight", sample_weight))
    else:
        column = sample_weight if isinstance(sample_weight, pd.Series) else None
        weights = column_of("sample_weight", column) if column is not None else _weights(sample_weight)
    if weights.shape != (rows,):
        raise InputError(f"sample_weight.shape == {weights.shape}, expected {(rows,)}: one weight per row of X.")
    _finite("sample_weight", weights, None)
    if (weights < 0).any() or not weights.any():
        raise InputError("sample_weight must hold numbers ≥ 0, not all 0, got a negative one, or zeros only.")
    return None if (weights == 1.0).all() else weights


def _weights(value: Any) -> Array:
    raw = _array("sample_weight", value)
    if raw.ndim != 1:
        raise InputError(f"Sample weights must be 1D array or scalar, got {raw.ndim}D array.")
    return floats("sample_weight", raw)


def _array(name: str, value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{name} must be an array of numbers, got {type(value).__name__} whose rows differ in length."
        ) from None


def floats(name: str, raw: NDArray[Any]) -> Array:
    """An array as floats, whatever its shape and whether finite or not; text is refused."""
    if np.iscomplexobj(raw):
        raise InputError(f"Complex data not supported: {name} holds {raw.dtype}.")
    if raw.dtype.kind in "biuf":
        return np.asarray(raw, dtype=float)
    if raw.dtype.kind != "O":
        raise NumbersError(f"{name} must be an array of numbers, got one of {raw.dtype}.")
    return _numbers(name, raw.ravel().tolist(), raw.shape).reshape(raw.shape)


def _numbers(where: str, values: list[Any], shape: tuple[int, ...] = ()) -> Array:
    """Python objects as floats: real numbers, None and NA (as NaN)."""
    out = np.empty(len(values))
    for at, value in enumerate(values):
        if value is None or value is pd.NA or value is pd.NaT:
            out[at] = np.nan
            continue
        decimal = type(value).__name__ == "Decimal"
        if not (isinstance(value, Real | np.bool_) or decimal):
            place = f"row {at // shape[1]}, column {at % shape[1]}" if len(shape) == 2 else f"row {at}"
            raise NumbersError(
                f"{where} must be an array of numbers, got {_short(value)} ({type(value).__name__}) in {place}; "
                "an argument must be a real number, and never the string of a number: convert or remove it."
            )
        try:
            out[at] = float(value)
        except OverflowError:
            raise InputError(f"{where} must be an array of numbers up to 1e308, got {_short(value)}.") from None
    return out


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:  # integers of thousands of digits, and objects that cannot be shown
        text = f"what cannot be shown ({type(error).__name__})"
    return text if len(text) <= 60 else f"{text[:57]}…"


def _finite(name: str, values: Array, columns: list[Any] | None) -> None:
    if np.isfinite(values).all():
        return
    row, *rest = np.argwhere(~np.isfinite(values))[0].tolist()
    place = f"row {row}" + (f", column {columns[rest[0]]!r}" if columns is not None and rest else "")
    raise InputError(f"{name} must be finite, got NaN or infinity (inf) in {place}; remove or impute those rows.")


def _at_least_one(shape: tuple[int, ...], columns: int) -> None:
    if shape[0] == 0:
        raise InputError(f"Found array with 0 sample(s) (shape={(0, columns)}) while a minimum of 1 is required.")
    if shape[1] == 0:
        raise InputError(f"0 feature(s) (shape={tuple(shape)}) while a minimum of 1 is required.")


def _position(column: Any, width: int) -> int:
    if isinstance(column, bool) or not isinstance(column, int | np.integer) or not -width <= column < width:
        raise InputError(
            f"group_column must be the position of a column of X, from 0 to {width - 1}, got {column!r}; names "
            "need a data frame."
        )
    return int(column) % width
