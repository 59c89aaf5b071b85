"""The command `init`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--template", default="recovery", show_default=True, help="recovery, phase or comparison.")
def command(file: Path, template: str) -> None:
    """Write a commented study file to start from."""
    from colora_theory.studies.templates import write

    write(file, template)
    click.echo(f"{file}; run it with: colora-theory run {file}")
