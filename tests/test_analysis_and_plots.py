"""Intervals, slopes, overlays, and figures that only draw what the tables hold."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import colora_theory as ct
from colora_theory import analysis, plots, tables

STUDY = """
schema = 1
name = "tiny"
title = "Tiny study"
claim = "Nothing."
seed = 5
[problem]
num_samples = 20
dim_in = 6
noise_std = 0.1
[grid]
num_users = [4, 8]
rank = [1, 2]
[[estimator]]
name = "altmin"
[[estimator]]
name = "full_finetuning"
[metrics]
use = ["parameter_error", "mean_user_error", "success"]
[[guarantee]]
name = "cramer_rao"
estimator = "altmin"
[run]
trials = 6
[[figure]]
kind = "curve"
x = "num_users"
y = "mean_user_error"
overlay = ["cramer_rao", "local_least_squares_risk"]
[[figure]]
kind = "curve"
x = "rank"
y = "success"
estimators = ["altmin"]
log_x = false
log_y = false
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ct.Results:
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.toml").write_text(STUDY)
    return ct.run(ct.Study.from_toml(folder / "tiny.toml"), out=folder / "run", n_jobs=1)


def test_points_hold_means_with_normal_intervals(results: ct.Results) -> None:
    table = tables.points(results, "mean_user_error")
    frame = results.frame()
    for _, row in table.iterrows():
        values = frame[
            (frame["num_users"] == row["num_users"])
            & (frame["rank"] == row["rank"])
            & (frame["estimator"] == row["estimator"])
            & (frame["metric"] == "mean_user_error")
        ]["value"]
        half = stats.norm.ppf(0.975) * values.std(ddof=1) / math.sqrt(6)
        assert row["mean"] == pytest.approx(values.mean())
        assert row["high"] - row["low"] == pytest.approx(2 * half)


def test_shares_get_wilson_intervals(results: ct.Results) -> None:
    table = tables.points(results, "success")
    assert ((table["low"] >= 0) & (table["high"] <= 1)).all()
    reference = stats.binomtest(3, 17).proportion_ci(0.95, method="wilson")
    low, high = analysis.wilson_interval(3, 17)
    assert (float(low), float(high)) == pytest.approx((reference.low, reference.high))


def test_overlays_are_the_claims(results: ct.Results) -> None:
    local = tables.overlay(results, "local_least_squares_risk", "mean_user_error")
    np.testing.assert_allclose(local["value"], 0.01 * 6 / (20 - 6 - 1))
    cramer_rao = tables.overlay(results, "cramer_rao", "parameter_error")
    per_user = tables.overlay(results, "cramer_rao", "mean_user_error")
    np.testing.assert_allclose(per_user["value"] * per_user["num_users"], cramer_rao["value"])
    assert set(local["standing"]) == {"proved"}
    with pytest.raises(ct.InputError, match="speaks about 'parameter_error', the figure shows 'success'"):
        tables.overlay(results, "local_least_squares_risk", "success")


def test_slopes_of_power_laws_and_their_coverage() -> None:
    rng = np.random.default_rng(0)
    x = np.array([5.0, 10, 20, 40, 80])
    covered = 0
    for _ in range(600):
        error = 0.03 * 2 * x**-0.5
        slope, low, high = analysis.log_log_slope(x, 2 * x**-0.5 + error * rng.standard_normal(5), error)
        covered += low <= -0.5 <= high
        assert low < slope < high
    assert stats.binomtest(covered, 600, 0.95).pvalue > 1e-6
    with pytest.raises(ct.InputError, match="two positive points"):
        analysis.log_log_slope([1, 2], [1, 0], [0.1, 0.1])


def test_figures_lie_beside_their_data_and_manifest(results: ct.Results, tmp_path: Path) -> None:
    written = plots.draw(results, tmp_path)
    assert [p.name for p in written] == [
        f"{stem}.{suffix}" for stem in ("tiny", "tiny_2") for suffix in ("svg", "pdf", "png")
    ]
    assert all(p.stat().st_size > 1000 for p in written)
    assert json.loads((tmp_path / "tiny.json").read_text())["seed"] == 5
    stored = pd.read_csv(tmp_path / "tiny.csv")
    assert set(stored["table"]) == {"points", "overlay:cramer_rao", "overlay:local_least_squares_risk"}


def test_the_same_results_draw_the_same_file(results: ct.Results, tmp_path: Path) -> None:
    first, second = (plots.draw(results, tmp_path / name, formats=("svg",)) for name in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


@pytest.mark.parametrize("style", ["paper", "talk"])
def test_the_picture_shows_the_table(results: ct.Results, style: str) -> None:
    figure = results.study.figures[0]
    drawn_from = tables.tables_of(results, figure)
    picture = plots.draw_one(results.study, figure, drawn_from, style)
    (axes,) = picture.axes
    legend = [text.get_text() for text in picture.legends[0].get_texts()]
    assert "altmin, rank $r$ = 1" in legend
    assert any("Cramér–Rao" in text and "(proved)" in text for text in legend)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlabel() == "users $k$"
    drawn = {round(y, 12) for line in axes.lines for y in np.asarray(line.get_ydata(), float)}
    assert {round(y, 12) for y in drawn_from["points"]["mean"]} <= drawn
    plots.plt.close(picture)
