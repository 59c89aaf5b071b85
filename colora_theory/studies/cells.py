"""Cells and estimators of a study: the points of its grid, its methods, and the words that their seeds use."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from colora_theory import sources
from colora_theory.errors import InputError, known
from colora_theory.model.memory import without_collection
from colora_theory.model.problem import Problem
from colora_theory.sources import Source
from colora_theory.studies.grid import points, resolved

if TYPE_CHECKING:
    from colora_theory.estimators import Estimator
    from colora_theory.model.truth import Truth
    from colora_theory.studies.schema import StudyTable


def words_of(content: Any) -> tuple[int, ...]:
    """Return the sha256 of the canonical JSON of `content` as eight 32-bit words."""
    return _words(hashlib.sha256(_canonical(content).encode()).digest())


_words = struct.Struct(">8I").unpack
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    id : first 12 hex digits of the sha256 of the setting's canonical content; words : all of it, for seeds.
    setting : what trials are drawn from, a problem or a source of real data.
    varied : the grid's fields and their values in this cell.
    """

    id: str
    words: tuple[int, ...]
    setting: Problem | Source
    varied: dict[str, Any]

    @classmethod
    def of(cls, setting: Problem | Source, varied: dict[str, Any]) -> Cell:
        """Return the cell of a problem or of a source."""
        words = words_of(setting.content())
        return cls(f"{words[0]:08x}{words[1]:08x}"[:12], words, setting, varied)

    @property
    def problem(self) -> Problem:
        """The problem that theorems speak about; InputError for real data, which have none."""
        if not isinstance(self.setting, Problem):
            raise InputError(f"source {self.setting.name!r} has no truth that a theorem could speak about.")
        return self.setting

    def __str__(self) -> str:
        return ", ".join(f"{name} = {value}" for name, value in self.varied.items()) or "the only cell"


@dataclass(frozen=True)
class EstimatorSpec:
    """An estimator of a study: a registered class, the parameters the study sets, and its label."""

    label: str
    name: str
    params: dict[str, Any]
    cls: type[Estimator] = field(repr=False)
    words: tuple[int, ...] = field(repr=False)

    @classmethod
    def of(cls, estimator: type[Estimator], params: Mapping[str, Any], label: str | None = None) -> EstimatorSpec:
        """Return the spec of an estimator class with these parameters; ValueError for what is no plain value."""
        plain = {key: as_tuples(value) for key, value in params.items()}
        words = words_of({"name": estimator.name, "params": plain})
        return cls(label or estimator.name, estimator.name, plain, estimator, words)

    def build(self, setting: Problem | Source, truth: Truth | None) -> Estimator:
        """Return the estimator for a trial: rank from the problem unless set, side information from the truth.

        Raises InputError for a method that needs a rank, or side information, which real data do not give.
        """
        params = dict(self.params)
        ranked = "rank" in self.cls.parameters()
        if isinstance(setting, Problem):
            if ranked:
                params.setdefault("rank", setting.rank)
        elif self.cls.side_information:
            told = ", ".join(self.cls.side_information)
            raise InputError(f"it is told {told} of the truth, and real data have none; leave it out.")
        elif ranked and params.get("rank", self.cls.__dataclass_fields__["rank"].default) is None:
            raise InputError("rank must be set, because real data have no true one; add params = { rank = 1 }.")
        for name in self.cls.side_information:
            params[name] = getattr(truth, name)
        return self.cls.from_params(**params)


def as_tuples(value: Any) -> Any:
    """Lists of a TOML file become tuples, as the frozen dataclasses want them."""
    return tuple(as_tuples(v) for v in value) if isinstance(value, list) else value


def cells(table: StudyTable) -> tuple[Cell, ...]:
    """The cells of a study's grid, in file order."""
    exclude = [entry.where for entry in table.exclude]
    if table.data is None:
        return _drawn(json.dumps([table.problem, table.grid, table.zip, exclude]))
    return _of_grid(table.data.options, table.grid, table.zip, exclude, table.data.source)


@functools.lru_cache(maxsize=1)
def _drawn(tables: str) -> tuple[Cell, ...]:
    """The cells of problems that are drawn, which follow from the tables (as JSON) alone.

    The full and the quick form of a study, and its results when they are opened again, often have the same: those
    of the latest grid are kept.
    """
    return _of_grid(*json.loads(tables))


def _of_grid(
    fixed: Mapping[str, Any],
    grid: Mapping[str, Any],
    zipped: Sequence[Mapping[str, Any]],
    exclude: Sequence[Mapping[str, Any]],
    source: str | None = None,
) -> tuple[Cell, ...]:
    fixed = {name: as_tuples(value) for name, value in fixed.items()}
    section, what = ("[problem]", "problem") if source is None else ("[data]", "cell")
    names, places = points(grid, zipped)
    for name in names:
        if name in fixed:
            raise InputError(f"{name} stands in {section} and is varied in the grid; remove one of them.")
    for index, where in enumerate(exclude):
        for name in where:
            known(f"exclude[{index + 1}].where.{name}", name, names)
    for f in dataclasses.fields(Problem) if source is None else ():
        if f.default is dataclasses.MISSING and f.name not in fixed and f.name not in names:
            raise InputError(f"problem.{f.name} is missing; set it in [problem] or vary it in [grid].")
    found: dict[tuple[int, ...], Cell] = {}
    with without_collection():
        for place in places:
            varied = {name: as_tuples(value) for name, value in place.items()}
            cell = _cell(fixed, varied) if source is None else _cell_of_source(source, fixed, varied)
            if any(matching(cell.varied, where) for where in exclude):
                continue
            if cell.words in found:
                raise InputError(f"the grid holds one {what} twice: {cell}, and {found[cell.words]}; remove one.")
            found[cell.words] = cell
    if not found:
        raise InputError("the grid has no cells left: [[exclude]] removes all of them.")
    return tuple(found.values())


def _cell(fixed: dict[str, Any], varied: dict[str, Any]) -> Cell:
    try:
        fields = resolved({**fixed, **varied})
        problem, varied = Problem(**fields), {name: fields[name] for name in varied}
    except InputError as error:
        raise InputError(
            f"grid ({', '.join(f'{k} = {v}' for k, v in varied.items())}): {error}"
            if varied
            else f"problem: {error}"
        ) from None
    return Cell.of(problem, varied)


def _cell_of_source(name: str, fixed: dict[str, Any], varied: dict[str, Any]) -> Cell:
    try:
        return Cell.of(sources.get(name).of({**fixed, **varied}), varied)
    except InputError as error:
        where = f"grid ({', '.join(f'{k} = {v}' for k, v in varied.items())})" if varied else "data"
        raise InputError(f"{where}: {error}") from None


def matching(varied: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    """Whether the varied fields have the values of `where`; a list there means any of them."""

    def matches(value: Any, rule: Any) -> bool:
        return value == as_tuples(rule) or (isinstance(rule, list) and any(value == as_tuples(r) for r in rule))

    return all(matches(varied[name], rule) for name, rule in where.items())
