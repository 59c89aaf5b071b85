"""Claims about methods: paired over trials, about each of several rivals, and where two are equally good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import colora_theory as ct
from colora_theory.engine.run import run
from colora_theory.figures import draw as plots
from colora_theory.verdicts.comparisons import BreakEvenTest, crossing
from colora_theory.verdicts.judge import judge_family


def study_of(comparisons: list[dict], **changes: object) -> ct.Study:
    """A drawn study, on which claims about methods work as on real data."""
    raw = {
        "schema": 1,
        "name": "drawn",
        "seed": 5,
        "problem": {"num_users": 6, "dim_in": 4, "rank": 1, "noise_std": 0.5},
        "grid": {"num_samples": [6, 12]},
        "estimator": [{"name": "ridge"}, {"name": "altmin"}, {"name": "full_finetuning"}],
        "metrics": {"use": ["mean_user_error"]},
        "comparison": [{"name": "c", "metric": "mean_user_error", **each} for each in comparisons],
        "run": {"trials": 60},
    }
    return ct.Study.from_dict({**raw, **changes})


def test_a_comparison_is_a_paired_test_of_means(tmp_path: Path) -> None:
    """The interval is that of the differences within trials: Student's, up to the correction for skewness."""
    grid = {"num_samples": [20, 40]}
    rivals = [{"estimator": "altmin", "of": ["full_finetuning", "ridge"], "at_most": 0.9}]
    study = study_of(rivals, grid=grid, run={"trials": 240})
    results = run(study, tmp_path / "out", backend="inline")
    found = ct.check(results)
    assert [v.estimator for v in found] == [
        *["altmin ≤ 0.9 × full_finetuning"] * 3,
        *["altmin ≤ 0.9 × ridge"] * 3,
    ]
    frame = results.frame(cell_id=True)
    for verdict in found:
        if not verdict.cell:
            continue
        mine = frame[frame.cell == verdict.cell].pivot(index="trial", columns="estimator", values="value")
        rival = verdict.estimator.partition("× ")[2]
        difference = mine["altmin"] - 0.9 * mine[rival]
        assert verdict.observed == pytest.approx(mine["altmin"].mean())
        assert verdict.claimed == pytest.approx(0.9 * mine[rival].mean())
        half = stats.t.isf(0.005 / verdict.family, 239) * difference.std() / np.sqrt(240)
        assert np.diff(verdict.interval)[0] / 2 == pytest.approx(half, rel=0.25)
        unpaired = np.hypot(mine["altmin"].std(), 0.9 * mine[rival].std()) / np.sqrt(240)
        assert difference.std() / np.sqrt(240) < unpaired  # what pairing is for


def test_false_claims_are_caught_and_true_ones_hold(tmp_path: Path) -> None:
    study = study_of(
        [
            {"name": "true", "estimator": "altmin", "of": "full_finetuning", "at_most": 1.0},
            {"name": "false", "estimator": "full_finetuning", "of": "altmin", "at_most": 1.0},
            {"name": "lower", "estimator": "full_finetuning", "of": "altmin", "at_least": 1.1},
            {"name": "too_much", "estimator": "full_finetuning", "of": "altmin", "at_least": 50.0},
            {"name": "some", "estimator": "altmin", "of": "ridge", "at_most": 1.5, "where": {"num_samples": 12}},
            {"name": "none", "estimator": "altmin", "of": "ridge", "at_most": 1.5, "where": {"num_samples": 99}},
        ]
    )
    found = ct.check(run(study, tmp_path / "out", backend="inline"))
    overall = {v.guarantee: v.status for v in found if not v.cell}
    assert overall == {
        "true": "holds",
        "false": "violated",
        "lower": "holds",
        "too_much": "violated",
        "some": "holds",
        "none": "not applicable",
    }
    assert [v.where for v in found if v.guarantee == "some" and v.cell] == ["num_samples = 12"]


def test_a_true_claim_at_its_edge_is_rarely_called_false() -> None:
    """400 claims that hold with equality: at level 0.01 fewer than 16 are called violated, but for chance 1e-6."""
    from colora_theory.verdicts.judge import CellTest, Requirement, Sample

    rng = np.random.default_rng(0)
    called = 0
    for _ in range(400):
        rival = rng.gamma(4.0, size=60)
        mine = 0.9 * rival + 0.2 * rng.standard_normal(60)
        (verdict,) = judge_family([CellTest(Requirement("upper", "mean"), Sample.of(mine, 0.9 * rival), 0.01)])
        called += verdict.status == "violated"
    assert called <= stats.binom.isf(1e-6, 400, 0.01)


# --- break-even --------------------------------------------------------------------------------------------


def test_the_crossing_is_interpolated_and_its_gradient_is_right() -> None:
    along, means = np.array([0.0, 0.5, 1.0]), np.array([0.4, 0.1, -0.3])
    at, slope = crossing(along, means)
    assert at == pytest.approx(0.5 + 0.5 * 0.1 / 0.4)
    for j in range(3):
        moved = means.copy()
        moved[j] += 1e-6
        assert slope[j] == pytest.approx((crossing(along, moved)[0] - at) / 1e-6, abs=1e-5)
    assert np.isnan(crossing(along, np.array([0.4, 0.3, 0.2]))[0])


def simulated(rng: np.random.Generator, shift: float, within: float, trials: int = 400) -> BreakEvenTest:
    """Differences that cross at 0.6, and predictions that cross at 0.6 + shift."""
    along = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    measured = [0.6 - a + 0.5 * rng.standard_normal(trials) for a in along]
    predicted = [0.6 + shift - a + 0.3 * rng.standard_normal(trials) for a in along]
    return BreakEvenTest(along, measured, predicted, within)


def test_a_break_even_claim_is_judged_with_its_monte_carlo_error() -> None:
    rng = np.random.default_rng(1)
    estimates = np.array([simulated(rng, 0.05, 0.1).found() for _ in range(400)])
    spread = (estimates[:, 0] - estimates[:, 1]).std()
    assert estimates[:, 2].mean() == pytest.approx(spread, rel=0.15)
    good, bad = judge_family([simulated(rng, 0.02, 0.25), simulated(rng, 0.3, 0.1)])
    assert (good.status, bad.status) == ("holds", "violated")
    assert good.observed == pytest.approx(0.6, abs=0.1)
    assert bad.claimed == pytest.approx(0.9, abs=0.1)
    edge = [judge_family([simulated(rng, 0.1, 0.1)])[0].status for _ in range(300)]
    assert edge.count("violated") <= stats.binom.isf(1e-6, 300, 0.01)
    never = BreakEvenTest(np.array([0.0, 1.0]), [np.ones(9), np.ones(9) + 1], [np.ones(9)] * 2, 0.1)
    (verdict,) = judge_family([never])
    assert verdict.status == "inconclusive"
    assert "do not cross between 0 and 1" in verdict.reason


def test_break_even_of_two_methods_in_a_study(tmp_path: Path) -> None:
    """Along the noise of a drawn study: pooling is better where noise is large; a metric predicts itself."""
    study = study_of(
        [],
        grid={"noise_std": [0.1, 3.0], "num_samples": [8]},
        problem={"num_users": 6, "dim_in": 4, "rank": 1},
        estimator=[{"name": "full_finetuning"}, {"name": "pooled_lora"}],
        metrics={"use": ["mean_user_error", "prediction_risk", "sweeps"]},
        break_even=[
            {
                "name": "itself",
                "estimator": "pooled_lora",
                "of": "full_finetuning",
                "metric": "mean_user_error",
                "predicted": "mean_user_error",
                "along": "prediction_risk",
                "each": "num_samples",
                "within": 0.1,
            }
        ],
    )
    found = ct.check(run(study, tmp_path / "out", backend="inline"))
    assert [(v.guarantee, v.status, v.where) for v in found] == [
        ("itself", "holds", "overall"),
        ("itself", "holds", "num_samples = 8"),
    ]
    assert found[1].observed == found[1].claimed


# --- the figure --------------------------------------------------------------------------------------------


def test_a_gain_shows_ratios_of_means_against_a_measured_similarity(tmp_path: Path) -> None:
    figure = {
        "kind": "gain",
        "x": "relative_error",
        "y": "mean_user_error",
        "hue": "num_samples",
        "baseline": "full_finetuning",
        "estimators": ["altmin"],
    }
    study = study_of(
        [],
        grid={"num_samples": [6, 12], "noise_std": [0.3, 0.6, 1.2]},
        problem={"num_users": 6, "dim_in": 4, "rank": 1},
        metrics={"use": ["mean_user_error", "relative_error"]},
        figure=[figure],
    )
    results = run(study, tmp_path / "out", backend="inline")
    tables = plots.tables_of(results, study.figures[0])
    points, summary = tables["points"], results.summary()
    assert set(points["line"]) == {"samples per user $n$ = 6", "samples per user $n$ = 12"}
    for row in points.to_dict("records"):
        cell = summary[summary.cell == row["cell"]].set_index(["estimator", "metric"])["mean"]
        ratio = cell["altmin", "mean_user_error"] / cell["full_finetuning", "mean_user_error"]
        assert row["mean"] == pytest.approx(ratio)
        places = [cell[spec.label, "relative_error"] for spec in study.estimators]
        assert row["relative_error"] == pytest.approx(np.mean(places))
    again = plots.svg(study, study.figures[0], tables)
    plots.store(tmp_path / "gain", results, tables)
    kept = plots.stored(tmp_path / "gain.csv", study, study.figures[0])
    assert plots.svg(study, study.figures[0], kept) == again
    said = plots.kind_of(study, study.figures[0]).said(tables)
    assert len(said) == 2
    assert all("times full_finetuning at" in text for text in said)
    for change, message in (
        ({"x": "num_samples"}, "unknown name 'num_samples'"),
        ({"baseline": None}, "baseline must be set"),
        ({"overlay": ["cramer_rao"]}, "overlay has no meaning"),
    ):
        with pytest.raises(ct.InputError, match=message):
            study_of([], metrics={"use": ["mean_user_error", "relative_error"]}, figure=[{**figure, **change}])
