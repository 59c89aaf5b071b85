"""The command `verify`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from colora_theory.cli._options import as_json
from colora_theory.console import VIOLATED
from colora_theory.errors import InputError


@click.command()
@click.argument("claims", type=click.Path(path_type=Path))
@click.option("--number", default=0, show_default=True, type=click.IntRange(0), help="Which claim of the list.")
@click.option("--seconds", default=50.0, show_default=True, type=click.FloatRange(1, 3600), help="Time for it.")
@as_json
@click.pass_context
def command(ctx: click.Context, claims: Path, number: int, seconds: float, as_json: bool) -> None:
    """Run one claim of CLAIMS (written by report --format json) again; exit 1 if it no longer stands."""
    from colora_theory.reports.claims import verify

    try:
        found = json.loads(claims.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{claims} cannot be read as JSON: {error}.") from None
    listed = found if isinstance(found, list) else [found]
    if number >= len(listed) or not isinstance(listed[number], dict):
        raise InputError(f"--number must be below {len(listed)}, the number of claims in {claims}, got {number}.")
    answer = verify(listed[number], seconds=seconds)
    word = "stands" if answer["stands"] else "no longer stands"
    told = f"{word}: {answer['status']} (before: {answer['before']}) in {answer['trials']} trials"
    click.echo(json.dumps(answer) if as_json else f"{told}; {answer['reason']}")
    if not answer["stands"]:
        ctx.exit(VIOLATED)
