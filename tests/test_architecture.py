"""The house rules that imports can show, and the promises about start-up time that they keep."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import colora_theory as ct

PACKAGE = Path(ct.__file__).parent


#: From the ground floor up; a module may import its own room and the rooms before it.
ROOMS = [
    ("errors",),
    ("registry", "model"),
    ("estimators", "guarantees"),  # never each other
    ("regression",),
    ("sources",),
    ("studies",),
    ("results",),
    ("verdicts", "engine"),
    ("figures", "assertion"),
    ("reports", "counterexample"),
    ("console", "testing"),
    ("cli", "pytest_plugin"),
]
LEVELS = 12
LONGEST = 350
MOST_AT_THE_TOP = 9


def module_of(path: Path) -> str:
    """Dotted name inside the package; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(name: str) -> set[str]:
    """Modules of the package that a module imports at run time, also inside its functions."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(each.name for each in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                inner = {f"{child.module}.{each.name}" for each in child.names}
                modules = {each for each in inner if each.removeprefix("colora_theory.") in MODULES}
                found.update(modules)
                if modules != inner:  # names that live in the module itself
                    found.add(child.module)
            visit(child)

    visit(ast.parse(MODULES[name].read_text(encoding="utf-8")))
    inside = {each.partition(".")[2] for each in found if each.split(".")[0] == "colora_theory"}
    return (inside & set(MODULES)) - {name}


IMPORTS = {name: imported(name) for name in MODULES}


def room_of(name: str) -> int:
    floors = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
    return floors[name.split(".")[0]]


def reached(name: str) -> set[str]:
    """Everything that is loaded with a module, directly or not."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        for other in IMPORTS[waiting.pop()] - seen:
            seen.add(other)
            waiting.append(other)
    return seen


@pytest.mark.parametrize("name", sorted(set(MODULES) - {""}))
def test_imports_run_downward(name: str) -> None:
    """Every module is in a room, and imports only from its own or a lower one."""
    room, floor = name.split(".")[0], room_of(name)
    for other in IMPORTS[name] - {""}:  # the bare package holds the version and loads nothing
        lower = room_of(other) < floor or other.split(".")[0] == room
        assert lower, f"{name} imports {other}, which is not below it"


def test_no_circles_and_few_levels() -> None:
    levels: dict[str, int] = {}

    def level(name: str, path: tuple[str, ...]) -> int:
        assert name not in path, f"a circle of imports: {' → '.join((*path, name))}"
        if name not in levels:
            levels[name] = 1 + max((level(other, (*path, name)) for other in IMPORTS[name] - {""}), default=0)
        return levels[name]

    deepest = max(MODULES, key=lambda name: level(name, ()))
    assert levels[deepest] <= LEVELS, f"{deepest} stands on {levels[deepest]} levels of imports"


def test_estimators_cannot_reach_a_truth() -> None:
    """Neither directly nor through anything they import: theory's answers stay out of their sight."""
    for name in MODULES:
        if name.split(".")[0] == "estimators":
            assert not {"model.truth", "model.sampling", "model.metrics"} & reached(name), name


def test_files_are_read_in_one_sitting() -> None:
    at_the_top = [name for name in MODULES if "." not in name and MODULES[name].stem != "__init__"]
    assert len(at_the_top) + 1 <= MOST_AT_THE_TOP  # and the package's own file
    for name, path in MODULES.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= LONGEST, f"{name} has {lines} lines"


def test_every_room_says_what_may_live_there() -> None:
    for name, path in MODULES.items():
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert text, f"{name} has no docstring"


@pytest.mark.parametrize("heavy", ["numpy", "scipy", "pandas", "matplotlib", "pydantic", "joblib"])
def test_help_imports_nothing_heavy(heavy: str) -> None:
    code = f"import sys, colora_theory, colora_theory.cli; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize("heavy", ["scipy.stats", "scipy.optimize", "pandas", "matplotlib.pyplot"])
def test_reading_a_study_imports_nothing_that_only_its_results_need(heavy: str) -> None:
    file = Path(__file__).parents[1] / "experiments" / "all_methods.toml"
    read = f"import sys, colora_theory as ct; ct.Study.from_toml({str(file)!r})"
    code = f"{read}; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


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
