"""Estimators and guarantees as a terminal shows them: a list, or everything about one of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import Any

from colora_theory import estimators as methods
from colora_theory import guarantees as theorems
from colora_theory.results.text import table


def guarantees(name: str | None, as_json: bool) -> str:
    """The list of guarantees, or the full statement of one."""
    if name is None:
        entries = [[g.name, g.kind, g.source, g.title] for g in theorems.all()]
        return _list(["name", "kind", "source", "statement"], entries, as_json)
    g = theorems.get(name)
    if as_json:
        about = {"name": g.name, "kind": g.kind, "source": g.source, "metric": g.metric, "statement": g.statement}
        return json.dumps(about)
    return f"{g.name} ({g.kind})\nsource: {g.source}\nmetric: {g.metric}\n\n{g.statement}"


def estimators(name: str | None, as_json: bool) -> str:
    """The list of estimators, or the description of one."""
    if name is None:
        entries = [[e.name, ", ".join(e.parameters()), e.summary()] for e in methods.all()]
        return _list(["name", "parameters", "method"], entries, as_json)
    cls = methods.get(name)
    text = (cls.__doc__ or "").strip()
    if as_json:
        defaults = {f.name: _default(f) for f in dataclasses.fields(cls)}
        return json.dumps(
            {"name": cls.name, "parameters": list(cls.parameters()), "defaults": defaults, "text": text}
        )
    settings = ", ".join(f"{f.name} = {_default(f)}" for f in dataclasses.fields(cls))
    return f"{cls.name}\nparameters and defaults: {settings or 'none'}\n\n{text}"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    return "given by the data" if field.default is None and field.name != "rank" else repr(field.default)


def _list(head: list[str], entries: list[list[Any]], as_json: bool) -> str:
    if as_json:
        return json.dumps([dict(zip(head, entry, strict=True)) for entry in entries])
    width = max(60, shutil.get_terminal_size((120, 24)).columns)
    return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in table(head, entries))
