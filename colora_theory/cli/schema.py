"""The command `schema`."""

from __future__ import annotations

import click


@click.command()
def command() -> None:
    """Print the reference of study files: every table and key, with types and defaults (Markdown)."""
    from colora_theory.reports.reference import study_reference

    click.echo(study_reference(), nl=False)
