"""Mutation check: make each small error of mutations.toml in a copy of the package and ask whether a test notices.

    python tests/mutation/run.py [--first-tests-only] [FILE ...]

Prints one line for each mutation, killed or SURVIVED, and the counts; exits 1 if one survived. Beginnings of FILE
names (in the package) limit it to the mutations of those files. Refuses to start when an old text does not occur
exactly once in the package.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("mutations.toml")
#: A mutation that makes a loop endless is noticed too.
SECONDS = 1800


class Mutation(NamedTuple):
    """Replace `old` by `new` where it stands in the package, and ask `tests` first."""

    subject: str
    old: str
    new: str
    tests: tuple[str, ...]


def mutations() -> list[Mutation]:
    """Return the table."""
    groups = tomllib.loads(TABLE.read_text(encoding="utf-8"))["group"]
    return [Mutation(g["subject"], old, new, tuple(g["tests"])) for g in groups for old, new in g["changes"]]


def places(package: Path = ROOT / "colora_theory") -> dict[Mutation, list[Path]]:
    """Return the files in which the old text of each mutation stands, one entry for every time it does."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))}
    return {m: [p for p, text in texts.items() for _ in range(text.count(m.old))] for m in mutations()}


def problems(package: Path = ROOT / "colora_theory") -> list[str]:
    """Return what is wrong with the table: texts that do not occur exactly once, idle replacements."""
    found = []
    for m, files in places(package).items():
        if len(files) != 1:
            found.append(f"{m.subject}: {m.old!r} occurs {len(files)} times, not once")
        if m.old == m.new:
            found.append(f"{m.subject}: {m.old!r} is replaced by itself")
    return found


def noticed(copy: Path, tests: tuple[str, ...]) -> bool:
    """Whether a test fails in the copy (an endless run counts)."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return True
    if done.returncode not in (0, 1, 2):  # 2: a module that no longer imports
        raise RuntimeError(done.stdout.decode() + done.stderr.decode())
    return done.returncode != 0


def main() -> int:
    """Run the check."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("files", nargs="*", metavar="FILE", help="only mutations of these files")
    options.add_argument("--first-tests-only", action="store_true", help="do not ask the whole suite")
    chosen = options.parse_args()
    if wrong := problems():
        print("\n".join(wrong), file=sys.stderr)
        return 2
    package = ROOT / "colora_theory"
    files = {m: paths[0].relative_to(package).as_posix() for m, paths in places(package).items()}
    table = [m for m in files if files[m].startswith(tuple(chosen.files) or "")]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache")
        )
        asked = tuple(sorted({f"tests/{name}" for m in table for name in m.tests}))
        if noticed(copy, asked if chosen.first_tests_only else ("tests",)):
            print("the tests fail without any mutation; mend them first.", file=sys.stderr)
            return 2
        for number, m in enumerate(table, start=1):
            start = time.monotonic()
            file = copy / "colora_theory" / files[m]
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace(m.old, m.new), encoding="utf-8")
            first = tuple(f"tests/{name}" for name in m.tests)
            killed = noticed(copy, first) or (not chosen.first_tests_only and noticed(copy, ("tests",)))
            file.write_text(text, encoding="utf-8")
            survivors += not killed
            word = "killed" if killed else "SURVIVED"
            took = f"{time.monotonic() - start:.0f} s"
            print(f"{number}/{len(table)} {word} ({took}) {files[m]}: {m.old!r} -> {m.new!r}", flush=True)
    print(f"{len(table) - survivors} of {len(table)} killed, {survivors} survived")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
