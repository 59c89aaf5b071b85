"""The command line for tables, models on disk, the page, the pictures, and the tutorial."""

from __future__ import annotations

import datetime
import json
import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import colora_theory as ct
from colora_theory.cli import main
from colora_theory.figures.own_data import plot_loadings, plot_residuals, plot_shrinkage, plot_users
from colora_theory.regression.storage import load, save

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.filterwarnings("ignore::colora_theory.regression.regressor.UnknownUserWarning")


def rows(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    users = np.repeat(["007", "NA", "<b>c</b>", "$d_1$"], 8)
    x = rng.standard_normal((32, 2))
    y = x[:, 0] * np.repeat([1.0, -1.0, 2.0, 0.0], 8) + 0.1 * rng.standard_normal(32)
    return pd.DataFrame({"id": users, "a": x[:, 0], "b": x[:, 1], "y": y})


def call(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, [str(each) for each in arguments])
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_from_a_file_to_predictions(tmp_path: Path, kind: str) -> None:
    table, out = tmp_path / f"table.{kind}", tmp_path / "model"
    frame = rows()
    frame.to_csv(table, index=False) if kind == "csv" else frame.to_parquet(table)
    told = json.loads(call("fit", table, "--target", "y", "--user", "id", "-o", out, "--json").splitlines()[-1])
    assert told["users"] == 4
    assert told["features"] == ["a", "b"]
    assert set(told["rmse"]) >= {"CoLoRA", "alone", "pooled", "user intercepts"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<b>c</b>" not in page
    assert "&lt;b&gt;c&lt;/b&gt;" in page
    assert page.count("<figure") == 4
    new = tmp_path / "new.csv"
    frame.drop(columns="y").assign(extra="text")[["b", "extra", "id", "a"]].to_csv(new, index=False)
    call("predict", out, new, "--out", tmp_path / "predicted.csv")
    found = pd.read_csv(tmp_path / "predicted.csv", dtype={"id": str}, keep_default_na=False)
    assert found["id"].tolist() == frame["id"].tolist()
    assert found["row"].tolist() == list(range(1, 33))
    assert found["known"].all()
    assert np.abs(found["prediction"] - frame["y"]).max() < 0.5
    assert ((found["low"] < found["prediction"]) & (found["prediction"] < found["high"])).all()
    pd.DataFrame({"id": ["7"], "a": [1.0], "b": [0.0]}).to_csv(new, index=False)
    assert "1 rows of users never seen" in call("predict", out, new)


WRONG = {
    "no such column": ({}, ("--user", "ids"), "has no column 'ids'; did you mean 'id'?"),
    "text": ({"a": "x"}, (), "row 1, column 'a' is 'x', which is no number"),
    "empty": ({"b": ""}, (), "row 1, column 'b' is empty"),
    "no user": ({"id": ""}, (), "row 1, column 'id' is empty"),
    "no target": ({"y": "NA"}, (), "row 1, column 'y' is empty"),
    "rank": ({}, ("--rank", "two"), "--rank must be auto or a number from 0, got 'two'"),
    "rank too large": ({}, ("--rank", "99"), "rank must be at most"),
    "the target twice": ({}, ("--user", "y"), "target and user must be two columns"),
    "infinite": ({"a": "inf"}, (), "row 1, column 'a' is infinite"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_name_row_and_column(tmp_path: Path, name: str) -> None:
    cells, options, words = WRONG[name]
    frame = rows().astype(str)
    for column, value in cells.items():
        frame.loc[0, column] = value
    frame.to_csv(tmp_path / "t.csv", index=False)
    arguments = ["fit", tmp_path / "t.csv", "--target", "y", "--user", "id", "-o", tmp_path / "m", *options]
    assert words in call(*arguments, code=2)
    assert not (tmp_path / "m").exists()
    if name in ("empty", "no user", "no target"):
        assert "1 rows with empty cells are left out" in call(*arguments, "--drop-missing", "--no-compare")


def test_files_that_are_no_tables_or_models(tmp_path: Path) -> None:
    assert "does not exist" in call("fit", tmp_path / "x.csv", "--target", "y", "--user", "id", "-o", "m", code=2)
    (tmp_path / "empty.csv").write_text("")
    assert "cannot be read" in call(
        "fit", tmp_path / "empty.csv", "--target", "y", "--user", "id", "-o", tmp_path / "m", code=2
    )
    (tmp_path / "head.csv").write_text("id,a,y\n")
    assert "has no rows" in call(
        "fit", tmp_path / "head.csv", "--target", "y", "--user", "id", "-o", tmp_path / "m", code=2
    )
    rows().to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert "holds no model, so nothing is written there" in call(
        "fit", tmp_path / "t.csv", "--target", "y", "--user", "id", "-o", tmp_path / "full", code=2
    )
    assert "holds no model" in call("predict", tmp_path / "full", tmp_path / "t.csv", code=2)


def test_models_on_disk(tmp_path: Path) -> None:
    frame = rows()
    labels = np.repeat([1, 2**70, True, 0.5], 8).astype(object)
    labels[:8] = [datetime.date(2020, 1, 1)] * 8
    for y in (frame["y"], frame[["y", "b"]], pd.Series(np.ones(32))):
        model = ct.CoLoRARegressor(1).fit(frame[["a", "b"]], y, groups=labels)
        again = load(save(model, tmp_path / "m"))
        assert [type(user) for user in again.users_] == [type(user) for user in model.users_]
        np.testing.assert_array_equal(again.weights_, model.weights_)
        if model.population_coef_ is not None:
            std = model.predict(frame[["a", "b"]], groups=labels, return_std=True)[1]
            np.testing.assert_array_equal(again.predict(frame[["a", "b"]], groups=labels, return_std=True)[1], std)
            assert str(again.summary()) == str(model.summary())
            again.update(frame[["a", "b"]], y, groups=["new"] * 32)
    other = ct.CoLoRARegressor(1, estimator="altmin").fit(frame[["a", "b"]], frame["y"], groups=labels)
    np.testing.assert_array_equal(load(save(other, tmp_path / "m")).weights_, other.weights_)
    with pytest.raises(ct.InputError, match="cannot be saved"):
        save(ct.CoLoRARegressor(1).fit(frame[["a"]], frame["y"], groups=[b"x"] * 16 + [b"y"] * 16), tmp_path / "n")


def test_damaged_models_are_one_sentence(tmp_path: Path) -> None:
    frame = rows()
    save(ct.CoLoRARegressor(1).fit(frame[["a", "b"]], frame["y"], groups=frame["id"]), tmp_path)
    text, numbers = (tmp_path / "model.json").read_bytes(), (tmp_path / "model.npz").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        for name, content in (("model.json", text), ("model.npz", numbers)):
            damaged = bytearray(content)
            damaged[rng.integers(len(damaged))] = rng.integers(256)
            (tmp_path / name).write_bytes(
                bytes(damaged[: rng.integers(len(damaged))] if rng.random() < 0.3 else damaged)
            )
            try:
                load(tmp_path)
            except ct.InputError as error:
                message = str(error)
            else:
                message = ""
            assert "\n" not in message
            (tmp_path / name).write_bytes(content)
    (tmp_path / "model.json").write_bytes(text.replace(b'"schema": 2', b'"schema": 3'))
    with pytest.raises(ct.InputError, match="has schema 3, this version reads 1 and 2"):
        load(tmp_path)


def test_pictures() -> None:
    frame = rows()
    model = ct.CoLoRARegressor().fit(frame[["a", "b"]], frame["y"], groups=frame["id"])
    for plot in (plot_users, plot_loadings, plot_shrinkage, plot_residuals):
        figure = plot(model)
        figure.canvas.draw()
        plt.close(figure)
    figure = plot_users(model, "a")
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][-1].startswith("<b>")
    plt.close(figure)
    with pytest.raises(ct.InputError, match="feature must be one of a, b"):
        plot_users(model, "c")


def test_the_tutorial_runs_and_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    scope: dict[str, object] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # between Matplotlib 3.10 and the newest pyparsing
        warnings.filterwarnings("ignore", r"'\w+' (argument is )?deprecated", DeprecationWarning)
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(code, scope)
    plt.close("all")
    out = capsys.readouterr().out
    assert "s07" in re.findall(r"leave alone: (.*)", out)[0]
    compared = scope["compared"]
    assert isinstance(compared, pd.DataFrame)
    assert compared.index[0] == "CoLoRA"
    assert (compared["low"].drop("CoLoRA") > 0.0).all()
    (commands,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    for line in commands.splitlines():
        call(*line.split()[1:])
    assert len(pd.read_csv("predictions.csv")) == 960
    assert all(Path(f"{name}.png").exists() for name in ("users", "loadings", "shrinkage", "residuals"))


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """pandas would call the second one "a.1" and use both."""
    table = tmp_path / "t.csv"
    table.write_text("id,a,y,a\nu,1,2,3\nv,2,3,4\n")
    said = call("fit", table, "--target", "y", "--user", "id", "-o", tmp_path / "m", code=2)
    assert "the column 'a' is there 2 times; rename one" in said
