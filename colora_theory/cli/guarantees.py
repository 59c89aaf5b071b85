"""The command `guarantees`."""

from __future__ import annotations

import click

from colora_theory.cli._options import as_json


@click.command()
@click.argument("name", required=False)
@as_json
def command(name: str | None, as_json: bool) -> None:
    """List the guarantees, or print the full statement of NAME."""
    from colora_theory.reports import catalogue

    click.echo(catalogue.guarantees(name, as_json))
