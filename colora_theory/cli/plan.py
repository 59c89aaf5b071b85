"""The command `plan`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from colora_theory.cli._options import as_json


@click.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override, e.g. run.trials=400.")
@click.option("--jobs", default=1, show_default=True, help="Worker processes to plan for.")
@click.option("--pilot", default=5, show_default=True, type=click.IntRange(2, 1000), help="Trials per cell.")
@click.option("--quick", is_flag=True, help="Plan the study's short form.")
@as_json
def command(study: Path, overrides: Sequence[str], jobs: int, pilot: int, quick: bool, as_json: bool) -> None:
    """Run a short pilot of STUDY and tell the trials needed, the time and the memory. Stores nothing."""
    from colora_theory.engine.plan import as_text
    from colora_theory.engine.plan import plan as extrapolate
    from colora_theory.studies.study import Study

    found = extrapolate(Study.from_toml(study, overrides, quick=quick), pilot=pilot, n_jobs=jobs)
    click.echo(json.dumps(found) if as_json else as_text(found))
