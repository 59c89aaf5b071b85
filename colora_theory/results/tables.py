"""Tables of stored rows: one query for all cells and estimators, put together column by column."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from colora_theory.results.rows import FAILURES
from colora_theory.results.store import quoted

if TYPE_CHECKING:
    import pandas as pd

    from colora_theory.studies.study import Study

#: Rows that are read at a time.
BLOCK: Final = 100_000
_FAILED: Final = ", ".join(f"'{status}'" for status in FAILURES)


class Groups:
    """The cells and estimators of a study that a store holds: groups of rows, numbered in the study's order.

    cells, estimators : the ids that the store gave to cells and labels.
    """

    def __init__(self, study: Study, cells: Mapping[str, int], estimators: Mapping[str, int]) -> None:
        ids = [estimators[spec.label] for spec in study.estimators if spec.label in estimators]
        self._labels = [spec.label for spec in study.estimators if spec.label in estimators]
        self._cells = [cell for cell in study.cells if cell.id in cells]
        places = ((cells[cell.id], estimator) for cell in self._cells for estimator in ids)
        self._numbers = {place: number for number, place in enumerate(places)}
        self._varied = tuple(study.cells[0].varied)

    def __len__(self) -> int:
        return len(self._numbers)

    def numbers(self, cells: Iterable[int], estimators: Iterable[int]) -> NDArray[np.int64]:
        """The numbers of the groups with these ids; −1 for what is none of the study."""
        return np.array([self._numbers.get(place, -1) for place in zip(cells, estimators, strict=True)], np.int64)

    def label(self, group: int) -> str:
        """The label of a group's estimator."""
        return self._labels[group % len(self._labels)]

    def columns(self, groups: NDArray[np.int64], repeats: int = 1) -> dict[str, Any]:
        """What the cells and labels of these groups say, each `repeats` times: cell, varied fields, estimator."""
        found, codes = np.unique(groups, return_inverse=True)
        here = [self._cells[group // len(self._labels)] for group in found]
        entries = {name: [cell.varied[name] for cell in here] for name in self._varied}
        entries = {"cell": [cell.id for cell in here], **entries, "estimator": [self.label(g) for g in found]}
        codes = np.repeat(codes, repeats)
        return {name: taken(values, codes) for name, values in entries.items()}


def taken(values: Any, codes: NDArray[np.int64]) -> Any:
    """The values at these places, as a column whose type is found once."""
    import pandas as pd

    distinct = np.empty(len(values), dtype=object)
    distinct[:] = values
    return pd.Series(distinct).infer_objects().take(codes).array


def texts(values: NDArray[Any], repeats: int = 1) -> Any:
    """A column of texts few of which differ, each `repeats` times."""
    import pandas as pd

    codes, distinct = pd.factorize(values)
    return taken(distinct, np.repeat(codes, repeats))


def rows(
    connection: sqlite3.Connection, groups: Groups, chosen: Sequence[str], most: int, where: str = "1"
) -> tuple[NDArray[np.int64], list[NDArray[Any]]]:
    """Return the groups of the rows below trial `most`, in the study's order, and `chosen` columns as objects."""
    query = (
        f"SELECT cell, estimator, {', '.join(chosen)} FROM trial WHERE trial < ? AND {where} "
        "ORDER BY cell, estimator, trial"
    )
    cursor = connection.execute(query, (most,))
    numbers, blocks = [np.empty(0, np.int64)], [np.empty((0, len(chosen)), object)]
    while block := cursor.fetchmany(BLOCK):
        table = np.array(block, dtype=object)
        numbers.append(groups.numbers(table[:, 0], table[:, 1]))
        blocks.append(table[:, 2:])
    at, whole = np.concatenate(numbers), np.concatenate(blocks)
    if (np.diff(at) < 0).any() or (at < 0).any():
        order = np.argsort(at, kind="stable")
        order = order[at[order] >= 0]
        at, whole = at[order], whole[order]
    return at, list(whole.T)


def frame(connection: sqlite3.Connection, groups: Groups, metrics: Sequence[str], most: int) -> pd.DataFrame:
    """Return the table of `Results.frame` with the cells' ids."""
    import pandas as pd

    at, (trials, statuses, *values) = rows(connection, groups, ["trial", "status", *map(quoted, metrics)], most)
    m = len(metrics)
    columns = groups.columns(at, m)
    labels = columns.pop("estimator")
    columns |= {"trial": np.repeat(trials.astype(np.int64), m), "estimator": labels}
    columns["metric"] = taken(metrics, np.tile(np.arange(m), len(at)))
    columns["value"] = np.stack([column.astype(float) for column in values], axis=1).ravel()
    columns["status"] = texts(statuses, m)
    return pd.DataFrame(columns)


def failures(connection: sqlite3.Connection, groups: Groups, most: int) -> pd.DataFrame:
    """Return the table of `Results.failures`."""
    where = f"status IN ({_FAILED})"
    at, (trials, statuses, messages) = rows(connection, groups, ["trial", "status", "message"], most, where)
    return _by_trial(groups, at, trials, {"status": texts(statuses), "message": texts(messages)})


def claims(connection: sqlite3.Connection, groups: Groups, name: str, observed: bool, most: int) -> pd.DataFrame:
    """Return the table of `Results.guarantee_values` of one guarantee; `observed`: whether it has such numbers."""
    chosen = ["trial", quoted(f"guarantee:{name}"), quoted(f"observed:{name}") if observed else "NULL", "status"]
    at, (trials, claimed, seen, statuses) = rows(connection, groups, chosen, most)
    numbers = {"claim": claimed.astype(float), "observed": seen.astype(float)}
    told = {"guarantee": taken([name], np.zeros(len(at), np.int64)), **numbers, "status": texts(statuses)}
    return _by_trial(groups, at, trials, told)


def _by_trial(groups: Groups, at: NDArray[np.int64], trials: NDArray[Any], told: dict[str, Any]) -> pd.DataFrame:
    """Varied fields, cell, trial and estimator of every row, and what is `told` of it."""
    import pandas as pd

    fields = groups.columns(at)
    cells, labels = fields.pop("cell"), fields.pop("estimator")
    return pd.DataFrame({**fields, "cell": cells, "trial": trials.astype(np.int64), "estimator": labels, **told})


def summary(connection: sqlite3.Connection, groups: Groups, metrics: Sequence[str], most: int) -> pd.DataFrame:
    """Return the table of `Results.summary`; ValueError for text in the place of numbers."""
    import pandas as pd

    names, m = [quoted(name) for name in metrics], len(metrics)
    moments = ", ".join(  # SQLite would count text as zero
        f"count({n}), avg({n}) AS mean{i}, sum(typeof({n}) IN ('text', 'blob'))" for i, n in enumerate(names)
    )
    squares = ", ".join(
        f"(SELECT sum(({n} - mean{i}) * ({n} - mean{i})) FROM trial "
        "WHERE cell = found.cell AND estimator = found.estimator AND trial < :most)"
        for i, n in enumerate(names)
    )
    query = (
        f"SELECT found.*, {squares} FROM (SELECT cell, estimator, count(*), sum(status IN ({_FAILED})), {moments} "
        "FROM trial WHERE trial < :most GROUP BY cell, estimator) AS found"
    )
    table = np.empty((len(groups), 2 + 4 * m), object)
    table[:] = [0, 0, *(0, None, 0) * m, *[None] * m]  # of groups without rows
    if found := connection.execute(query, {"most": most}).fetchall():
        sums = np.array(found, object)
        at = groups.numbers(sums[:, 0], sums[:, 1])
        table[at[at >= 0]] = sums[at >= 0, 2:]
    n, mean, text = (table[:, 2 + k : 2 + 3 * m : 3] for k in range(3))
    if len(wrong := np.flatnonzero(text.any(axis=1))):
        raise ValueError(f"{groups.label(wrong[0])} holds text where numbers belong")
    n, square = n.astype(np.int64), table[:, 2 + 3 * m :].astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        mcse = np.where(n > 1, np.sqrt(square / (n - 1) / n), math.nan)
    columns = groups.columns(np.arange(len(groups)), m)
    columns["metric"] = taken(metrics, np.tile(np.arange(m), len(groups)))
    columns |= {"n": n.ravel(), "mean": mean.astype(float).ravel()}
    columns |= {"std": (mcse * np.sqrt(n)).ravel(), "mcse": mcse.ravel()}
    columns |= {name: np.repeat(table[:, i].astype(np.int64), m) for i, name in enumerate(("rows", "failures"))}
    return pd.DataFrame(columns)
