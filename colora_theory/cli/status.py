"""The command `status`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from colora_theory.cli._options import as_json, run_folder
from colora_theory.errors import InputError


@click.command()
@run_folder
@click.option("--verify", is_flag=True, help="Also compare every row with the checksum it was stored with.")
@as_json
def command(run: Path, verify: bool, as_json: bool) -> None:
    """Tell how far RUN (a folder, or a copy of its store) is: done, failed, missing, Monte Carlo errors, time."""
    from colora_theory.results.status import as_text
    from colora_theory.results.status import status as state

    found = state(run)
    if verify:
        from colora_theory.results.results import Results

        wrong = Results.open(run).verify()
        if wrong:
            groups = "; ".join(f"{label} in cell {cell}" for cell, label in wrong[:5])
            raise InputError(f"{run} is damaged: rows are not those that were written ({groups}); restore a copy.")
        found["verified"] = wrong is not None
    click.echo(json.dumps(found) if as_json else as_text(found))
