"""The command `export`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from colora_theory.cli._options import run_folder


@click.command()
@run_folder
@click.option("--out", type=click.Path(path_type=Path), help="File, .csv or .parquet [default: CSV to stdout].")
@click.option(
    "--table",
    "kind",
    type=click.Choice(["frame", "summary", "failures", "guarantee_values"]),
    default="frame",
    show_default=True,
    help="Every trial, means per cell, the failed trials, or the claims evaluated inside trials.",
)
def command(run: Path, out: Path | None, kind: str) -> None:
    """Write the results in RUN as a table."""
    from colora_theory.results.export import write
    from colora_theory.results.results import Results

    write(Results.open(run), kind, out, sys.stdout)
