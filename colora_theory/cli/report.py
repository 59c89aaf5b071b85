"""The command `report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from colora_theory.cli._options import in_style


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="File [default: report.html, .json or .tex].")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["html", "json", "latex"]),
    default="html",
    show_default=True,
    help="A page, guarantees with all that verify needs (comparisons: see check), or a table for a paper.",
)
@in_style
def command(runs: Sequence[Path], out: Path | None, kind: str, style: str) -> None:
    """Write about finished studies: one self-contained HTML page, JSON claims, or a LaTeX table."""
    from colora_theory.reports import claims, html
    from colora_theory.results.results import Results

    opened = [Results.open(path) for path in runs]
    out = out or Path(f"report.{ {'html': 'html', 'json': 'json', 'latex': 'tex'}[kind] }")
    if kind == "html":
        html.write(opened, out, style)
    else:
        {"json": claims.write_json, "latex": claims.write_latex}[kind](opened, out)
    click.echo(str(out))
