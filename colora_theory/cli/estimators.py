"""The command `estimators`."""

from __future__ import annotations

import click

from colora_theory.cli._options import as_json


@click.command()
@click.argument("name", required=False)
@as_json
def command(name: str | None, as_json: bool) -> None:
    """List the estimators, or describe NAME."""
    from colora_theory.reports import catalogue

    click.echo(catalogue.estimators(name, as_json))
