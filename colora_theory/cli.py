"""The command line. Thin: every command calls one function of the package, imported when it is needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from colora_theory.console import TOO_MANY_FAILURES, VIOLATED, Commands, end_on_signals
from colora_theory.errors import InputError
from colora_theory.table_commands import fit, predict

if TYPE_CHECKING:
    from colora_theory.results.results import Results

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
run_folder = click.argument("run", type=click.Path(path_type=Path))
in_style = click.option(
    "--style", default="paper", show_default=True, help="paper, talk, or the name or path of a Matplotlib style."
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="colora_theory")
def main() -> None:
    """A theory lab for collaborative low-rank adaptation.

    Exit codes: 0 done; 1 a verdict is violated, or a trial is not reproduced; 2 refused: usage, study or files;
    3 finished with more failed trials than allowed; 4 an unexpected error, which is a defect; 130 interrupted (the
    same command resumes).
    """


main.add_command(fit)
main.add_command(predict)


@main.command()
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
def run(
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
    drawn = [] if no_plot else _draw(results, figures, style)
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


def _draw(results: Results, folder: Path | None, style: str) -> list[Path]:
    if not results.study.figures:
        return []
    from colora_theory.figures.draw import draw

    drawn: list[Path] = draw(results, folder or results.path / "figures", style)
    return drawn


@main.command()
@run_folder
@click.option("--verify", is_flag=True, help="Also compare every row with the checksum it was stored with.")
@as_json
def status(run: Path, verify: bool, as_json: bool) -> None:
    """Tell how far RUN (a folder, or a copy of its store) is: done, failed, missing, Monte Carlo errors, time."""
    from colora_theory.results.status import as_text
    from colora_theory.results.status import status as state

    found = state(run)
    if verify:
        from colora_theory.results.results import Results

        wrong = Results.open(run).verify()
        if wrong:
            groups = "; ".join(f"{label} in cell {cell}" for cell, label in wrong[:5])
            raise InputError(f"{run} is damaged: rows are not those that were written ({groups}); restore a copy.")
        found["verified"] = wrong is not None
    click.echo(json.dumps(found) if as_json else as_text(found))


@main.command()
@run_folder
@as_json
@click.pass_context
def check(ctx: click.Context, run: Path, as_json: bool) -> None:
    """Compare the results in RUN with the study's guarantees; exit 1 if one is violated."""
    from colora_theory.results.results import Results
    from colora_theory.verdicts.check import check as verdicts

    found = verdicts(Results.open(run))
    if as_json:
        click.echo(json.dumps([{"status": v.status, "text": str(v)} for v in found]))
    else:
        for verdict in found:
            click.echo(str(verdict))
        if not found:
            click.echo("the study states no guarantee.")
    if any(v.status == "violated" for v in found):
        ctx.exit(VIOLATED)


@main.command()
@run_folder
@click.option("--figures", type=click.Path(path_type=Path), help="Folder of the figures [default: RUN/figures].")
@in_style
@as_json
def plot(run: Path, figures: Path | None, style: str, as_json: bool) -> None:
    """Draw the figures of the study in RUN."""
    from colora_theory.results.results import Results

    results = Results.open(run)
    if not results.study.figures:
        raise InputError(f"the study {results.study.name!r} asks for no figure; add a [[figure]] to it.")
    drawn = [str(path) for path in _draw(results, figures, style)]
    click.echo(json.dumps(drawn) if as_json else "\n".join(drawn))


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", default="report.html", show_default=True, type=click.Path(path_type=Path), help="Page."
)
@in_style
def report(runs: Sequence[Path], out: Path, style: str) -> None:
    """Write one self-contained HTML page about finished studies."""
    from colora_theory.reports.html import write
    from colora_theory.results.results import Results

    write([Results.open(path) for path in runs], out, style)
    click.echo(str(out))


@main.command()
@click.argument("shards", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the merged results.")
@click.option("--accept-version", is_flag=True, help="Merge although package versions differ.")
@as_json
def merge(shards: Sequence[Path], out: Path, accept_version: bool, as_json: bool) -> None:
    """Put the results of several SHARDS of one study into one folder. May be repeated."""
    from colora_theory.results.merge import merge as join

    rows, failed = join(shards, out, accept_version=accept_version).counts()
    found = {"out": str(out), "rows": rows, "failed": failed}
    click.echo(json.dumps(found) if as_json else f"results: {out} ({rows} rows, {failed} failed)")


@main.command()
@run_folder
@click.option("--out", type=click.Path(path_type=Path), help="File, .csv or .parquet [default: CSV to stdout].")
@click.option(
    "--table",
    "kind",
    type=click.Choice(["frame", "summary", "failures", "guarantee_values"]),
    default="frame",
    show_default=True,
    help="Every trial, means per cell, the failed trials, or the claims evaluated inside trials.",
)
def export(run: Path, out: Path | None, kind: str) -> None:
    """Write the results in RUN as a table."""
    from colora_theory.results.export import write
    from colora_theory.results.results import Results

    write(Results.open(run), kind, out, sys.stdout)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--template", default="recovery", show_default=True, help="recovery, phase or comparison.")
def init(file: Path, template: str) -> None:
    """Write a commented study file to start from."""
    from colora_theory.studies.templates import write

    write(file, template)
    click.echo(f"{file}; run it with: colora-theory run {file}")


@main.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override, e.g. run.trials=400.")
@click.option("--jobs", default=1, show_default=True, help="Worker processes to plan for.")
@click.option("--pilot", default=5, show_default=True, type=click.IntRange(2, 1000), help="Trials per cell.")
@click.option("--quick", is_flag=True, help="Plan the study's short form.")
@as_json
def plan(study: Path, overrides: Sequence[str], jobs: int, pilot: int, quick: bool, as_json: bool) -> None:
    """Run a short pilot of STUDY and tell the trials needed, the time and the memory. Stores nothing."""
    from colora_theory.engine.plan import as_text
    from colora_theory.engine.plan import plan as extrapolate
    from colora_theory.studies.study import Study

    found = extrapolate(Study.from_toml(study, overrides, quick=quick), pilot=pilot, n_jobs=jobs)
    click.echo(json.dumps(found) if as_json else as_text(found))


@main.command()
@run_folder
@click.option("--cell", required=True, help="Id of the cell, or its beginning, as status prints it.")
@click.option("--trial", required=True, type=click.IntRange(0), help="Number of the trial, from 0.")
@as_json
@click.pass_context
def reproduce(ctx: click.Context, /, run: Path, cell: str, trial: int, as_json: bool) -> None:
    """Run one trial of RUN again and compare it with the stored row; exit 1 if it differs.

    Bitwise on the machine and versions of the run, to 1e-6 (relative) elsewhere.
    """
    from colora_theory.engine.reproduce import reproduce as again
    from colora_theory.results.results import Results

    found = again(Results.open(run), cell, trial)
    if as_json:
        click.echo(json.dumps(found))
    else:
        for entry in found:
            word = ("identical" if entry["exact"] else "equal to 1e-6") if entry["same"] else "DIFFERENT"
            click.echo(f"{entry['estimator']}: {word}")
            for name, value in entry["stored"].items():
                click.echo(f"  {name}: stored {value}, again {entry['again'].get(name)}")
    if not all(entry["same"] for entry in found):
        ctx.exit(VIOLATED)


@main.command("reproduce-all")
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
@click.option("--only", multiple=True, metavar="NAME", help="Only the study NAME; may be repeated.")
@click.pass_context
def reproduce_all(
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


@main.command()
@click.argument("name", required=False)
@as_json
def guarantees(name: str | None, as_json: bool) -> None:
    """List the guarantees, or print the full statement of NAME."""
    from colora_theory.reports import catalogue

    click.echo(catalogue.guarantees(name, as_json))


@main.command()
@click.argument("name", required=False)
@as_json
def estimators(name: str | None, as_json: bool) -> None:
    """List the estimators, or describe NAME."""
    from colora_theory.reports import catalogue

    click.echo(catalogue.estimators(name, as_json))


if __name__ == "__main__":
    sys.exit(main())
