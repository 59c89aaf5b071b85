"""Large stores: what opening a study, looking at its results and resuming a finished run cost beside the rows.

python benchmarks/large_studies.py [--cells 100000] [--trials 10] [--repeats 1] [--commands status,check]

Writes a store of about `cells` × `trials` rows of random numbers (two metrics, one method, no trial is run) into a
temporary folder, and one of a single cell. Prints the CPU seconds of every command on both, and their ratios to
those of `colora-theory --help`: seconds do not travel between machines.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import colora_theory as ct
from colora_theory.engine.machine import manifest
from colora_theory.engine.trial import Recipe
from colora_theory.results.identity import describe, describe_folder
from colora_theory.results.rows import Row
from colora_theory.results.writer import Writer

STUDY = """
schema = 1
name = "large"
title = "A large grid"
claim = "None: this measures time."
seed = 1
metrics = {{ use = ["mean_user_error", "subspace_distance"] }}
run = {{ trials = {trials} }}

[problem]
dim_in = 20
rank = 2
noise_std = 0.1

[grid]
num_users = {users}
num_samples = {samples}

[[estimator]]
name = "altmin"

[[figure]]
kind = "heatmap"
x = "num_users"
y = "num_samples"
value = "mean_user_error"
"""


def store(folder: Path, cells: int, trials: int) -> tuple[Path, int, int]:
    """Write a study file and its results; return the file and the numbers of cells and rows."""
    side = max(1, round(cells**0.5))
    file = folder / "study.toml"
    axis = list(range(2, 2 + side))
    file.write_text(STUDY.format(trials=trials, users=axis, samples=axis), encoding="utf-8")
    study = ct.Study.from_toml(file)
    now, rng = manifest(study.seed), np.random.default_rng(1)
    writer = Writer(folder / "run", study, Recipe.of(study).columns, lambda old: describe(study, old, now, False))
    for cell in range(len(study.cells)):
        numbers = rng.random((trials, 2)).tolist()
        writer.add([Row(cell, 0, trial, "converged", "", tuple(numbers[trial])) for trial in range(trials)])
    describe_folder(folder / "run", study, writer.about["manifest"])
    writer.close()
    return file, len(study.cells), len(study.cells) * trials


def commands(folder: Path) -> dict[str, list[str]]:
    """The commands on a store, by name; `start` only reads the study."""
    run, file = str(folder / "run"), str(folder / "study.toml")
    read = f"import colora_theory as ct; ct.Study.from_toml({file!r})"
    cli = [sys.executable, "-m", "colora_theory.cli"]
    return {
        "start": [sys.executable, "-c", read],
        "status": [*cli, "status", run],
        "check": [*cli, "check", run],
        "report": [*cli, "report", run, "-o", str(folder / "report.html")],
        "export summary": [*cli, "export", run, "--table", "summary", "--out", str(folder / "summary.csv")],
        "export frame": [*cli, "export", run, "--out", str(folder / "frame.csv")],
        "run --no-plot": [*cli, "run", file, "--out", run, "--no-plot", "--quiet"],
        "run": [*cli, "run", file, "--out", run, "--quiet"],
    }


def cpu_seconds(command: list[str], repeats: int) -> float:
    """User and system time of a process, the least of several runs."""
    found = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--commands", default="", metavar="A,B,…", help="Of those that are printed [default: all]."
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        for place, sizes in ((small, (1, 2)), (large, (args.cells, args.trials))):
            place.mkdir()
            _, cells, rows = store(place, *sizes)
        base = cpu_seconds([sys.executable, "-m", "colora_theory.cli", "--help"], max(3, args.repeats))
        print(f"load average {os.getloadavg()[0]:.2f}; {cells} cells, {rows} rows; --help {base:.2f} s")
        print(f"{'command':16s} {'CPU s':>7s} {'/ --help':>9s}   {'one cell':>8s} {'/ --help':>9s}")
        for name, command in commands(large).items():
            if args.commands and name not in args.commands.split(","):
                continue
            one = cpu_seconds(commands(small)[name], args.repeats)
            whole = cpu_seconds(command, args.repeats)
            print(f"{name:16s} {whole:7.2f} {whole / base:9.1f}   {one:8.2f} {one / base:9.1f}", flush=True)


if __name__ == "__main__":
    main()
