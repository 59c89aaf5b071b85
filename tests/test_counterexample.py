"""Counterexample search and verdicts that may be looked at any time."""

from __future__ import annotations

import dataclasses
import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import colora_theory as ct
from colora_theory.cli import main
from colora_theory.errors import InputError
from colora_theory.figures.tightness import draw_search
from colora_theory.verdicts.anytime import AnytimeTest, judge_anytime, mean_evidence, mean_sequence, share_evidence
from colora_theory.verdicts.judge import RELATIVE_SLACK, Requirement, Sample, judge, judge_family

PLAIN = {
    "design": "regression",
    "covariates": "gaussian",
    "core_distribution": "gaussian",
    "condition_number": 1.0,
    "signal_norm": 1.0,
    "pretrained_norm": 0.0,
    "similarity_angle": 0.0,
    "outlier_fraction": 0.0,
    "dim_out": 1,
    "rank": 1,
    "num_samples": (40, 60),
    "num_users": (1, 20),
    "dim_in": (2, 20),
}


def risk(p: ct.Problem) -> float:
    return p.num_users * p.noise_std**2 * p.dim_in / (p.counts[0] - p.dim_in - 1)


def planted(p: ct.Problem) -> float:
    """False where many inputs meet many users: about one problem in a hundred."""
    return risk(p) * (0.5 if p.dim_in >= 17 and p.num_users >= 16 else 1.0)


def test_a_planted_false_region_is_found_and_reproduced():
    verdict = ct.attack(planted, bounds=PLAIN, trials=1500, seed=3)
    assert verdict.status == "violated"
    assert verdict.problem.dim_in >= 17
    assert verdict.problem.num_users >= 16
    assert "violated on fresh seeds" in str(verdict)
    study = ct.Study.from_dict(__import__("tomllib").loads(verdict.study))
    assert study.cells[0].problem == verdict.problem
    with pytest.raises(AssertionError, match="schema = 1"):
        ct.testing.assert_unbreakable(planted, bounds=PLAIN, trials=1500, seed=3)


@pytest.mark.slow
def test_planted_regions_are_found_in_nine_of_ten_searches():
    found = sum(ct.attack(planted, bounds=PLAIN, trials=2000, seed=s).status == "violated" for s in range(200))
    assert found >= 180


@pytest.mark.slow
def test_true_claims_are_hardly_ever_called_false():
    alarms = sum(
        ct.attack(lambda p: risk(p), bounds=PLAIN, side="equality", trials=300, alpha=0.05, seed=s).status
        == "violated"
        for s in range(200)
    )
    assert stats.binom.sf(alarms - 1, 200, 0.05) > 1e-6


@pytest.mark.parametrize(
    "name", ["local_least_squares_risk", "cramer_rao", "oracle_inequality", "spectral_subspace"]
)
def test_guarantees_are_attacked_inside_their_hypotheses(name):
    if name not in ct.guarantees.names():
        name = "oracle_subspace_risk"
    bounds = {"num_users": (1, 8), "dim_in": (1, 8), "num_samples": (1, 40)}
    verdict = ct.attack(name, bounds=bounds, trials=150, alpha=1e-6, seed=1)
    assert verdict.status == "inconclusive"
    assert verdict.guarantee == name
    assert all(ct.guarantees.get(name).applies(each.problem) for each in verdict.explored)
    assert verdict.trials <= 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"claim": "nonsense"}, "unknown guarantee"),
        ({"claim": 3}, "must be a guarantee or a function"),
        ({"claim": "counting"}, "no claim about one problem"),
        ({"claim": risk, "bounds": {"nonsense": 3}}, "unknown field 'nonsense'"),
        ({"claim": risk, "bounds": [1]}, "bounds must be a Mapping"),
        ({"claim": risk, "metric": "nonsense"}, "unknown metric"),
        ({"claim": risk, "side": "above"}, "side must be"),
        ({"claim": risk, "trials": 3}, "trials must be"),
        ({"claim": lambda p: math.nan, "bounds": PLAIN}, "no problem within the bounds satisfies"),
    ],
)
def test_wrong_attacks_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        ct.attack(arguments.pop("claim"), **arguments)


@pytest.mark.parametrize("alpha", [0.05, 1e-3])
def test_the_confidence_sequence_of_a_mean_is_that_of_its_paper(alpha):
    """Waudby-Smith et al. 2021, equations (14) and (24), step by step, with the mixture tuned for trial 100."""
    x = np.random.default_rng(5).gamma(2.0, size=150)
    rho = math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / 100)
    lows, highs = [], []
    for n in range(100, 151):
        part = x[:n]
        radius = part.std() * math.sqrt(
            2 * (n * rho**2 + 1) / (n**2 * rho**2) * math.log(math.sqrt(n * rho**2 + 1) / alpha)
        )
        lows.append(part.mean() - radius)
        highs.append(part.mean() + radius)
    np.testing.assert_allclose(mean_sequence(x, alpha), [max(lows), min(highs)], rtol=1e-10)
    assert mean_sequence(x[:99], alpha) == (-math.inf, math.inf)


@pytest.mark.parametrize("side", ["upper", "lower", "equality"])
def test_what_rounding_hides_breaks_no_claim_at_any_time(side):
    """Errors that all are half the allowed rounding away from the claim, on the wrong side of it."""
    off = 0.5 * RELATIVE_SLACK * (1.0 if side == "upper" else -1.0)
    sample = Sample.of(np.full(200, 2.0 * (1.0 + off)), 2.0)
    assert judge_anytime(Requirement(side, "mean"), sample, alpha=0.01).status == "holds"
    worse = Sample.of(np.full(200, 2.0 * (1.0 + 1e9 * off)), 2.0)
    assert judge_anytime(Requirement(side, "mean"), worse, alpha=0.01).status == "violated"


def test_the_command_attacks_and_writes_the_study(tmp_path):
    out = tmp_path / "found.toml"
    words = ["attack", "local_least_squares_risk", "--bound", "dim_in=2:6", "--bound", "num_users=3"]
    words += ["--bound", "design=regression", "--trials", "150", "-o", str(out), "--json"]
    asked = CliRunner().invoke(main, words)
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.output)["status"] == "inconclusive"
    assert ct.Study.from_toml(out).cells[0].problem.num_users == 3
    asked = CliRunner().invoke(main, ["attack", "cramer_rao", "--bound", "dim_in"])
    assert asked.exit_code == 2
    assert "--bound takes FIELD=VALUE" in asked.output


# --- any time -----------------------------------------------------------------------------------------------


def test_the_level_holds_however_often_one_looks():
    """Largest evidence over 3 000 looks reaches 1/α in at most a share α of true claims, heavy tails too."""
    rng, times, n, alpha = np.random.default_rng(0), 400, 3000, 0.05
    ever = {"exponential": 0, "lognormal": 0, "no variance": 0, "share": 0}
    for _ in range(times):
        ever["exponential"] += mean_evidence(rng.exponential(1.0, n)) >= -math.log(alpha)
        ever["lognormal"] += mean_evidence(rng.lognormal(-0.5, 1.0, n)) >= -math.log(alpha)
        ever["no variance"] += mean_evidence(0.3 * rng.pareto(1.3, n)) >= -math.log(alpha)
        broken = np.cumsum(rng.random(n) < 0.1)
        looks = range(10, n, 10)
        ever["share"] += any(share_evidence(int(broken[i]), i + 1, 0.1)[0] >= -math.log(alpha) for i in looks)
    for name, count in ever.items():
        assert stats.binom.sf(count - 1, times, alpha) > 1e-6, (name, count)


def test_looking_often_at_a_fixed_test_inflates_its_level():
    """What the sequential form is for: the classic test, looked at thirty times, has several times its level."""
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(200):
        x = rng.exponential(1.0, 1500)
        looks = range(50, 1501, 50)
        required = Requirement("upper", "mean")
        alarms += any(judge(required, Sample.of(x[:n], 1.0), alpha=0.05).status == "violated" for n in looks)
    assert alarms > 20


def test_a_false_claim_is_caught_with_fewer_trials_than_a_fixed_design_needs():
    """20 % off: the mean number of trials is at most 60 % of the fixed design that catches as surely (98 %)."""
    rng, required, needed = np.random.default_rng(2), Requirement("upper", "mean"), []
    for _ in range(200):
        x = rng.exponential(1.2, 3000)
        sizes = np.unique(np.geomspace(20, 3000, 120).astype(int))
        caught = (
            n for n in sizes if judge_anytime(required, Sample.of(x[:n], 1.0), alpha=0.05).status == "violated"
        )
        needed.append(next(caught, 3000))
    assert np.mean(np.array(needed) < 3000) >= 0.98
    fixed = next(
        n
        for n in range(200, 1500, 50)
        if np.mean(
            [
                judge(required, Sample.of(rng.exponential(1.2, n), 1.0), alpha=0.05).status == "violated"
                for _ in range(200)
            ]
        )
        >= np.mean(np.array(needed) < 3000) - 0.01
    )
    assert np.mean(needed) <= 0.6 * fixed, (np.mean(needed), fixed)


def test_the_sequence_covers_and_verdicts_say_what_they_mean():
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(200):
        low, high = mean_sequence(rng.exponential(1.0, 2000), 0.05)
        missed += not low <= 1.0 <= high
    assert stats.binom.sf(missed - 1, 200, 0.08) > 1e-6  # asymptotic: a little above its level is possible
    x = rng.exponential(1.0, 4000)
    for side, claim, status in (
        ("upper", 1.3, "holds"),
        ("upper", 0.8, "violated"),
        ("lower", 0.8, "holds"),
        ("lower", 1.3, "violated"),
        ("equality", 1.3, "violated"),
        ("upper", math.inf, "vacuous"),
    ):
        got = judge_anytime(Requirement(side, "mean", trivial=math.inf), Sample.of(x, claim), alpha=1e-3)
        assert got.status == status, (side, claim, str(got))
    share = Requirement("upper", "share", delta=0.1)
    assert judge_anytime(share, Sample.of(np.zeros(500), 0.5), alpha=1e-3).status == "holds"
    assert judge_anytime(share, Sample.of(np.ones(50), 0.5), alpha=1e-3).status == "violated"
    always = Requirement("upper", "always")
    assert judge_anytime(always, Sample.of([0.1, 2.0], 1.0), alpha=1e-3).status == "violated"
    assert judge_anytime(always, Sample.of([], 1.0), alpha=1e-3).status == "not applicable"
    failed = Sample.of([0.1, math.nan], 1.0)
    assert judge_anytime(Requirement("upper", "mean"), failed, alpha=1e-3).status == "violated"


def test_where_a_claim_is_tight_is_drawn(tmp_path):
    verdict = ct.attack("local_least_squares_risk", bounds={"dim_in": (2, 20), "design": "regression"}, trials=150)
    picture = draw_search(verdict)
    shown = {axes.get_xlabel() for axes in picture.axes}
    assert {"users $k$", "inputs $d$", "law of the covariates"} <= shown
    assert "experimental design" not in shown  # fixed
    points = [collection for collection in picture.axes[0].collections if len(collection.get_offsets())]
    drawn = sorted(float(y) for _, y in points[0].get_offsets())
    assert drawn == sorted(e.tightness for e in verdict.explored if e.tightness > 0)
    plt.close(picture)
    with pytest.raises(InputError, match="nothing to draw"):
        draw_search(dataclasses.replace(verdict, explored=()))
    words = ["attack", "local_least_squares_risk", "--trials", "150", "--bound", "dim_in=2:6", "--figure"]
    assert CliRunner().invoke(main, [*words, str(tmp_path / "tight.png")]).exit_code == 0
    assert (tmp_path / "tight.png").stat().st_size > 10_000
    assert CliRunner().invoke(main, [*words, str(tmp_path / "tight.gif")]).exit_code == 2


def test_tightness_is_that_of_verdicts():
    """observed/claim for a lower bound: 1 is tight, and a bound that is far below what is seen is not."""
    bounds = {"dim_in": (8, 10), "num_samples": (40, 60), "num_users": (3, 6), "rank": 1, "design": "regression"}
    lower = ct.attack("genie_known_subspace", bounds=bounds, trials=200)
    assert lower.side == "lower"
    assert np.median([e.tightness for e in lower.explored]) > 1.5


def study(**run):
    return ct.Study.from_dict(
        {
            "schema": 1,
            "name": "looked_at",
            "seed": 5,
            "problem": {"dim_in": 3, "rank": 1, "noise_std": 1.0, "num_samples": 12},
            "grid": {"num_users": [2, 4]},
            "estimator": [{"name": "full_finetuning"}],
            "metrics": {"use": ["parameter_error"]},
            "guarantee": [{"name": "local_least_squares_risk"}],
            "run": run,
        }
    )


def test_studies_whose_trials_decide_when_to_stop_are_judged_at_any_time(tmp_path):
    target = {"parameter_error": {"relative": 0.05}}
    adaptive = ct.run(study(trials=400, batch=50, target_mcse=target), tmp_path / "a", backend="inline")
    overall, *cells = ct.check(adaptive)
    assert all("looked at any time" in v.reason for v in cells)
    assert [v.trials for v in cells] == [len(adaptive.frame().query(f"num_users == {k}")) for k in (2, 4)]
    assert overall.status in ("holds", "inconclusive")
    assert all(0.8 < v.tightness < 1.25 for v in cells)
    fixed = ct.run(study(trials=150), tmp_path / "b", backend="inline")
    assert not any("any time" in v.reason for v in ct.check(fixed))
    assert all("any time" in v.reason for v in ct.check(fixed, anytime=True)[1:])
    asked = CliRunner().invoke(main, ["check", str(tmp_path / "b"), "--anytime"])
    assert asked.exit_code == 0
    assert "looked at any time" in asked.output


def test_a_study_that_is_looked_at_after_every_batch_keeps_its_level():
    """Two true claims, looked at after each of 20 batches at family level 5 %, in 200 studies."""
    rng = np.random.default_rng(8)
    required = Requirement("upper", "mean", trivial=math.inf)
    alarms = 0
    for _ in range(200):
        values = rng.exponential(size=(2, 300))
        for stop in range(15, 301, 15):
            tests = [AnytimeTest(required, Sample.of(x[:stop], 1.0), 0.05) for x in values]
            if any(v.status == "violated" for v in judge_family(tests)):
                alarms += 1
                break
    assert stats.binom.sf(alarms - 1, 200, 0.05) > 1e-6
    false = [AnytimeTest(required, Sample.of(2.0 * x, 1.0), 0.05) for x in values]
    assert [v.status for v in judge_family(false)] == ["violated", "violated"]
    assert judge_family(false)[0].family == 2


def test_a_refusal_of_the_estimator_is_not_passed_over():
    """A search in which nothing could be fitted has not failed to break the claim."""
    bounds = {"dim_in": (2, 4), "num_users": (2, 4), "dim_out": 1, "design": "regression", "noise_std": 0.1}
    with pytest.raises(InputError, match="own_rank"):
        ct.attack(lambda p: 1e9, bounds=bounds, estimator="shared_plus_personal", trials=150)
