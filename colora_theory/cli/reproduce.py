"""The command `reproduce`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from colora_theory.cli._options import as_json, run_folder
from colora_theory.console import VIOLATED


@click.command()
@run_folder
@click.option("--cell", required=True, help="Id of the cell, or its beginning, as status prints it.")
@click.option("--trial", required=True, type=click.IntRange(0), help="Number of the trial, from 0.")
@as_json
@click.pass_context
def command(ctx: click.Context, /, run: Path, cell: str, trial: int, as_json: bool) -> None:
    """Run one trial of RUN again and compare it with the stored row; exit 1 if it differs.

    Bitwise on the machine and versions of the run, to 1e-6 (relative) elsewhere.
    """
    from colora_theory.engine.reproduce import reproduce as again
    from colora_theory.results.results import Results

    found = again(Results.open(run), cell, trial)
    if as_json:
        click.echo(json.dumps(found))
    else:
        for entry in found:
            word = ("identical" if entry["exact"] else "equal to 1e-6") if entry["same"] else "DIFFERENT"
            click.echo(f"{entry['estimator']}: {word}")
            for name, value in entry["stored"].items():
                click.echo(f"  {name}: stored {value}, again {entry['again'].get(name)}")
    if not all(entry["same"] for entry in found):
        ctx.exit(VIOLATED)
