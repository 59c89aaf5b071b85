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
    """Compare the results in RUN with the study's guarantees and with published numbers.

    Exit 1 if a guarantee is violated, or a published number differs and nothing explains it.
    """
    from colora_theory.results.results import Results
    from colora_theory.verdicts.check import check as verdicts
    from colora_theory.verdicts.published import compare_published, tally

    results = Results.open(run)
    found, published = verdicts(results, anytime=anytime or None), compare_published(results)
    told = [(v.status, str(v)) for v in found]
    told += [(c.status, str(c)) for c in published if c.status != "not run"]
    if as_json:
        click.echo(json.dumps([{"status": status, "text": text} for status, text in told]))
    else:
        for _, text in told:
            click.echo(text)
        if published:
            click.echo(f"published points: {tally(published)}")
        if not found and not published:
            click.echo("the study states no guarantee.")
    if any(v.status == "violated" for v in found) or any(c.open for c in published):
        ctx.exit(VIOLATED)
