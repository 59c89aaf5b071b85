"""What a figure needs to be read right: legends that fit, intervals on logarithmic axes, claims told apart."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure

import colora_theory as ct
from colora_theory.figures.curve import arranged, without
from colora_theory.figures.draw import columns_of, draw_one, finish, tables_of
from colora_theory.figures.panel import quiet_log, spread
from colora_theory.figures.style import context


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_intervals_that_reach_zero_are_those_of_the_logarithm_on_a_logarithmic_axis() -> None:
    rows = pd.DataFrame({"mean": [2.0, 2.0, -1.0], "low": [1.0, -2.0, -3.0], "high": [3.0, 6.0, 1.0]})
    assert spread(rows).tolist() == [[1.0, 4.0, 2.0], [1.0, 4.0, 2.0]]
    down, above = spread(rows, logarithmic=True)
    assert above.tolist() == [1.0, 4.0, 2.0]
    assert down.tolist() == pytest.approx([1.0, 2.0 - 2.0 / 3.0, 2.0])  # 6 is three times 2, and 2/3 a third of it


def test_legends_take_as_many_columns_as_have_room() -> None:
    assert columns_of([5.0, 5.0, 5.0], 15.0) == 3
    assert columns_of([5.0, 5.0, 5.0], 14.9) == 2
    assert columns_of([9.0, 1.0, 9.0, 1.0, 1.0], 19.0) == 3  # columns of two, two and one
    assert columns_of([9.0, 1.0, 9.0, 1.0, 1.0], 18.9) == 2  # of three and two
    assert columns_of([9.0, 9.0], 10.0) == 1
    picture = draw_entries(
        ["published: agrees", "spectral second moment", "first order", "first order, as they ran it"]
    )
    box = picture.legends[0].get_window_extent(picture.canvas.get_renderer())
    assert box.x0 >= 0
    assert box.x1 <= picture.bbox.x1


def draw_entries(texts: list[str]) -> Figure:
    with context("paper"):
        picture, axes = plt.subplots(figsize=(3.3, 2.0))
        for text in texts:
            axes.plot([1, 2], [1, 2], label=text)
        finish(picture, 3.3, 2.0)
        picture.canvas.draw()
    return picture


def test_claims_that_do_not_apply_everywhere_say_so(tmp_path: Path) -> None:
    raw = {
        "schema": 1,
        "name": "partly",
        "seed": 4,
        "problem": {"num_users": 6, "num_samples": 20, "dim_in": 5, "rank": 1, "noise_std": 0.1},
        "grid": {"covariates": ["gaussian", "rademacher"]},
        "estimator": [{"name": "full_finetuning"}, {"name": "altmin"}],
        "metrics": {"use": ["mean_user_error", "parameter_error"]},
        "guarantee": [{"name": "cramer_rao", "estimator": "altmin"}],
        "run": {"trials": 3},
        "figure": [
            {
                "kind": "curve",
                "x": "covariates",
                "y": "mean_user_error",
                "overlay": ["local_least_squares_risk", "cramer_rao"],
                "estimators": ["full_finetuning", "altmin"],
            }
        ],
    }
    results = ct.run(ct.Study.from_dict(raw), tmp_path / "partly", backend="inline")
    figure = results.study.figures[0]
    picture = draw_one(results.study, figure, tables_of(results, figure))
    legend = [text.get_text().replace("\n", " ") for text in picture.legends[0].get_texts()]
    assert "exact risk of tuning alone (proved; where it applies)" in legend
    assert "Cramér–Rao level (proved)" in legend
    nowhere = ct.Study.from_dict({**raw, "grid": {"covariates": ["rademacher"]}, "name": "nowhere"})
    results = ct.run(nowhere, tmp_path / "nowhere", backend="inline")
    picture = draw_one(nowhere, figure, tables_of(results, figure))
    legend = [text.get_text().replace("\n", " ") for text in picture.legends[0].get_texts()]
    assert "exact risk of tuning alone (outside its hypotheses here)" in legend


def test_narrow_logarithmic_axes_have_at_least_two_numbers() -> None:
    for low, high in ((0.86, 1.01), (0.8, 1.05), (1.1, 1.9), (0.3, 2.0), (0.02, 0.9), (1e-9, 1.0)):
        axes = plt.figure().subplots()
        axes.plot([1, 2], [low, high])
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        quiet_log(axes.yaxis)
        shown = [t for t in axes.yaxis.get_majorticklocs() if low <= t <= high]
        assert len(shown) >= 2, (low, high)


def test_places_without_a_finite_mean_are_told() -> None:
    assert without([]) == ""
    assert without([20, 0.5]) == " (no finite mean at 20, 0.5)"


def test_more_lines_than_anybody_tells_apart_become_colours_and_panels(tmp_path: Path) -> None:
    raw = {
        "schema": 1,
        "name": "axes",
        "seed": 5,
        "problem": {"noise_std": 0.1},
        "grid": {"num_users": [4, 8], "num_samples": [10, 20, 40], "dim_in": [4, 6, 8], "rank": [1, 2]},
        "estimator": [{"name": "full_finetuning"}],
        "metrics": {"use": ["mean_user_error"]},
        "run": {"trials": 2},
        "figure": [{"kind": "curve", "x": "num_users", "y": "mean_user_error"}],
    }
    results = ct.run(ct.Study.from_dict(raw), tmp_path / "axes", backend="inline")
    figure = results.study.figures[0]
    picture = draw_one(results.study, figure, tables_of(results, figure))
    assert [axes.get_title() for axes in picture.axes] == [
        f"rank $r$ = {r}, inputs $d$ = {d}" for r in (1, 2) for d in (4, 6, 8)
    ]
    assert len(picture.legends[0].get_texts()) == 3
    frame = results.summary()
    shown = sorted(
        float(y) for axes in picture.axes for bars in axes.containers for y in bars.lines[0].get_ydata()
    )
    assert shown == pytest.approx(sorted(frame["mean"]))  # every cell once, none dropped
    few = ct.Study.from_dict({**raw, "name": "few", "grid": {**raw["grid"], "dim_in": [4], "rank": [1]}})
    assert arranged(few, figure) is figure  # three lines stay in one panel
    told = figure.model_copy(update={"hue": "rank"})
    assert arranged(results.study, told) is told  # what the study says is kept
