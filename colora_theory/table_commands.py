"""Commands for a table of one's own: `fit` and `predict`. Thin, like the rest of the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

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
def fit(
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


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@table_file
@click.option("--out", type=click.Path(path_type=Path), help="CSV file [default: to stdout].")
@click.option("--level", default=0.95, show_default=True, help="Probability of the intervals.")
@drop_missing
def predict(model: Path, table: Path, out: Path | None, level: float, drop_missing: bool) -> None:
    """Predict TABLE with the MODEL that `fit` wrote: CSV of row, user, low, prediction, high, known."""
    import warnings

    from colora_theory.regression.files import read_table
    from colora_theory.regression.regressor import UnknownUserWarning
    from colora_theory.regression.storage import load

    fitted = load(model)
    user = fitted.group_column
    if not isinstance(user, str):
        raise InputError(f"the model in {model} has no column of users; predict with it in Python.")
    features = [str(name) for name in fitted.features_]
    rows, left_out = read_table(table, user, features=features, drop_missing=drop_missing)
    if left_out:
        click.echo(f"{left_out} rows with empty cells are left out", err=True)
    x = rows[list(fitted.feature_names_in_)]
    known = fitted.knows(x[user])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownUserWarning)
        found = fitted.predict_interval(x, level=level)
    found.insert(0, "row", rows.index + 1)
    found.insert(1, user, x[user].to_numpy())
    found["known"] = known
    strangers = int((~known).sum())
    if strangers:
        click.echo(
            f"{strangers} rows of users never seen are predicted with the population's coefficients", err=True
        )
    if out is not None and out.suffix.lower() != ".csv":
        raise InputError(f"--out must be a .csv file, got {out}.")
    found.to_csv(sys.stdout if out is None else out, index=False)
