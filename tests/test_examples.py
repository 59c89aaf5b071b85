"""The figures of docs/examples, run small from their files, and what each of them must show."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import colora_theory as ct
from colora_theory.errors import InputError
from colora_theory.figures.draw import draw_one, tables_of
from colora_theory.figures.heatmap import meshes

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
FILES = sorted(EXAMPLES.glob("*.toml"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ct.Results]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        file.stem: ct.run(ct.Study.from_toml(file, {"run.trials": 8}), folder / file.stem, backend="inline")
        for file in FILES
    }


def of(results: ct.Results):
    tables = tables_of(results, results.study.figures[0])
    return tables, draw_one(results.study, results.study.figures[0], tables)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_every_example_is_shown() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(FILES) == 6
    for file in FILES:
        assert f"({file.name})" in page
        assert f"({file.stem}.png)" in page
        assert file.with_suffix(".png").stat().st_size > 10_000
        assert ct.Study.from_toml(file, quick=True).name == file.stem


def test_four_sizes_fall_on_one_line(runs) -> None:
    tables, picture = of(runs["collapse"])
    points = tables["points"]
    assert points["line"].nunique() == 4
    x = points["num_users * num_samples / dof"].to_numpy()
    raw = points["mean"].to_numpy() * points["num_samples"].to_numpy()  # unscaled: apart by the sizes
    scaled = points["mean"].to_numpy() * x
    assert np.ptp(np.log(raw)) > np.log(4)
    assert np.ptp(np.log(scaled)) < np.log(2.5)
    assert "slope -1" in [text.get_text() for text in picture.axes[0].texts]


def test_designs_have_panels_and_claims_the_colours_of_their_methods(runs) -> None:
    _, picture = of(runs["facets"])
    assert [axes.get_title() for axes in picture.axes] == ["design = regression", "design = sensing"]
    for axes in picture.axes:
        points = {bars.get_label(): bars.lines[0].get_color() for bars in axes.containers}
        lines = {line.get_label(): line.get_color() for line in axes.lines if line.get_linestyle() == "-"}
        assert set(points) == {"sharing", "alone"}
        assert lines["Cramér–Rao level (proved)"] == points["sharing"] != points["alone"]
        assert lines["exact risk of tuning alone (proved)"] == points["alone"]


def test_every_rank_has_its_own_bound_in_its_own_colour(runs) -> None:
    tables, picture = of(runs["own_bounds"])
    (axes,) = picture.axes
    claims = tables["overlay:cramer_rao"]
    assert claims["hue"].nunique() == 3
    bars = {bars.get_label(): bars.lines[0] for bars in axes.containers}
    assert (
        len({line.get_color() for line in bars.values()})
        == len({line.get_marker() for line in bars.values()})
        == 3
    )
    for text, rows in claims.groupby("line"):
        drawn = [
            line
            for line in axes.lines
            if line.get_linestyle() == "-"
            and np.array_equal(line.get_ydata(), rows.sort_values("num_users")["value"])
        ]
        assert [line.get_color() for line in drawn] == [bars[text].get_color()]
    legend = [text.get_text() for text in picture.legends[0].get_texts()]
    assert sum("Cramér" in text for text in legend) == 1
    assert len(legend) == 4


def test_the_ratio_to_the_level_runs_along_three_axes(runs) -> None:
    tables, picture = of(runs["ratio"])
    points = tables["points"]
    assert points.groupby("dim_in")["line"].nunique().tolist() == [3, 3]
    assert points["num_users"].nunique() == 4
    assert len(picture.axes) == 2
    frame, claims = (
        runs["ratio"].summary(),
        runs["ratio"].guarantee_values("cramer_rao").groupby("cell")["claim"].mean(),
    )
    for row in points.itertuples():
        mean = frame[(frame["cell"] == row.cell) & (frame["metric"] == "parameter_error")]["mean"].iloc[0]
        assert row.mean == pytest.approx(mean / claims[row.cell])
        assert 0.6 < row.mean < 1.6


def test_a_phase_diagram_in_scaled_coordinates(runs) -> None:
    tables, picture = of(runs["phase_scaled"])
    results = runs["phase_scaled"]
    points, line = tables["points"], tables["overlay:counting"]
    x, y = "num_users / dim_in", "num_users * num_samples / dof"
    assert sorted(set(points[x])) == [0.5, 1.0, 2.0, 4.0]
    for cell in results.study.cells:
        p = cell.problem
        row = points[points["cell"] == cell.id].iloc[0]
        assert row[y] == pytest.approx(p.num_users * p.num_samples / p.degrees_of_freedom)
        fewest = ct.guarantees.get("counting").value(p)
        at = line[(line["dim_in"] == p.dim_in) & np.isclose(line[x], p.num_users / p.dim_in)]["value"]
        assert np.isclose(at, p.num_users * fewest / p.degrees_of_freedom).any()
    below = points[points[y] < 0.95]
    assert len(below) >= 4
    assert (below["mean"] == 0).all()
    assert (points[points[y] > 2]["mean"] > 0.5).all()
    colours = {tuple(mesh.get_clim()) for axes in picture.axes[:2] for mesh in axes.collections}
    assert colours == {(0.0, 1.0)}


def test_columns_of_a_heatmap_may_have_heights_of_their_own() -> None:
    table = pd.DataFrame({"x": [1.0, 1.0, 2.0, 2.0], "y": [1.0, 4.0, 2.0, 8.0], "mean": [0.1, 0.2, 0.3, 0.4]})
    first, second = meshes(table, "x", "y")
    assert first[2].ravel().tolist() == [0.1, 0.2]
    assert second[2].ravel().tolist() == [0.3, 0.4]
    assert first[0][1] == second[0][0] == pytest.approx(np.sqrt(2))
    assert first[1].tolist() == pytest.approx([0.5, 2.0, 8.0])
    assert second[1].tolist() == pytest.approx([1.0, 4.0, 16.0])
    (whole,) = meshes(table.assign(y=[1.0, 4.0, 1.0, 4.0]), "x", "y")
    assert whole[2].tolist() == [[0.1, 0.3], [0.2, 0.4]]


def test_panels_of_a_heatmap_have_one_scale_of_colours(tmp_path) -> None:
    raw = {
        "schema": 1,
        "name": "colours",
        "seed": 1,
        "problem": {"rank": 1, "noise_std": 0.1},
        "grid": {"num_users": [4, 8], "num_samples": [10, 20], "dim_in": [4, 40]},
        "estimator": [{"name": "ridge"}],
        "metrics": {"use": ["mean_user_error"]},
        "run": {"trials": 3},
        "figure": [
            {"kind": "heatmap", "x": "num_users", "y": "num_samples", "value": "mean_user_error", "col": "dim_in"}
        ],
    }
    _, picture = of(ct.run(ct.Study.from_dict(raw), tmp_path / "colours", backend="inline"))
    limits = {tuple(mesh.get_clim()) for axes in picture.axes[:2] for mesh in axes.collections}
    assert len(limits) == 1


def test_two_studies_are_overlaid(runs, tmp_path) -> None:
    tables, picture = of(runs["overlaid"])
    assert sorted(tables["points"]["line"].unique()) == [
        "overlaid: rank 2",
        *(f"own_bounds: rank $r$ = {rank}" for rank in (1, 2, 4)),
    ]
    theirs = tables_of(runs["own_bounds"], runs["own_bounds"].study.figures[0])["points"]
    drawn = tables["points"]
    mine = drawn[drawn["line"].str.startswith("own_bounds")]
    assert sorted(mine["mean"]) == sorted(theirs["mean"])
    assert picture.axes[0].get_title().startswith("overlaid: n = 40")
    alone = ct.run(ct.Study.from_toml(EXAMPLES / "overlaid.toml", {"run.trials": 2}), tmp_path / "alone")
    with pytest.raises(InputError, match=r"beside names runs in the folder .*'own_bounds'; run it first"):
        of(alone)
