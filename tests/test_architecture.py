"""The house rules that imports can show, and the promises about start-up time that they keep."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import colora_theory as ct

PACKAGE = Path(ct.__file__).parent


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports at run time, as dotted names without the package."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(name.name for name in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                found.add(child.module)
                found.update(f"{child.module}.{name.name}" for name in child.names)
            visit(child)

    visit(ast.parse(path.read_text()))
    return {name.removeprefix("colora_theory.") for name in found if name.startswith("colora_theory.")}


def files(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py")) if (PACKAGE / room).is_dir() else [PACKAGE / f"{room}.py"]


def uses(room: str, other: str) -> list[str]:
    return [
        f"{path.name} imports {name}"
        for path in files(room)
        for name in imported(path)
        if name == other or name.startswith(f"{other}.")
    ]


def test_guarantees_never_import_estimators() -> None:
    """Theory cannot peek at the answer."""
    assert not uses("guarantees", "estimators")


def test_estimators_never_see_a_truth() -> None:
    for room in ("truth", "guarantees", "metrics"):
        assert not uses("estimators", room)


#: From the ground floor up; a room may use the rooms before it.
FLOORS = [
    ["errors"],
    ["registry", "linalg"],
    ["problem"],
    ["truth"],
    ["data"],
    ["metrics", "estimators", "guarantees"],
    ["study"],
    ["trial"],
    ["sweep", "verdicts", "testing"],
    ["analysis"],
    ["plots"],
    ["cli"],
]


def test_imports_run_downward() -> None:
    for level, rooms in enumerate(FLOORS):
        above = [other for floor in FLOORS[level + 1 :] for other in floor]
        for room in rooms:
            for other in above:
                assert not uses(room, other), f"{room} is below {other}"


@pytest.mark.parametrize("heavy", ["numpy", "scipy", "pandas", "matplotlib", "pydantic", "joblib"])
def test_help_imports_nothing_heavy(heavy: str) -> None:
    code = f"import sys, colora_theory, colora_theory.cli; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_is_there() -> None:
    for name in ct.__all__:
        assert getattr(ct, name) is not None
    assert set(ct.__all__) <= set(dir(ct))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ct.nonsense


def test_nothing_uses_global_random_state_pickle_or_arccos() -> None:
    """Explicit generators only; no code is read from disk; angles go through sines."""
    banned = ("np.random.seed", "np.random.rand", "np.random.normal", "default_rng()", "import pickle", "arccos")
    banned += ("np.load(", "joblib.load", "read_pickle", " eval(", " exec(", "yaml")  # nothing read is executed
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert not [word for word in banned if word in text], path
