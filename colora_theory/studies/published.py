"""Numbers that a paper published, as objects: read from the CSV beside a study, matched with its cells."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from colora_theory.errors import InputError, nearest
from colora_theory.model.problem import Problem
from colora_theory.studies.overrides import read_text

if TYPE_CHECKING:
    from colora_theory.studies.cells import Cell
    from colora_theory.studies.schema import ExplainedTable, PublishedTable

#: Columns that say what a number is; the others are fields of the problem, which say where it belongs.
WHAT: Final = ("series", "metric", "y", "std", "reps", "trial")
_FIELDS: Final = {field.name for field in dataclasses.fields(Problem)}


@dataclass(frozen=True)
class Point:
    """One published point: a mean with the standard deviation of one repetition, or one value per trial.

    where : fields of the problem. y, std, reps : mean, standard deviation and number of repetitions (std NaN and
    reps 0 for paired points). paired : {trial of the study: published value}, empty for two-sample points.
    """

    where: tuple[tuple[str, Any], ...]
    series: str
    metric: str
    y: float
    std: float = math.nan
    reps: int = 0
    paired: tuple[tuple[int, float], ...] = ()

    def of(self, cell: Cell) -> bool:
        """Whether the cell is the one that the point belongs to."""
        return all(_same(getattr(cell.problem, name), value) for name, value in self.where)

    def matches(self, entry: ExplainedTable) -> bool:
        """Whether an explanation speaks about this point."""
        fields = dict(self.where)
        return self.series == entry.series and all(
            any(_same(fields.get(name), value) for value in (rule if isinstance(rule, list) else [rule]))
            for name, rule in entry.where.items()
        )


def with_points(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The tables of a study with the columns of every `[[published]]` file filled in, read from `folder`."""
    out = dict(raw)
    entries = raw.get("published")
    if isinstance(entries, list):
        out["published"] = [_filled(entry, folder) for entry in entries]
    return out


def _filled(entry: Any, folder: Path) -> Any:
    if not isinstance(entry, dict) or "points" in entry or not isinstance(name := entry.get("file"), str):
        return entry  # the schema says what is wrong with it
    if Path(name).name != name:
        raise InputError(f"published.file must be a file beside the study, without folders, got {name!r:.80}.")
    return {**entry, "points": columns_of(read_text(folder / name), name)}


def columns_of(text: str, name: str) -> dict[str, list[Any]]:
    """The columns of a CSV text: numbers where they are some, else text. Lines that begin with # are left out.

    Raises InputError for rows of other lengths than the head, columns that mean nothing, and missing ones.
    """
    kept = "".join(line for line in io.StringIO(text) if line.strip() and not line.startswith("#"))
    rows = list(csv.reader(io.StringIO(kept)))
    if len(rows) < 2:
        raise InputError(f"{name} holds no points; give a head and one row a point.")
    head = [word.strip() for word in rows[0]]
    for word in head:
        if word not in WHAT and word not in _FIELDS:
            raise InputError(f"{name}: unknown column {word!r}; {nearest(word, [*WHAT, *_FIELDS])}")
    for word in ("series", "metric", "y"):
        if word not in head:
            raise InputError(f"{name} has no column {word!r}; add it.")
    if ("trial" in head) == ("std" in head) or ("std" in head) != ("reps" in head):
        raise InputError(f"{name} must have the columns std and reps, or trial (paired), got {', '.join(head)}.")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(head):
            raise InputError(f"{name}: row {number} has {len(row)} entries, the head {len(head)}.")
    return {word: [number_or_text(row[i]) for row in rows[1:]] for i, word in enumerate(head)}


def text_of(columns: Mapping[str, list[Any]]) -> str:
    """Columns as the text of a CSV file, which `columns_of` reads back."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([list(columns), *zip(*columns.values(), strict=True)])
    return out.getvalue()


def number_or_text(text: str) -> Any:
    """An integer, a real number, or else the text without the blanks around it."""
    text = text.strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def points_of(table: PublishedTable) -> list[Point]:
    """The points of a `[[published]]` table, in the order of their first rows.

    Raises InputError for values that are no finite numbers, and for two numbers of one point.
    """
    names = [name for name in table.points if name not in WHAT]
    found: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    columns = table.points
    for i in range(len(next(iter(columns.values()), []))):
        where = tuple((name, columns[name][i]) for name in names)
        key = (where, str(columns["series"][i]), str(columns["metric"][i]))
        second = columns["trial"][i] if "trial" in columns else columns["std"][i]
        reps = columns["reps"][i] if "reps" in columns else 1
        numbers = (columns["y"][i], second, reps)
        plain = all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
        if not plain or second < 0 or reps != int(reps) or reps < 1:
            raise InputError(
                f"{table.file}: row {i + 2} must hold finite numbers (std ≥ 0, reps ≥ 1), got {numbers}."
            )
        found.setdefault(key, []).append(numbers)
    if "trial" not in columns:
        for (where, series, _), rows in found.items():
            if len(rows) > 1:
                told = ", ".join(f"{name} = {value}" for name, value in where)
                raise InputError(f"{table.file} gives {len(rows)} numbers for {series!r} at {told}; keep one.")
        return [Point(w, s, m, float(r[0][0]), float(r[0][1]), int(r[0][2])) for (w, s, m), r in found.items()]
    out = []
    for (where, series, metric), rows in found.items():
        paired = {int(trial): float(y) for y, trial, _ in rows}
        if len(paired) != len(rows):
            raise InputError(f"{table.file} gives two numbers for one trial of {series!r}; keep one.")
        mean = math.fsum(paired.values()) / len(paired)
        out.append(Point(where, series, metric, mean, paired=tuple(sorted(paired.items()))))
    return out


def _same(one: Any, other: Any) -> bool:
    """Equal values of a field: numbers up to rounding in their decimal form."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return bool(one == other)
