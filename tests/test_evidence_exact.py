"""Evidence against numbers worked out by hand: signs, sides, levels and margins, one by one."""

from __future__ import annotations

import contextlib
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import colora_theory as ct
from colora_theory import guarantees
from colora_theory.results.results import Results
from colora_theory.studies.cells import Cell
from colora_theory.verdicts import check as verdicts
from colora_theory.verdicts.judge import Requirement, Sample, Verdict, judge, p_value, skewed_mean
from colora_theory.verdicts.scaling import (
    Pooled,
    judge_pooled,
    judge_rate,
    log_log_slope,
    pooled_deviation,
    pooled_p,
)
from colora_theory.verdicts.statistics import hall, hall_inverse


@pytest.mark.parametrize(
    ("side", "observed", "broken"),
    [
        ("upper", 10.99, False),
        ("upper", 11.01, True),
        ("lower", 9.01, False),
        ("lower", 8.99, True),
        ("equality", 10.99, False),
        ("equality", 9.01, False),
        ("equality", 11.01, True),
        ("equality", 8.99, True),
    ],
)
def test_a_tolerance_of_a_tenth_lets_a_tenth_pass(side: str, observed: float, broken: bool) -> None:
    claim = Requirement(side, "always", tolerance=0.1)
    assert (claim.excess(np.array([observed]), np.array([10.0])) > 0).tolist() == [broken]


def test_hall_s_transformation_is_the_published_one() -> None:
    """T = t + g t²/(3√n) + g² t³/(27 n) + g/(6√n) with g the sample skewness (Hall 1992), or 1.5 g."""
    values = np.random.default_rng(0).exponential(size=40) - 0.7
    n, t = len(values), values.mean() / (values.std(ddof=1) / math.sqrt(len(values)))
    g = float(stats.skew(values))
    high, low = (
        t + s * t**2 / (3 * math.sqrt(n)) + s**2 * t**3 / (27 * n) + s / (6 * math.sqrt(n)) for s in (g, 1.5 * g)
    )
    assert g > 0.5
    assert skewed_mean(values, 0.1)[0] == pytest.approx(stats.t.sf(high, n - 1), rel=1e-10)
    assert skewed_mean(values, 0.1)[1] == pytest.approx(stats.t.cdf(low, n - 1), rel=1e-10)
    above, below = skewed_mean(-values, 0.1)[:2]  # and the mirror image
    assert (below, above) == (
        pytest.approx(stats.t.sf(high, n - 1), rel=1e-10),
        pytest.approx(stats.t.cdf(low, n - 1), rel=1e-10),
    )


def test_symmetric_samples_get_the_ordinary_t_interval() -> None:
    values = np.array([-3.0, -1.0, 0.0, 0.0, 1.0, 3.0]) + 0.4
    above, below, low, high = skewed_mean(values, 0.05)
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (low, high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert above == pytest.approx(stats.ttest_1samp(values, 0.0, alternative="greater").pvalue)
    assert below == pytest.approx(stats.ttest_1samp(values, 0.0, alternative="less").pvalue)


@pytest.mark.parametrize(("side", "expected"), [("upper", 0.0), ("equality", 0.0)])
def test_failures_refute_upper_bounds_and_equalities_about_means(side: str, expected: float) -> None:
    values = np.full(20, 0.5) + np.linspace(-0.1, 0.1, 20)
    sample = Sample(values, np.ones(20), failures=1)
    assert p_value(Requirement(side, "mean"), sample) == expected
    verdict = judge(Requirement(side, "mean"), sample, alpha=0.01)
    assert verdict.status == "violated"
    assert verdict.adjusted == 0.0
    lower = Requirement("lower", "mean")
    assert p_value(lower, Sample(values + 1.0, np.ones(20), failures=1)) == pytest.approx(1.0)
    assert judge(lower, Sample(values + 1.0, np.ones(20), failures=1), alpha=0.01).status == "inconclusive"


def test_equalities_are_tested_on_both_sides() -> None:
    values = np.linspace(-1.0, 1.0, 30) + 0.2
    sample = Sample(values, np.zeros(30))
    one_sided = stats.ttest_1samp(values, 0.0, alternative="greater").pvalue
    assert p_value(Requirement("upper", "mean"), sample) == pytest.approx(one_sided, rel=1e-6)
    assert p_value(Requirement("equality", "mean"), sample) == pytest.approx(2 * one_sided, rel=1e-6)


def test_alone_a_test_is_adjusted_by_its_family() -> None:
    claim = Requirement("upper", "share", delta=0.1)
    sample = Sample(np.array([2.0] * 4 + [0.0] * 16), np.ones(20))
    p = float(stats.binom.sf(3, 20, 0.1))
    verdict = judge(claim, sample, alpha=0.2, family=3)
    assert verdict.p_value == pytest.approx(p)
    assert verdict.adjusted == pytest.approx(3 * p)
    assert verdict.status == "inconclusive"  # 0.133 · 3 > 0.2, though 0.133 < 0.2
    exact = stats.binomtest(4, 20).proportion_ci(1 - 0.2 / 3, method="exact")
    assert verdict.interval == (pytest.approx(exact.low), pytest.approx(exact.high))
    assert judge(claim, sample, alpha=0.2, family=1).status == "violated"


@pytest.mark.parametrize(("half_width", "status"), [(0.04, "holds"), (0.07, "inconclusive")])
@pytest.mark.parametrize("side", ["upper", "lower", "equality"])
def test_a_mean_holds_when_five_percent_are_excluded(side: str, half_width: float, status: str) -> None:
    """The observed mean is the claim itself; the 99 % interval reaches `half_width` of it."""
    n = 50
    values = np.linspace(-1.0, 1.0, n)
    values *= half_width / (stats.t.ppf(0.995, n - 1) * values.std(ddof=1) / math.sqrt(n))
    sample = Sample(1.0 + values, np.ones(n))
    assert judge(Requirement(side, "mean"), sample, alpha=0.01).status == status


@pytest.mark.parametrize(
    ("side", "centre", "z"),
    [("upper", 0.3, -1.0), ("upper", 0.1, 1.0), ("lower", -0.3, -1.0), ("lower", -0.1, 1.0)],
)
def test_pooled_tests_allow_the_stated_tolerance(side: str, centre: float, z: float) -> None:
    """Tolerance 0.2, error 0.1: one error beyond it, or one within."""
    deviation = Pooled(centre, 0.1, 0.0, 7.0)
    assert pooled_p(Requirement(side, "mean", tolerance=0.2), deviation) == pytest.approx(
        stats.t.cdf(z, 7.0), rel=1e-6
    )


def test_pooled_equalities_are_two_sided_and_margins_are_five_percent() -> None:
    claim = Requirement("equality", "mean")
    assert pooled_p(claim, Pooled(0.3, 0.1, 0.0, 9.0)) == pytest.approx(2 * stats.t.sf(3.0, 9.0), rel=1e-6)
    for error, status in ((0.018, "holds"), (0.021, "inconclusive")):  # 2.576 errors against 0.05
        assert judge_pooled(claim, Pooled(0.0, error, 0.0, 1e9), alpha=0.01, family=1).status == status


def test_pooled_deviations_by_hand() -> None:
    """Every trial counts alike: mean, error, skewness and degrees of freedom of the weighted sum of cell means."""
    rng = np.random.default_rng(5)
    cells = [rng.exponential(size=n) for n in (20, 40)]
    samples = [Sample.of(100.0 * x, np.full(len(x), 100.0)) for x in cells]
    got = pooled_deviation(samples)
    assert got is not None
    pooled = np.concatenate(cells) - 1.0
    assert got.centre == pytest.approx(pooled.mean())
    parts = [(len(x) / 60) ** 2 * x.var(ddof=1) / len(x) for x in cells]
    assert got.error == pytest.approx(math.sqrt(sum(parts)))
    assert got.freedom == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 19 + parts[1] ** 2 / 39))
    third = [
        (len(x) / 60) ** 3 * ((x - x.mean()) ** 3).sum() * len(x) / ((len(x) - 1) * (len(x) - 2)) / len(x) ** 2
        for x in cells
    ]
    assert got.skewness == pytest.approx(sum(third) / sum(parts) ** 1.5)
    claim = Requirement("equality", "mean")
    verdict = judge_pooled(claim, got, alpha=0.1, family=1)
    for limit, tail, factor in zip(verdict.interval, (stats.t.sf, stats.t.cdf), (1.0, 1.5), strict=True):
        statistic = hall((got.centre - limit) / got.error, factor * got.skewness)
        assert tail(statistic, got.freedom) == pytest.approx(0.05)


@pytest.mark.parametrize("skewness", [-0.5, 0.0, 1e-9, 0.7])
def test_hall_s_transformation_has_its_inverse(skewness: float) -> None:
    for t in (-3.0, -0.2, 0.0, 1.5, 4.0):
        assert hall_inverse(hall(t, skewness), skewness) == pytest.approx(t, abs=1e-6)


def test_slopes_are_weighted_by_precision_and_widened_by_scatter() -> None:
    x, mean = np.array([1.0, 2.0, 4.0, 8.0, 16.0]), np.array([1.0, 2.3, 3.6, 9.0, 15.0])
    error = mean * np.array([0.01, 0.05, 0.02, 0.1, 0.03])
    weights = (mean / error) ** 2
    design = np.column_stack([np.ones(5), np.log(x)])
    inverse = np.linalg.inv(design.T @ (weights[:, None] * design))
    beta = inverse @ design.T @ (weights * np.log(mean))
    residual = np.log(mean) - design @ beta
    chi2 = float(weights @ residual**2) / 3
    assert chi2 > 1
    half = stats.norm.ppf(0.975) * math.sqrt(inverse[1, 1] * chi2)
    slope, low, high = log_log_slope(x, mean, error, 0.05)
    assert slope == pytest.approx(beta[1], rel=1e-10)
    assert (low, high) == (pytest.approx(slope - half), pytest.approx(slope + half))


def rated(side: str, shape: np.ndarray, spread: float) -> Verdict:
    """Six cells whose means are `shape` times the rate, each known up to `spread` of itself."""
    rate = np.array([32.0, 16.0, 8.0, 4.0, 2.0, 1.0])
    noise = np.linspace(-1.0, 1.0, 40)
    return judge_rate(side, rate, [m * (1.0 + spread * noise) for m in rate * shape], alpha=0.01)


def test_rates_break_only_beyond_their_margin_and_errors() -> None:
    bump = np.array([1.0, 1.0, 1.0, 1.4, 1.0, 1.0])  # the fourth cell is a tested one
    assert rated("upper", bump, 0.05).status == "violated"
    assert rated("upper", bump, 2.0).status != "violated"  # errors of a fifth excuse 1.4 against 1.25
    assert rated("lower", bump, 0.05).status != "violated"
    assert rated("lower", 1.0 / bump, 0.05).status == "violated"
    assert rated("lower", 1.0 / bump, 2.0).status != "violated"


def test_slopes_are_refuted_only_when_the_whole_interval_is_beyond_the_margin() -> None:
    rate = np.array([32.0, 16.0, 8.0, 4.0, 2.0, 1.0])
    slow = (rate / 32.0) ** -0.06  # slope 0.94: within the margin of a tenth
    assert rated("upper", slow, 1e-3).status == "holds"
    assert rated("upper", slow, 1.5).status != "violated"
    assert rated("upper", (rate / 32.0) ** -0.2, 1e-3).status == "violated"
    assert rated("lower", (rate / 32.0) ** 0.06, 1e-3).status == "holds"
    assert rated("lower", (rate / 32.0) ** 0.2, 1e-3).status == "violated"


def group(name: str, observed: list[np.ndarray]) -> verdicts._Group:
    guarantee = guarantees.get(name)
    made = verdicts._Group(guarantee, "an estimator", 0.01)
    for number, values in enumerate(observed):
        problem = ct.Problem(num_users=2, num_samples=30 + number, dim_in=4, rank=1, noise_std=0.5)
        cell = Cell.of(problem, {"num_samples": 30 + number})
        claimed = 1.0 if verdicts.is_scaling(guarantee) else guarantee.value(problem)
        claim = verdicts.requirement_of(guarantee, problem)
        made.cells.append((cell, claim, Sample.of(values * claimed, claimed), ""))
    return made


def test_rates_are_members_of_the_family_and_one_violation_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = 1.0 + np.linspace(-0.02, 0.02, 40)
    # the exact cells weigh so much that all cells together hold
    exact = 1.0 + np.linspace(-1e-4, 1e-4, 40)
    means = group("local_least_squares_risk", [exact, 1.1 * spread, exact])
    rate = next(g.name for g in guarantees.all() if verdicts.is_scaling(g) and g.side != "threshold")
    monkeypatch.setattr(Results, "snapshot", lambda results: contextlib.nullcontext())
    monkeypatch.setattr(verdicts, "_groups", lambda results, anytime: [means, group(rate, [spread] * 3)])
    results = Results.__new__(Results)
    run = SimpleNamespace(adaptive=False)
    results.__dict__["study"] = SimpleNamespace(run=run, comparisons=(), break_evens=())
    found = verdicts.check(results)
    overall, *cells, _ = found
    assert [v.status for v in cells] == ["holds", "violated", "holds"]
    assert overall.status == "violated"  # one violated cell is enough
    assert {v.family for v in found[:4]} == {5}  # three cells, all of them pooled, one rate
    smallest = min(cells, key=lambda v: v.p_value)
    assert smallest.adjusted == pytest.approx(5 * smallest.p_value)
