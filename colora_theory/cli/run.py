"""The command `run`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from colora_theory.cli._draw import draw_figures
from colora_theory.cli._options import as_json, in_style
from colora_theory.console import TOO_MANY_FAILURES, end_on_signals


@click.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override, e.g. run.trials=400.")
@click.option("--jobs", default=1, show_default=True, help="Worker processes; -1: one per core.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results [default: runs/NAME].")
@click.option("--shard", metavar="I/N", help="Run only part I of N; merge the parts afterwards.")
@click.option("--quick", is_flag=True, help="Run the study's short form.")
@click.option("--backend", default="loky", show_default=True, help="loky, dask, or inline (for debugging).")
@click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler, e.g. tcp://127.0.0.1:8786.")
@click.option("--accept-version", is_flag=True, help="Resume although package versions have changed.")
@click.option(
    "--retry-failed",
    is_flag=False,
    flag_value="all",
    metavar="STATUS",
    help="Run failed rows again: all of them, or only, say, crashed,timeout.",
)
@click.option("--figures", type=click.Path(path_type=Path), help="Folder of the figures [default: OUT/figures].")
@in_style
@click.option("--no-plot", is_flag=True, help="Draw nothing.")
@click.option("--quiet", is_flag=True, help="Tell no progress.")
@as_json
@click.pass_context
def command(
    ctx: click.Context,
    /,
    study: Path,
    overrides: Sequence[str],
    jobs: int,
    out: Path | None,
    figures: Path | None,
    style: str,
    quick: bool,
    no_plot: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run the study file STUDY, or resume it, and draw its figures."""
    from colora_theory.engine.run import run as sweep
    from colora_theory.studies.study import Study

    end_on_signals()
    results = sweep(Study.from_toml(study, overrides, quick=quick), out, n_jobs=jobs, quiet=quiet, **options)
    drawn = [] if no_plot else draw_figures(results, figures, style)
    rows, failed = results.counts()
    if as_json:
        report = {"study": results.study.name, "out": str(results.path), "rows": rows, "failed": failed}
        click.echo(json.dumps({**report, "figures": [str(path) for path in drawn]}))
    else:
        click.echo(f"results: {results.path} ({rows} rows, {failed} failed)")
        for path in drawn:
            click.echo(f"figure:  {path}")
    if failed:
        for text, count in results.failure_messages():
            click.echo(f"{count} × {text}", err=True)
    if failed > results.study.run.allowed_failures(rows):
        ctx.exit(TOO_MANY_FAILURES)
