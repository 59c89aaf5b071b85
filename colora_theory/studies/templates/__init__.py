"""Study files to start from."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from colora_theory.errors import InputError, nearest


def names() -> list[str]:
    """Names of the templates."""
    return sorted(f.name.removesuffix(".toml") for f in files(__name__).iterdir() if f.name.endswith(".toml"))


def write(file: Path, template: str) -> None:
    """Write a template as a study named after the file; an existing file is left alone."""
    if template not in names():
        raise InputError(f"unknown template {template!r}; {nearest(template, names())}")
    text = (files(__name__) / f"{template}.toml").read_text(encoding="utf-8")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", file.stem).lstrip("_.-") or template
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text.replace('"NAME"', f'"{name}"').replace("THIS_FILE", file.name).replace("NAME", name))
    except FileExistsError:
        raise InputError(f"{file} exists already; choose another name.") from None
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror or error}.") from None
