"""What one trial of one estimator leaves: a row."""

from __future__ import annotations

from typing import Final, NamedTuple

#: Statuses of rows that count as failures.
FAILURES: Final = ("failed", "nan", "timeout", "crashed")


class Row(NamedTuple):
    """The outcome of one estimator in one trial; `values` in the order of Recipe.columns, None where undefined."""

    cell: int
    estimator: int
    trial: int
    status: str
    message: str
    values: tuple[float | None, ...]
