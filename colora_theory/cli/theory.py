"""The command `theory`."""

from __future__ import annotations

import click


@click.command()
@click.argument("name")
def command(name: str) -> None:
    """Print the section of the theory that proves, or gives the source of, the guarantee NAME."""
    from colora_theory.reports.reference import theory

    click.echo(theory(name), nl=False)
