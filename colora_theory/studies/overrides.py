"""Reading a study file as text, and changing single entries of it (`--set run.trials=400`)."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from colora_theory.errors import InputError, expect

MAX_FILE_BYTES: Final = 1_000_000


def read_text(path: Path) -> str:
    """Return the text of a study file; raise InputError for what cannot be one."""
    try:
        with path.open("rb") as file:
            blob = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        told = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the study file {path}: {told}.") from None
    if len(blob) > MAX_FILE_BYTES:
        raise InputError(f"{path} is larger than {MAX_FILE_BYTES} bytes; this is no study file.")
    try:
        return blob.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; a study is a TOML file.") from None


#: Parts of a dotted key, and levels of nesting, beyond which a file is no study (its reading takes too long).
_DEEPEST: Final = 32


def parsed(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text; raise InputError for what is none, and for what no study holds."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > _DEEPEST and _key_parts(line) > _DEEPEST:
            raise InputError(f"line {number}: a key has more than {_DEEPEST} parts; shorten it.")
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"this is not valid TOML: {str(error)[:300]}.") from None
    check_plain(tables)
    return tables


def _key_parts(line: str) -> int:
    """Dotted parts of the key (or table header) that a line begins with, quoted parts counted as one."""
    bare = re.sub(r'"(?:[^"\\\\]|\\\\.)*"|\'[^\']*\'', "q", line)
    return bare.split("=")[0].split("#")[0].count(".") + 1


def check_plain(value: Any, where: str = "", depth: int = 0) -> None:
    """Refuse values that are not numbers, text, true or false, lists and tables (dates, say), and deep nesting."""
    if depth > _DEEPEST:
        raise InputError(f"{where[:80]}… is nested more than {_DEEPEST} levels deep.")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_plain(inner, f"{where}.{key}" if where else str(key), depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_plain(inner, where, depth + 1)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise InputError(f"{where} must hold numbers, text, true or false and lists, got {value!r:.80}.")
    elif isinstance(value, int) and abs(value) >= 2**1024:
        raise InputError(f"{where} must be below 2^1024 in size, got a number of {value.bit_length()} bits.")


def parse_overrides(overrides: Mapping[str, Any] | Iterable[str]) -> dict[str, Any]:
    """Return {"dotted.key": value}; strings "key=value" are read as TOML, bare words as strings."""
    if isinstance(overrides, Mapping):
        return dict(overrides)
    expect("overrides", overrides, Iterable, 'give {"run.trials": 400} or ["run.trials=400"]')
    out = {}
    for text in overrides:
        expect("an override", text, str, "write key=value, for example run.trials=400")
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set takes key=value, for example run.trials=400, got {text!r:.80}.")
        value = value.strip()
        try:
            entry = tomllib.loads(f"value = {value}")
            if set(entry) != {"value"}:
                raise ValueError
            out[key.strip()] = entry["value"]
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
        if len(path) >= _DEEPEST:
            raise InputError(f"--set {key[:80]}…: a key has at most {_DEEPEST} parts.")
        check_plain(value, f"--set {key}")
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
