"""The command `plot`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from colora_theory.cli._draw import draw_figures
from colora_theory.cli._options import as_json, in_style
from colora_theory.errors import InputError

if TYPE_CHECKING:
    from colora_theory.results.results import Results


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--figures", type=click.Path(path_type=Path), help="Folder of the figures [default: RUN/figures].")
@click.option("--compare", is_flag=True, help="Draw the first figures of several RUNS into one.")
@in_style
@as_json
def command(runs: Sequence[Path], figures: Path | None, compare: bool, style: str, as_json: bool) -> None:
    """Draw the figures of the study in each of RUNS again, from what is stored."""
    from colora_theory.results.results import Results

    opened = [Results.open(path) for path in runs]
    if compare:
        from colora_theory.figures import again, draw

        folder = figures or opened[0].path / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / "_and_".join(results.study.name for results in opened)[:120]
        drawn = [str(path) for path in draw.write(again.compare(opened, style=style), stem.name, stem, style)]
    else:
        drawn = [str(path) for results in opened for path in _drawn(results, figures, style)]
    click.echo(json.dumps(drawn) if as_json else "\n".join(drawn))


def _drawn(results: Results, figures: Path | None, style: str) -> list[Path]:
    if not results.study.figures:
        raise InputError(f"the study {results.study.name!r} asks for no figure; add a [[figure]] to it.")
    return draw_figures(results, figures, style)
