"""Intervals, slopes, overlays, and figures that only draw what the tables hold."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import colora_theory as ct
from colora_theory.figures import draw as plots
from colora_theory.figures import panel as panels
from colora_theory.figures import tables
from colora_theory.figures.curve import Curve
from colora_theory.verdicts import statistics as analysis

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
    with pytest.raises(ct.InputError, match="two different positive points"):
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


KINDS = """
schema = 1
name = "kinds"
title = "All kinds"
claim = "Nothing."
seed = 6
[problem]
dim_in = 8
rank = 1
core_distribution = "unit"
[grid]
num_users = [4, 8, 16]
num_samples = [2, 3, 6, 12]
[[estimator]]
name = "altmin"
params = { restarts = 0, keep_history = true, max_sweeps = 60, late_sweeps = 20 }
[[estimator]]
name = "gauss_newton"
[metrics]
use = ["success", "subspace_distance"]
[[guarantee]]
name = "local_contraction_rate"
[run]
trials = 3
[[figure]]
kind = "heatmap"
x = "num_users"
y = "num_samples"
value = "success"
estimators = ["altmin"]
overlay = ["counting", "contraction_edge"]
levels = { contraction_edge = 0.5 }
[[figure]]
kind = "trajectory"
y = "subspace_distance"
trials = 2
lines = [{ estimator = "altmin", num_users = 16, num_samples = 12, label = "many" },
         { estimator = "gauss_newton", num_users = 16, num_samples = 12 }]
overlay = ["local_contraction_rate", "contraction_edge"]
[[figure]]
kind = "scatter"
overlay = ["local_contraction_rate"]
estimators = ["altmin"]
[[figure]]
kind = "bars"
y = "subspace_distance"
"""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> ct.Results:
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "kinds.toml").write_text(KINDS)
    return ct.run(ct.Study.from_toml(folder / "kinds.toml"), out=folder / "run", n_jobs=1)


def test_threshold_lines_lie_where_the_claims_say(kinds: ct.Results) -> None:
    drawn_from = plots.tables_of(kinds, kinds.study.figures[0])
    counting = ct.guarantees.get("counting")
    base = kinds.study.cells[0].problem
    for _, row in drawn_from["overlay:counting"].iterrows():
        assert row["value"] == counting.value(base.replace(num_users=int(row["num_users"])))
    edge = ct.guarantees.get("contraction_edge")
    line = drawn_from["overlay:contraction_edge"]
    assert len(line)
    for _, row in line.iterrows():
        users, samples = int(row["num_users"]), int(row["value"])
        assert edge.value(base.replace(num_users=users, num_samples=samples)) < 0.5
        below = edge.value(base.replace(num_users=users, num_samples=samples - 1))
        assert math.isnan(below) or below >= 0.5 or samples == 2
    figure = kinds.study.figures[0].model_copy(update={"overlay": ["grip_gordon"], "levels": {}})
    with pytest.raises(ct.InputError, match="no threshold in 'num_samples'"):
        plots.tables_of(kinds, figure)


def test_courses_are_the_runs_and_claims_follow_them(kinds: ct.Results) -> None:
    drawn_from = plots.tables_of(kinds, kinds.study.figures[1])
    points = drawn_from["points"]
    assert points["line"].iloc[0] == "many"
    assert set(points["num_users"]) == {16}
    many = points[points["line"] == "many"]
    assert (many["low"] <= many["mean"]).all()
    assert many["mean"].iloc[-1] < 1e-9
    path = drawn_from["path:local_contraction_rate"]
    assert set(path["estimator"]) == {"altmin"}
    ratio = path["mean"].to_numpy()[1:] / path["mean"].to_numpy()[:-1]
    assert ratio == pytest.approx(ratio[0])
    observed = (many["mean"].iloc[-1] / many["mean"].iloc[-4]) ** (1 / 3)
    assert observed == pytest.approx(ratio[0], rel=0.3)


def test_every_kind_can_be_drawn_again_from_its_stored_tables(kinds: ct.Results, tmp_path: Path) -> None:
    written = plots.draw(kinds, tmp_path, formats=("svg",))
    assert len(written) == 4
    for path, figure in zip(written, kinds.study.figures, strict=True):
        again = plots.stored(path.with_suffix(".csv"), kinds.study, figure)
        assert plots.svg(kinds.study, figure, again) == path.read_text(encoding="utf-8")


def test_nothing_overlaps_the_data_and_nothing_is_cut_off(kinds: ct.Results) -> None:
    for figure in kinds.study.figures:
        picture = plots.draw_one(kinds.study, figure, plots.tables_of(kinds, figure))
        picture.canvas.draw()
        page = picture.bbox
        frames = [axes.get_window_extent() for axes in picture.axes]
        for legend in picture.legends:
            box = legend.get_window_extent()
            assert box.x0 >= page.x0 - 1
            assert box.x1 <= page.x1 + 1
            assert not any(box.overlaps(frame) for frame in frames)
        for axes in picture.axes:
            tight = axes.get_tightbbox()
            assert tight.x0 >= page.x0 - 1
            assert tight.x1 <= page.x1 + 1
            assert tight.y0 >= page.y0 - 1
        plots.pyplot().close(picture)


def test_styles_of_ones_own(results: ct.Results, tmp_path: Path) -> None:
    (tmp_path / "mine.mplstyle").write_text("font.size: 16\naxes.facecolor: eeeeee\n")
    figure = results.study.figures[0]
    drawn_from = plots.tables_of(results, figure)
    plain, mine = (
        plots.draw_one(results.study, figure, drawn_from, style)
        for style in ("paper", str(tmp_path / "mine.mplstyle"))
    )
    assert mine.get_size_inches()[0] == pytest.approx(2 * plain.get_size_inches()[0])
    assert mine.axes[0].get_facecolor() != plain.axes[0].get_facecolor()
    assert plain.get_size_inches()[0] == pytest.approx(3.3)
    plots.pyplot().close(mine)
    plots.pyplot().close(plain)
    with pytest.raises(ct.InputError, match="unknown style 'nonsense'"):
        plots.draw(results, tmp_path / "none", style="nonsense")


@pytest.mark.parametrize("style", ["paper", "talk"])
def test_the_picture_shows_the_table(results: ct.Results, style: str) -> None:
    figure = results.study.figures[0]
    drawn_from = plots.tables_of(results, figure)
    picture = plots.draw_one(results.study, figure, drawn_from, style)
    (axes,) = picture.axes
    legend = [text.get_text() for text in picture.legends[0].get_texts()]
    assert "altmin, rank $r$ = 1" in legend
    assert any("Cramér–Rao" in text and "(proved)" in text for text in legend)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlabel() == "users $k$"
    drawn = {round(y, 12) for line in axes.lines for y in np.asarray(line.get_ydata(), float)}
    assert {round(y, 12) for y in drawn_from["points"]["mean"]} <= drawn
    plots.pyplot().close(picture)


def test_long_ticks_are_powers_of_ten() -> None:
    assert [panels.short(value) for value in (300, 1000, 12345)] == ["300", "1000", "12345"]
    assert [panels.short(value) for value in (10_000, 30_000)] == ["$10^{4}$", "$3\\cdot 10^{4}$"]


def test_lines_at_one_value_stay_visible() -> None:
    """Categories: beside each other, each claim a short line across; numbers: markers that are outlines."""
    rows = [
        {"law": law, "line": line, "estimator": line, "mean": 1.0, "low": 0.9, "high": 1.1}
        for line in ("one", "other")
        for law in ("gaussian", "student_t")
    ]
    claims = pd.DataFrame(
        {"law": ["gaussian", "student_t"], "value": [1.0, 2.0], "line": "", "standing": "proved"}
    )
    figure = SimpleNamespace(
        x="law",
        overlay=["cramer_rao"],
        lines=(),
        log_x=None,
        log_y=None,
        hue=None,
        slopes=(),
        x_limits=None,
        y_limits=None,
        labels="legend",
        break_even=None,
    )
    axes = plt.figure().subplots()
    study = SimpleNamespace(guarantees=(), estimators=())
    Curve(study, figure).draw(axes, {"points": pd.DataFrame(rows), "overlay:cramer_rao": claims})
    first, second = (bars.lines[0] for bars in axes.containers)
    assert not set(first.get_xdata()) & set(second.get_xdata())
    assert first.get_markerfacecolor() == "none"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["gaussian", "student t"]
    segments = axes.collections[-1].get_segments()
    for place, (begin, end) in enumerate(segment[:, 0] for segment in segments):
        assert begin < place < end
    plt.close("all")
