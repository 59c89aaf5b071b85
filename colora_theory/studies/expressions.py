"""Quantities of a study written as formulas over the problem's fields: `"3 * dof / num_users"`.

A small closed grammar: numbers, names, + − * / **, parentheses, and min, max, sqrt, log, exp, ceil, floor, round.
Formulas are parsed with `ast` and evaluated node by node; nothing is ever executed as code.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from colora_theory.errors import InputError, nearest

LONGEST: Final = 300
_DEEPEST: Final = 40

_BINARY: Final[dict[type[ast.operator], Callable[[float, float], float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: Final[dict[str, tuple[Callable[..., float], int, int]]] = {
    "min": (min, 1, 20),
    "max": (max, 1, 20),
    "sqrt": (math.sqrt, 1, 1),
    "log": (math.log, 1, 1),
    "exp": (math.exp, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "floor": (math.floor, 1, 1),
    "round": (round, 1, 1),
}
#: What a formula may name besides the numeric fields of a problem, and the fields that it needs.
DERIVED: Final = {
    "dof": ("num_users", "dim_in", "dim_out", "rank"),
    "rank_in": ("rank",),
    "rank_out": ("rank", "dim_out"),
    "snr": ("signal_norm", "noise_std"),
}


@dataclass(frozen=True)
class Expression:
    """A parsed formula: its text and the names it uses."""

    text: str
    names: frozenset[str]
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str, allowed: Iterable[str]) -> Expression:
        """Parse a formula over `allowed` names; raise InputError that points at the place of what is wrong."""
        if len(text) > LONGEST:
            raise InputError(f"a formula has at most {LONGEST} characters, got {len(text)}.")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            place = getattr(error, "offset", None) or 1
            raise InputError(f"{text!r} is no formula: it cannot be read {_at(place - 1)}.") from None
        names: set[str] = set()
        _check(tree, text, set(allowed), names, 0)
        return cls(text, frozenset(names), tree)

    def value(self, of: Mapping[str, Any]) -> float:
        """The number that the formula gives for these values; InputError where it gives none."""
        try:
            number = float(_evaluate(self._tree, of))
        except (ZeroDivisionError, OverflowError, ValueError, TypeError) as error:
            given = ", ".join(f"{name} = {of.get(name)!r}" for name in sorted(self.names))
            raise InputError(f"{self.text!r} gives no number for {given or 'no names'}: {error}.") from None
        if not math.isfinite(number):
            raise InputError(f"{self.text!r} gives {number}, which is not finite.")
        return number


def _at(place: int) -> str:
    return f"at character {place + 1}"


def _check(node: ast.AST, text: str, allowed: set[str], names: set[str], depth: int) -> None:
    place = getattr(node, "col_offset", 0)
    if depth > _DEEPEST:
        raise InputError(f"{text!r} is nested too deeply {_at(place)}; split it.")
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool) or not isinstance(node.value, int | float) or abs(node.value) > 1e300:
            raise InputError(f"{text!r}: {_at(place)} there must be a number, got {str(node.value)[:40]!r}.")
    elif isinstance(node, ast.Name):
        if node.id not in allowed:
            raise InputError(f"{text!r}: {_at(place)} {node.id!r} is unknown; {nearest(node.id, allowed)}")
        names.add(node.id)
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        _check(node.left, text, allowed, names, depth + 1)
        _check(node.right, text, allowed, names, depth + 1)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        _check(node.operand, text, allowed, names, depth + 1)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        _, least, most = _FUNCTIONS[node.func.id]
        if node.keywords or not least <= len(node.args) <= most:
            raise InputError(f"{text!r}: {_at(place)} {node.func.id} takes {least} to {most} numbers.")
        for argument in node.args:
            _check(argument, text, allowed, names, depth + 1)
    else:
        raise InputError(
            f"{text!r}: {_at(place)} only numbers, names, + - * / **, parentheses and "
            f"{', '.join(_FUNCTIONS)} are allowed."
        )


def _evaluate(node: ast.expr, of: Mapping[str, Any]) -> float:
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return float(of[node.id])
    if isinstance(node, ast.BinOp):
        result = _BINARY[type(node.op)](_evaluate(node.left, of), _evaluate(node.right, of))
        return float(result)  # a negative number to a broken power is complex: TypeError, told as no number
    if isinstance(node, ast.UnaryOp):
        inner = _evaluate(node.operand, of)
        return -inner if isinstance(node.op, ast.USub) else inner
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    return float(_FUNCTIONS[node.func.id][0](*(_evaluate(argument, of) for argument in node.args)))


def derived(fields: Mapping[str, Any]) -> dict[str, float]:
    """The derived quantities that follow from the fields that are known."""
    out: dict[str, float] = {}
    rank = fields.get("rank")
    if rank is None:
        ranks = None
    elif isinstance(rank, tuple | list):
        ranks = (int(rank[0]), int(rank[1])) if len(rank) == 2 else None
    else:
        ranks = (int(rank), min(int(rank), int(fields.get("dim_out", 1))))
    if ranks is not None:
        out |= {"rank_in": ranks[0], "rank_out": ranks[1]}
        if all(isinstance(fields.get(name), int) for name in ("num_users", "dim_in")):
            k, d, p = fields["num_users"], fields["dim_in"], int(fields.get("dim_out", 1))
            r1, r2 = ranks
            out["dof"] = r1 * (d - r1) + r2 * (p - r2) + k * r1 * r2
    noise = fields.get("noise_std", 0.0)
    if isinstance(noise, int | float) and noise > 0:
        out["snr"] = float(fields.get("signal_norm", 1.0)) / float(noise)
    return out
