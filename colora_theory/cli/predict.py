"""The command `predict`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from colora_theory.errors import InputError

table_file = click.argument("table", type=click.Path(path_type=Path))
drop_missing = click.option("--drop-missing", is_flag=True, help="Leave rows with empty cells out.")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@table_file
@click.option("--out", type=click.Path(path_type=Path), help="CSV file [default: to stdout].")
@click.option("--level", default=0.95, show_default=True, help="Probability of the intervals.")
@drop_missing
def command(model: Path, table: Path, out: Path | None, level: float, drop_missing: bool) -> None:
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
