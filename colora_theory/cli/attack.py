"""The command `attack`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from colora_theory.cli._options import as_json
from colora_theory.console import VIOLATED, progress_shown
from colora_theory.errors import InputError


@click.command()
@click.argument("guarantee")
@click.option(
    "--bound", "bounds", multiple=True, metavar="FIELD=VALUE", help="dim_in=5, dim_in=5:50 (a range), or a,b,c."
)
@click.option("--estimator", help="Estimator [default: the first that the guarantee speaks about].")
@click.option("--trials", default=2000, show_default=True, help="Trials of the whole search, at least 150.")
@click.option("--alpha", default=0.01, show_default=True, help="Probability of a false alarm.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the search.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write the study that reproduces it.")
@click.option(
    "--figure", type=click.Path(path_type=Path), help="Draw where the claim is tight (.svg, .pdf, .png)."
)
@as_json
@click.pass_context
def command(
    ctx: click.Context,
    /,
    guarantee: str,
    bounds: Sequence[str],
    out: Path | None,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Search for a problem inside the hypotheses of GUARANTEE that violates it; exit 1 if one is found."""
    from colora_theory.counterexample import attack
    from colora_theory.results.text import write_text

    with progress_shown():
        verdict = attack(guarantee, bounds=dict(_bound(text) for text in bounds), **options)
    if out is not None:
        write_text(out, verdict.study)
    if figure is not None:
        from colora_theory.figures import draw, tightness

        if figure.suffix not in (".svg", ".pdf", ".png"):
            raise InputError(f"--figure must end in .svg, .pdf or .png, got {figure}.")
        picture = tightness.draw_search(verdict)
        draw.write(
            picture, f"Where {verdict.guarantee} is tight", figure.with_suffix(""), formats=(figure.suffix[1:],)
        )
    click.echo(json.dumps(verdict.as_dict()) if as_json else str(verdict))
    if verdict.status == "violated":
        ctx.exit(VIOLATED)


def _bound(text: str) -> tuple[str, Any]:
    from colora_theory.studies.published import number_or_text

    name, equals, value = text.partition("=")
    if not equals or not value:
        raise InputError(f"--bound takes FIELD=VALUE, FIELD=LOW:HIGH or FIELD=a,b,c, got {text!r:.60}.")
    if ":" in value:
        low, _, high = value.partition(":")
        return name, (number_or_text(low), number_or_text(high))
    parts = [number_or_text(part) for part in value.split(",")]
    return name, parts if len(parts) > 1 else parts[0]
