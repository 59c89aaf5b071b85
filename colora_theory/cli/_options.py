"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
run_folder = click.argument("run", type=click.Path(path_type=Path))
in_style = click.option(
    "--style", default="paper", show_default=True, help="paper, talk, or the name or path of a Matplotlib style."
)
