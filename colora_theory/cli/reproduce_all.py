"""The command `reproduce-all`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from colora_theory.console import TOO_MANY_FAILURES
from colora_theory.errors import InputError


@click.command()
@click.argument("experiments", default="experiments", type=click.Path(path_type=Path, file_okay=False))
@click.option("--quick", is_flag=True, help="Run the short forms; writes no gallery.")
@click.option(
    "--out", default="runs", show_default=True, type=click.Path(path_type=Path), help="Folder of the runs."
)
@click.option(
    "--figures",
    type=click.Path(path_type=Path),
    help="Folder of the figures.",
)
@click.option("--jobs", default=1, show_default=True, help="Worker processes; -1: one per core.")
@click.option("--only", multiple=True, metavar="NAME", help="Only the study or folder NAME; may be repeated.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    experiments: Path,
    quick: bool,
    out: Path,
    figures: Path | None,
    jobs: int,
    only: Sequence[str],
) -> None:
    """Run every study in EXPERIMENTS, draw every figure, and write the gallery EXPERIMENTS/README.md."""
    from colora_theory.reports.gallery import reproduce_all as everything
    from colora_theory.reports.gallery import write_pages

    figures = figures or (out / "figures" if quick else Path("figures"))
    done = everything(experiments, out, figures, quick=quick, jobs=jobs, only=only, tell=click.echo)
    if not quick:
        try:
            for path in write_pages(experiments, figures):
                click.echo(f"page: {path}")
        except InputError as error:
            if not only:
                raise
            click.echo(f"no page yet: {error}", err=True)
    for results in done:
        rows, failed = results.counts()
        if failed > results.study.run.allowed_failures(rows):
            ctx.exit(TOO_MANY_FAILURES)
