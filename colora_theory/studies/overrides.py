"""Reading a study file as text, and changing single entries of it (`--set run.trials=400`)."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from colora_theory.errors import InputError

MAX_FILE_BYTES: Final = 1_000_000


def read_text(path: Path) -> str:
    """Return the text of a study file; raise InputError for what cannot be one."""
    try:
        with path.open("rb") as file:
            blob = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read the study file {path}: {error.strerror or error}.") from None
    if len(blob) > MAX_FILE_BYTES:
        raise InputError(f"{path} is larger than {MAX_FILE_BYTES} bytes; this is no study file.")
    try:
        return blob.decode()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; a study is a TOML file.") from None


def parse_overrides(overrides: Mapping[str, Any] | Iterable[str]) -> dict[str, Any]:
    """Return {"dotted.key": value}; strings "key=value" are read as TOML, bare words as strings."""
    if isinstance(overrides, Mapping):
        return dict(overrides)
    out = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set takes key=value, for example run.trials=400, got {text!r}.")
        value = value.strip()
        try:
            parsed = tomllib.loads(f"value = {value}")
            if set(parsed) != {"value"}:
                raise ValueError
            out[key.strip()] = parsed["value"]
        except (ValueError, RecursionError):
            if not re.fullmatch(r"[A-Za-z_][\w-]*", value):
                raise InputError(
                    f'--set {key.strip()}: {value!r} is not a TOML value; numbers, true, "text" and [1, 2] are.'
                ) from None
            out[key.strip()] = value
    return out


def overridden(raw: Mapping[str, Any], sets: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the nested tables with the entries at the dotted keys replaced or added."""
    out: dict[str, Any] = copy.deepcopy(dict(raw))
    for key, value in sets.items():
        *path, last = key.split(".")
        place: Any = out
        for part in path:
            place = _child(place, part, key)
        if isinstance(place, list):
            _child(place, last, key)
            place[int(last)] = value
        elif isinstance(place, dict):
            place[last] = value
        else:
            raise InputError(f"--set {key}: {path[-1]!r} is not a table.")
    return out


def _child(place: Any, part: str, key: str) -> Any:
    if isinstance(place, dict):
        return place.setdefault(part, {})
    if isinstance(place, list):
        if part.isdecimal() and int(part) < len(place):
            return place[int(part)]
        raise InputError(
            f"--set {key}: {part!r} must be a number from 0 to {len(place) - 1}, the entry to change."
        )
    raise InputError(f"--set {key}: there is no table at {part!r}.")
