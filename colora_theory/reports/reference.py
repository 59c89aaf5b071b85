"""The reference of study files, from the schema itself, and sections of the theory by the name of a guarantee."""

from __future__ import annotations

import dataclasses
import types
import typing
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from colora_theory import guarantees, sources
from colora_theory.errors import InputError
from colora_theory.model import metrics
from colora_theory.studies import figure_kinds
from colora_theory.studies.schema import StudyTable


def study_reference() -> str:
    """All keys of a study file as Markdown: type, default, and what each table is."""
    out = [
        "# Study files: every key",
        "",
        "Written by `colora-theory schema`. Values are TOML; a study says `schema = 1`; unknown keys are refused.",
        'A number of `[problem]` may be a formula over other fields: `num_samples = "3 * dof / num_users"`.',
        "(Numbers, fields, dof, rank_in, rank_out, snr, + − * / **, min, max, sqrt, log, exp, ceil, floor, round;",
        "whole numbers are rounded up.) An axis of `[grid]` is a list, `{ log = [low, high, count] }` or",
        "`{ linear = [low, high, count] }`; each `[[zip]]` holds lists of one length that vary together.",
        "",
    ]
    seen: list[type[BaseModel]] = []

    def visit(model: type[BaseModel], title: str) -> None:
        seen.append(model)
        out.extend([f"## {title}", "", " ".join((model.__doc__ or "").split()), "", "| key | type | default |"])
        out.append("|---|---|---|")
        inner = []
        for name, field in model.model_fields.items():
            found = _models(field.annotation)
            inner += [(each, field.alias or name) for each in found]
            default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
            out.append(f"| `{field.alias or name}` | {_type(field.annotation)} | {default} |")
        out.append("")
        for each, name in inner:
            if each not in seen:
                visit(each, f"`{name}`")

    visit(StudyTable, "The file")
    out += ["## Sources of real data", ""]
    for source in sources.all():
        out.append(f"- `{source.name}`: {(source.__doc__ or '').strip().splitlines()[0]}")
        for option in dataclasses.fields(source):
            default = "required" if option.default is dataclasses.MISSING else _default(option.default)
            out.append(f"    - `{option.name}` ({option.type}): {default}")
        out += [f"    - metric `{name}`: {told}" for name, told in source.notes.items()]
    out += ["", "Metrics of real data:", ""]
    out += [f"- `{name}`: {told}" for name, told in metrics.HELD_OUT.items()]
    out += ["", "## Kinds of figure", ""]
    for kind in figure_kinds.names():
        cls = figure_kinds.get(kind)
        needs = ", ".join(f"`{key}`" for key in cls.needs) or "nothing"
        takes = ", ".join(f"`{key}`" for key in cls.takes) or "nothing more"
        out.append(f"- `{kind}`: {(cls.__doc__ or '').strip().splitlines()[0]} Needs {needs}; takes {takes}.")
    return "\n".join(out) + "\n"


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for each in typing.get_args(annotation) for model in _models(each)]


def _type(annotation: Any) -> str:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            return "table"
        return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
            annotation.__name__, annotation.__name__
        )
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is typing.Annotated:
        return _type(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(each) for each in inner if each is not type(None))
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"table of {_type(inner[1])}"
    return "anything" if annotation is Any else str(annotation)


def _default(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, BaseModel):
        return "its defaults"
    return "empty" if value in ({}, [], (), "") else f"`{value}`"


def theory(name: str) -> str:
    """The section of docs/theory.md that proves (or sources) a guarantee; its statement where there is none."""
    guarantee = guarantees.get(name)
    text = _theory_text()
    anchor = guarantee.source.rpartition("#")[2].strip() if "#" in guarantee.source else ""
    for section in text.split("\n## ")[1:]:
        title = section.partition("\n")[0]
        if anchor and _anchor(title) == anchor:
            return f"## {section.strip()}\n"
    return f"{guarantee.name} ({guarantee.kind})\nsource: {guarantee.source}\n\n{guarantee.statement}\n"


def _anchor(title: str) -> str:
    kept = "".join(sign for sign in title.lower() if sign.isalnum() or sign in " -_")
    return kept.strip().replace(" ", "-")


def _theory_text() -> str:
    """The text beside the package in a checkout, or inside it when installed."""
    for place in (files("colora_theory") / "theory.md", Path(__file__).parents[2] / "docs" / "theory.md"):
        if place.is_file():
            return place.read_text(encoding="utf-8")
    raise InputError("docs/theory.md is not installed; read it in a checkout of colora_theory.")
