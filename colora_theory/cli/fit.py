"""The command `fit`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from colora_theory.console import progress_shown
from colora_theory.errors import InputError

table_file = click.argument("table", type=click.Path(path_type=Path))
drop_missing = click.option("--drop-missing", is_flag=True, help="Leave rows with empty cells out.")


def _rank(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal():
        raise InputError(f"--rank must be auto or a number from 0, got {text!r}.")
    return int(text)


@click.command()
@table_file
@click.option("--target", required=True, metavar="COLUMN", help="Column to predict.")
@click.option("--user", required=True, metavar="COLUMN", help="Column that says whose row it is.")
@click.option("--features", default="", metavar="A,B,…", help="Columns to predict from [default: all others].")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="Leave a column out; may be repeated.")
@click.option("--rank", default="auto", show_default=True, help="Number of shared directions, or auto.")
@click.option("--noise", default="common", show_default=True, help="common, or per_user.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder of the model.")
@click.option("--no-compare", is_flag=True, help="Skip the comparison with other models.")
@drop_missing
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    table: Path,
    target: str,
    user: str,
    features: str,
    ignore: Sequence[str],
    rank: str,
    noise: str,
    out: Path,
    no_compare: bool,
    drop_missing: bool,
    as_json: bool,
) -> None:
    """Fit a regression for every user of TABLE (.csv or .parquet); write model and report into a folder."""
    from colora_theory.regression.compare import compare
    from colora_theory.regression.files import read_table
    from colora_theory.regression.regressor import CoLoRARegressor
    from colora_theory.regression.storage import save
    from colora_theory.reports.own_data import write

    names = [name.strip() for name in features.split(",") if name.strip()]
    model = CoLoRARegressor(_rank(rank), noise=noise, group_column=user)
    rows, left_out = read_table(
        table, user, target=target, features=names, ignore=ignore, drop_missing=drop_missing
    )
    if left_out:
        click.echo(f"{left_out} rows with empty cells are left out", err=True)
    x, y = rows.drop(columns=[target]), rows[target]
    with progress_shown():
        model.fit(x, y)
        save(model, out)
        compared = None if no_compare or rows[user].nunique() < 2 else compare(model, x, y)
    write(model, out / "report.html", f"{target} by {user}", compared)
    summary = model.summary()
    if as_json:
        found = {
            "model": str(out),
            "rows": len(rows),
            "left_out": left_out,
            "users": len(model.users_),
            "features": [str(name) for name in model.features_],
            "rank": list(model.rank_),
            "status": model.status_,
            "flagged": [str(label) for label in summary.users.index[summary.users["flagged"]]],
            "rmse": None if compared is None else {str(k): float(v) for k, v in compared["rmse"].items()},
        }
        click.echo(json.dumps(found, allow_nan=True))
        return
    click.echo(str(summary))
    if compared is not None:
        click.echo(f"\nRows held out within users, five folds\n\n{compared.drop(columns='seconds').to_string()}")
    click.echo(f"\nmodel:  {out}\nreport: {out / 'report.html'}")
