"""The command `check`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from colora_theory.cli._options import as_json, run_folder
from colora_theory.console import VIOLATED


@click.command()
@run_folder
@click.option(
    "--anytime",
    is_flag=True,
    help="Judge by evidence that may be looked at after every batch, and because of which a run may go on.",
)
@as_json
@click.pass_context
def command(ctx: click.Context, run: Path, anytime: bool, as_json: bool) -> None:
    """Compare the results in RUN with the study's guarantees; exit 1 if one is violated."""
    from colora_theory.results.results import Results
    from colora_theory.verdicts.check import check as verdicts

    found = verdicts(Results.open(run), anytime=anytime or None)
    if as_json:
        click.echo(json.dumps([{"status": v.status, "text": str(v)} for v in found]))
    else:
        for verdict in found:
            click.echo(str(verdict))
        if not found:
            click.echo("the study states no guarantee.")
    if any(v.status == "violated" for v in found):
        ctx.exit(VIOLATED)
