"""From the tables of a study to the problems of its cells: products, zipped axes, ranges and formulas."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from colora_theory.errors import InputError
from colora_theory.model.checks import check_integer, check_real
from colora_theory.model.problem import CHOICES, Problem
from colora_theory.studies.expressions import DERIVED, Expression, derived

#: Fields with whole numbers: formulas for them are rounded up, ranges to the nearest.
WHOLE: Final = ("num_users", "num_samples", "dim_in", "dim_out", "rank", "deviation_level", "new_user_samples")
NUMERIC: Final = tuple(f.name for f in dataclasses.fields(Problem) if f.name not in CHOICES)
_DEFAULTS: Final = {f.name: f.default for f in dataclasses.fields(Problem) if f.default is not dataclasses.MISSING}


def axis(name: str, values: Any) -> list[Any]:
    """The values of one axis: a list, or a range {"log": [low, high, count]} or {"linear": …}."""
    if isinstance(values, list):
        return values
    kinds = set(values) if isinstance(values, Mapping) else set()
    if kinds not in ({"log"}, {"linear"}):
        raise InputError(f"grid.{name} must be a list, {{ log = [low, high, count] }} or {{ linear = … }}.")
    (kind,) = kinds
    ends = values[kind]
    if not isinstance(ends, list) or len(ends) != 3:
        raise InputError(f"grid.{name}.{kind} must be [low, high, count], got {ends!r:.60}.")
    low = check_real(f"grid.{name}.{kind}[1]", ends[0], -math.inf)
    high = check_real(f"grid.{name}.{kind}[2]", ends[1], -math.inf)
    count = check_integer(f"grid.{name}.{kind}[3]", ends[2], 2, 10_000)
    if kind == "log" and min(low, high) <= 0:
        raise InputError(f"grid.{name}.log must have positive ends, got [{low:g}, {high:g}].")
    steps = [i / (count - 1) for i in range(count)]
    points = [low * (high / low) ** t if kind == "log" else low + (high - low) * t for t in steps]
    if name in WHOLE:
        return list(dict.fromkeys(round(point) for point in points))
    return [float(f"{point:.12g}") for point in points]


def points(grid: Mapping[str, Any], zipped: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the varied fields, and the full product of the axes and of the groups of zipped axes."""
    groups: list[list[dict[str, Any]]] = [[{name: v} for v in axis(name, values)] for name, values in grid.items()]
    names = list(grid)
    for number, table in enumerate(zipped, 1):
        columns = {name: axis(name, values) for name, values in table.items()}
        lengths = {len(values) for values in columns.values()}
        if len(lengths) != 1:
            told = ", ".join(f"{name}: {len(values)}" for name, values in columns.items())
            raise InputError(f"zip[{number}] must hold lists of one length, got {told or 'none'}.")
        for name in columns:
            if name in names:
                raise InputError(f"zip[{number}].{name} is varied already; remove one of them.")
        names += columns
        groups.append([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
    size = math.prod(len(group) for group in groups)
    if size > 100_000:
        raise InputError(f"the grid has {size} cells; at most 100000 are allowed. Split the study.")
    out = [{k: v for part in parts for k, v in part.items()} for parts in itertools.product(*groups)]
    return names, out


@functools.lru_cache(maxsize=1000)
def formula(text: str, without: str = "") -> Expression:
    """A formula over the numeric fields and the derived quantities, but for the field `without`."""
    return Expression.parse(text, {*NUMERIC, *DERIVED} - {without})


def resolved(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with every formula replaced by its number.

    A formula may name numeric fields (also ones given by formulas) and the derived quantities dof, rank_in,
    rank_out and snr. Raises InputError for formulas that need each other.
    """
    formulas = {
        name: formula(value, name) for name, value in fields.items() if isinstance(value, str) and name in NUMERIC
    }
    known = {name: value for name, value in fields.items() if name not in formulas}
    while formulas:
        context = {**_DEFAULTS, **known}
        numbers = {**{k: v for k, v in context.items() if k not in formulas}, **derived(context)}
        ready = [
            name
            for name, each in formulas.items()
            if all(isinstance(numbers.get(n), int | float) and n not in formulas for n in each.names)
            and not any(field in formulas for n in each.names for field in DERIVED.get(n, ()))
        ]
        if not ready:
            waiting = ", ".join(f"{name} = {each.text!r}" for name, each in formulas.items())
            raise InputError(f"these formulas need each other, or fields that are no single number: {waiting}.")
        for name in ready:
            number = formulas.pop(name).value(numbers)
            known[name] = math.ceil(number - 1e-9) if name in WHOLE else number
    return known
