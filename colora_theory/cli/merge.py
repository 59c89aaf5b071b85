"""The command `merge`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from colora_theory.cli._options import as_json


@click.command()
@click.argument("shards", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the merged results.")
@click.option("--accept-version", is_flag=True, help="Merge although package versions differ.")
@as_json
def command(shards: Sequence[Path], out: Path, accept_version: bool, as_json: bool) -> None:
    """Put the results of several SHARDS of one study into one folder. May be repeated."""
    from colora_theory.results.merge import merge as join

    rows, failed = join(shards, out, accept_version=accept_version).counts()
    found = {"out": str(out), "rows": rows, "failed": failed}
    click.echo(json.dumps(found) if as_json else f"results: {out} ({rows} rows, {failed} failed)")
