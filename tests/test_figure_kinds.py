"""Figures: nothing is averaged out of sight, panels and hues, texts of any kind, empty panels that say why."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import colora_theory as ct
from colora_theory.figures import draw as plots
from colora_theory.figures import style
from colora_theory.figures.annotations import crossing
from colora_theory.figures.style import safe
from colora_theory.studies import figure_kinds

TABLES = {
    "schema": 1,
    "name": "kinds",
    "title": "Kinds",
    "claim": "Nothing.",
    "seed": 6,
    "problem": {"dim_in": 8, "num_users": 5, "noise_std": 0.2},
    "grid": {"num_samples": [6, 12, 24], "rank": [1, 2]},
    "estimator": [{"name": "altmin"}, {"name": "spectral"}, {"name": "full_finetuning"}],
    "metrics": {"use": ["success", "mean_user_error"]},
    "run": {"trials": 3},
}


def study(*figures: dict, **changes) -> ct.Study:
    return ct.Study.from_dict({**TABLES, **changes, "figure": list(figures)})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ct.Results:
    return ct.run(study(), out=tmp_path_factory.mktemp("kinds") / "run", backend="inline")


HEATMAP = {"kind": "heatmap", "x": "num_samples", "y": "rank", "value": "success"}


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (HEATMAP, "would average over the estimators altmin, full_finetuning, spectral"),
        ({**HEATMAP, "y": "num_users", "estimators": ["altmin"]}, "must be varied fields with positive numbers"),
        ({"kind": "heatmap", "x": "num_samples", "y": "rank"}, "value must be set for a heatmap"),
        ({**HEATMAP, "estimators": ["altmin"], "overlay": ["contraction_edge"]}, "give it a level"),
        ({"kind": "curve", "y": "success"}, "x must be set for a curve"),
        ({"kind": "curve", "x": "rank", "y": "success", "levels": {}, "trials": 3}, "trials has no meaning"),
        ({"kind": "scatter"}, "overlay must be set for a scatter"),
        ({"kind": "scatter", "overlay": ["cramer_rao"]}, "evaluated inside trials, and 'cramer_rao' is none"),
        ({"kind": "trajectory", "y": "subspace_distance"}, "'spectral' is none"),
        ({"kind": "trajectory", "y": "success", "estimators": ["altmin"]}, "y of a trajectory must be one of"),
        ({"kind": "curve", "x": "rank", "y": "success", "hue": "dim_in"}, "hue: unknown name 'dim_in'"),
        ({"kind": "curve", "x": "rank", "y": "success", "col": "nothing"}, "col: unknown name 'nothing'"),
        ({"kind": "curve", "x": "rank", "y": "success", "lines": [{"estimator": 7}]}, "must be a name, got 7"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_the_run(figure: dict, message: str) -> None:
    with pytest.raises(ct.InputError, match=message):
        study(figure)


def test_two_figures_may_not_overwrite_each_other() -> None:
    curve = {"kind": "curve", "x": "rank", "y": "success"}
    with pytest.raises(ct.InputError, match="another figure of this study is called 'kinds'"):
        study(curve, {**curve, "file": "kinds"})


def test_a_third_axis_is_never_averaged_out_of_sight() -> None:
    grid = {"num_samples": [6, 12], "rank": [1, 2], "num_users": [4, 5]}
    problem = {"dim_in": 8}
    with pytest.raises(ct.InputError, match="would average over num_users"):
        study({**HEATMAP, "estimators": ["altmin"]}, grid=grid, problem=problem)
    for figure in (
        {**HEATMAP, "estimators": ["altmin"], "col": "num_users"},
        {**HEATMAP, "lines": [{"estimator": "altmin", "num_users": 4}]},
    ):
        study(figure, grid=grid, problem=problem)


def drawn(results: ct.Results, figure: dict, **changes) -> plt.Figure:
    wanted = study(figure, **changes)
    return plots.draw_one(wanted, wanted.figures[0], tables(results, wanted))


def tables(results: ct.Results, wanted: ct.Study) -> dict[str, pd.DataFrame]:
    from colora_theory.studies.figure_kinds import kind_of

    return kind_of(wanted, wanted.figures[0]).tables(results)


def test_panels_share_their_axes_and_show_their_own_values(results: ct.Results) -> None:
    picture = drawn(results, {**HEATMAP, "col": "estimator"})
    titles = [axes.get_title() for axes in picture.axes if axes.get_title()]
    assert titles == ["altmin", "spectral", "full finetuning"]
    values = [axes.collections[0].get_array().data.ravel() for axes in picture.axes if axes.get_title()]
    frame = results.frame()
    for title, shown in zip(("altmin", "spectral", "full_finetuning"), values, strict=True):
        mine = frame[(frame.estimator == title) & (frame.metric == "success")]
        expected = mine.groupby(["rank", "num_samples"]).value.mean()
        np.testing.assert_allclose(shown, expected.to_numpy())
    plt.close(picture)


def test_a_hue_colours_and_a_marker_tells_the_rest(results: ct.Results) -> None:
    figure = {"kind": "curve", "x": "num_samples", "y": "mean_user_error", "hue": "rank"}
    picture = drawn(results, {**figure, "estimators": ["altmin", "spectral"]})
    looks = {}
    for bars in picture.axes[0].containers:
        looks[bars.get_label()] = bars.lines[0].get_color(), bars.lines[0].get_marker()
    assert set(looks) == {f"rank $r$ = {r}, {e}" for r in (1, 2) for e in ("altmin", "spectral")}
    same_colour = {c for text, (c, _) in looks.items() if "= 1" in text}
    same_marker = {m for text, (_, m) in looks.items() if "altmin" in text}
    assert len(same_colour) == len(same_marker) == 1
    assert len({c for c, _ in looks.values()}) == len({m for _, m in looks.values()}) == 2
    plt.close(picture)


def test_rows_and_columns_of_panels(results: ct.Results) -> None:
    figure = {"kind": "curve", "x": "num_samples", "y": "mean_user_error", "row": "rank", "col": "estimator"}
    picture = drawn(results, figure)
    assert len(picture.axes) == 6
    colours = [axes.containers[0].lines[0].get_color() for axes in picture.axes]
    assert colours[:3] == colours[3:]  # a method looks the same in every row
    assert len(set(colours)) == 3
    plt.close(picture)


CURVE = {"kind": "curve", "x": "num_samples", "y": "mean_user_error"}


@pytest.mark.parametrize(
    ("figure", "along"),
    [
        ({**CURVE, "col": "rank"}, 1),
        ({**CURVE, "x": "estimator", "row": "rank", "col": "num_samples"}, 1),
        ({"kind": "bars", "y": "mean_user_error", "row": "rank", "col": "num_samples"}, 0),
    ],
)
def test_panels_that_share_a_logarithmic_axis_reach_as_far_as_their_error_bars(
    results: ct.Results, figure: dict, along: int
) -> None:
    """Matplotlib 3.10 took the bars of the second panel for their logarithms: axes with decades of nothing."""
    picture = drawn(results, figure)
    for axes in picture.axes:
        bars = [c for container in axes.containers for c in container[2]]
        reached = np.concatenate([path.vertices[:, along] for bar in bars for path in bar.get_paths()])
        shown = [np.asarray(line.get_xydata(), float)[:, along] for line in axes.lines]
        everything = np.concatenate([reached, *shown])
        limits = axes.dataLim.intervalx if along == 0 else axes.dataLim.intervaly
        np.testing.assert_allclose(limits, [np.nanmin(everything), np.nanmax(everything)], rtol=1e-12)
    plt.close(picture)


@pytest.mark.parametrize(
    "figure", [CURVE, {**CURVE, "x": "estimator", "col": "rank"}, {"kind": "bars", "y": "mean_user_error"}]
)
def test_one_trial_has_a_place_and_no_error_bar(tmp_path: Path, figure: dict) -> None:
    wanted = study(figure, run={"trials": 1})
    results = ct.run(wanted, out=tmp_path / "run", backend="inline")
    picture = plots.draw_one(wanted, wanted.figures[0], tables(results, wanted))
    picture.canvas.draw()
    values = results.summary().query("metric == 'mean_user_error'")["mean"]
    limits = [axes.get_xlim() if figure["kind"] == "bars" else axes.get_ylim() for axes in picture.axes]
    assert min(low for low, _ in limits) < values.min() < values.max() < max(high for _, high in limits)
    plt.close(picture)


def test_a_figure_says_what_it_was_drawn_for(results: ct.Results) -> None:
    picture = drawn(results, {"kind": "curve", "x": "num_samples", "y": "mean_user_error"})
    assert picture.axes[0].get_title() == "k = 5, d = 8, σ = 0.2; 3 trials"
    plt.close(picture)


HOSTILE = (
    r"$\lVert W\rVert_F$",
    r"\bm{W}",
    "$x_1_2$",
    r"$\frac{$",
    "$$",
    "$_$",
    r"$\foo$",
    "cost $5, $x_1",
    "$",
    "a $x^2$ and $5 and $10",
    r"\$5",
    "%s {0} <b>",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_can_be_set(results: ct.Results, text: str) -> None:
    labels = [{"name": "altmin", "label": text}]
    figure = {"kind": "curve", "x": "num_samples", "y": "mean_user_error"}
    wanted = study({**figure, "title": text, "x_label": text, "y_label": text}, title=text, estimator=labels)
    table = tables(results, study(figure))
    table["points"] = table["points"].assign(line=text)
    assert plots.svg(wanted, wanted.figures[0], table).endswith("</svg>\n")


def test_mathematics_is_set_and_prices_stay_prices() -> None:
    assert safe("rank $r$ = 2") == "rank $r$ = 2"
    assert safe("cost $5, $x_1") == r"cost \$5, \$x_1"
    assert safe("a $x^2$ and $5") == r"a $x^2$ and \$5"
    assert safe("$x_1_2$") == r"\$x_1_2\$"


def test_a_deprecation_inside_matplotlib_makes_no_text_of_mathematics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest pyparsing warns of names that Matplotlib 3.10 uses; a sign that no font has is another matter."""

    class Parser:
        def parse(self, text: str) -> None:
            warnings.warn("old name", DeprecationWarning if "r" in text else UserWarning, stacklevel=1)

    monkeypatch.setattr(style, "_parser", Parser)
    assert safe("rank $r$, $d$") == r"rank $r$, \$d\$"


@pytest.mark.parametrize(
    "figure", [{**HEATMAP, "col": "estimator"}, {"kind": "curve", "x": "rank", "y": "success"}]
)
@pytest.mark.parametrize("values", ["nothing", "failures", "zeros"])
def test_panels_without_numbers_say_why(results: ct.Results, figure: dict, values: str) -> None:
    wanted = study(figure)
    table = tables(results, wanted)
    points = table["points"]
    table["points"] = {
        "nothing": points[:0],
        "failures": points.assign(mean=float("nan"), low=float("nan"), high=float("nan")),
        "zeros": points.assign(mean=0.0, low=0.0, high=0.0),
    }[values]
    picture = plots.draw_one(wanted, wanted.figures[0], table)
    picture.canvas.draw()
    said = [text.get_text() for axes in picture.axes for text in axes.texts]
    assert ("no trial gave a number here" in " ".join(said).replace("\n", " ")) == (values != "zeros")
    plt.close(picture)


def test_a_kind_of_its_own_needs_one_class(results, tmp_path, monkeypatch) -> None:
    """All that is asked of a new kind is its tables, its axes and how it draws; here without lines."""

    class Strip(figure_kinds.FigureKind):
        """Every trial's value, one column of points for each method."""

        name = "strip"
        needs = ("y",)

        def axis_names(self):
            return "estimator", self.figure.y

        def tables(self, results):
            frame = results.frame()
            return {"points": frame[frame.metric == self.figure.y]}

        def draw(self, axes, tables):
            for place, (label, rows) in enumerate(tables["points"].groupby("estimator")):
                axes.plot([place] * len(rows), rows.value, "o", label=label)

    monkeypatch.setitem(figure_kinds._registry._items, "strip", Strip)
    picture = ct.draw(results, "strip", y="mean_user_error", col="rank")
    panels = [axes for axes in picture.axes if axes.lines]
    assert [axes.get_title() for axes in panels] == ["rank $r$ = 1", "rank $r$ = 2"]
    assert [len(line.get_xdata()) for axes in panels for line in axes.lines] == [9] * 6
    plt.close(picture)
    with pytest.raises(ct.InputError, match="x_limits has no meaning for a strip"):
        study({"kind": "strip", "y": "success", "x_limits": [1.0, 2.0]})


def test_a_bound_has_the_colour_of_the_line_it_speaks_about(results) -> None:
    figure = {"kind": "curve", "x": "num_samples", "y": "mean_user_error", "col": "rank"}
    drawn = ct.draw(results, **figure, overlay=["local_least_squares_risk"], labels="lines")
    for axes in (axes for axes in drawn.axes if axes.lines):
        names = {text.get_text(): text.get_color() for text in axes.texts}
        assert set(names) == {"altmin", "spectral", "full finetuning"}
        by_label = {line.get_label(): line.get_color() for line in axes.lines}
        bound = next(color for label, color in by_label.items() if label.startswith("exact risk"))
        assert bound == names["full finetuning"]
        heights = sorted(text.get_window_extent().y0 for text in axes.texts)
        assert np.diff(heights).min() > 5  # pixels: no name touches another
    plt.close(drawn)


def test_break_even_is_where_the_lines_cross(results) -> None:
    """Two lines that are straight in log y: 10^(x − 2) and 10^(3 − x) cross at 2.5."""
    x = [0.0, 1.0, 2.0, 3.0, 4.0]
    rising, falling = [10 ** (v - 2.0) for v in x], [10 ** (-v + 3.0) for v in x]
    assert crossing(x, rising, falling) == pytest.approx(2.5)
    assert crossing(x, falling, rising) is None  # it gets below, not above
    assert crossing(x, rising, [1e9] * 5) is None
    figure = {"kind": "curve", "x": "num_samples", "y": "mean_user_error", "lines": [{"rank": 1}]}
    drawn = ct.draw(results, **figure, break_even=["full_finetuning", "spectral"])
    assert sum("break-even at" in text.get_text() for axes in drawn.axes for text in axes.texts) <= 1
    plt.close(drawn)
    with pytest.raises(ct.InputError, match="break_even: unknown name 'nobody'"):
        study({**figure, "break_even": ["altmin", "nobody"]})
