"""Verdicts: the tests behind them, their honesty and their power."""

from __future__ import annotations

import math
from typing import ClassVar

import mpmath
import numpy as np
import pytest
from scipy import special, stats

import colora_theory as ct
from colora_theory.guarantees import Guarantee, Hypothesis, register
from colora_theory.model.linalg import minimum_norm
from colora_theory.verdicts import check as verdicts
from colora_theory.verdicts import judge as evidence
from colora_theory.verdicts.judge import (
    CellTest,
    Requirement,
    Sample,
    clopper_pearson,
    holm,
    judge,
    judge_family,
    skewed_mean,
)
from colora_theory.verdicts.scaling import judge_pooled, judge_rate, pooled_deviation
from colora_theory.verdicts.statistics import phase_boundary
from colora_theory.verdicts.verdict import STATUSES, Verdict

PROBLEM = ct.Problem(num_users=2, num_samples=9, dim_in=4, rank=1, noise_std=0.5)


def errors(problem: ct.Problem, trials: int, rng: np.random.Generator) -> np.ndarray:
    """Errors of local least squares, many trials at once, without the package's data or estimators."""
    k, n, d = problem.num_users, problem.counts[0], problem.dim_in
    x = rng.standard_normal((trials * k, n, d))
    noise = problem.noise_std * rng.standard_normal((trials * k, n, 1))
    found, _ = minimum_norm(x, noise)
    return (found**2).sum((1, 2)).reshape(trials, k).sum(1)


def test_holm_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(7) ** 3
        got = holm(p)
        for alpha in (0.01, 0.05, 0.2):
            rejected, order = set(), np.argsort(p)
            for step, index in enumerate(order):
                if p[index] > alpha / (len(p) - step):
                    break
                rejected.add(index)
            assert rejected == {i for i, a in enumerate(got) if a <= alpha}


@pytest.mark.parametrize(("count", "total"), [(0, 30), (1, 50), (17, 40), (40, 40)])
def test_clopper_pearson_inverts_the_binomial_tail(count, total):
    low, high = clopper_pearson(count, total, 1e-6)
    with mpmath.workdps(40):

        def tail(p, ks):
            return sum(
                mpmath.binomial(total, k) * mpmath.mpf(p) ** k * (1 - mpmath.mpf(p)) ** (total - k) for k in ks
            )

        if count:
            assert float(tail(low, range(count, total + 1))) == pytest.approx(5e-7, rel=1e-6)
        if count < total:
            assert float(tail(high, range(count + 1))) == pytest.approx(5e-7, rel=1e-6)


@pytest.mark.parametrize("law", ["normal", "exponential", "lognormal"])
def test_skewed_mean_keeps_its_level(law):
    """One-sided error rates at nominal 1 % from 4000 samples of 100: at most what the binomial law allows."""
    rng = np.random.default_rng(1)
    draw = {"normal": rng.standard_normal, "exponential": rng.standard_exponential}.get(law)
    values = draw((4000, 100)) if draw else rng.lognormal(0.0, 0.5, (4000, 100))
    mean = {"normal": 0.0, "exponential": 1.0, "lognormal": math.exp(0.125)}[law]
    found = [skewed_mean(row - mean, 0.02) for row in values]
    for wrong in (
        sum(above <= 0.01 for above, *_ in found),
        sum(below <= 0.01 for _, below, *_ in found),
        sum(low > 0 for *_, low, _ in found),
        sum(high < 0 for *_, high in found),
    ):
        # Hall's correction is of second order: a true rate of up to 2 % is accepted, at false-alarm level 1e-6
        assert stats.binom.sf(wrong - 1, 4000, 0.02) > 1e-6


def test_skewed_mean_interval_inverts_the_test():
    values = np.random.default_rng(2).exponential(size=60) - 0.7
    low, high = skewed_mean(values, 0.1)[2:]
    assert skewed_mean(values - low, 0.1)[0] == pytest.approx(0.05, rel=1e-6)
    assert skewed_mean(values - high, 0.1)[1] == pytest.approx(0.05, rel=1e-6)


CASES = [
    ("upper", "always", np.ones(20), 1.0, "holds"),
    ("upper", "always", np.r_[np.ones(19), 1 + 1e-6], 1.0, "violated"),
    ("lower", "always", np.ones(20), 1.1, "violated"),
    ("upper", "share", np.zeros(2000), 0.5, "holds"),
    ("upper", "share", np.zeros(20), 0.5, "inconclusive"),
    ("upper", "share", np.ones(2000), 0.5, "violated"),
    ("upper", "mean", np.ones(20), 1.0, "holds"),
    ("upper", "mean", np.ones(20), 0.9, "violated"),
    ("equality", "mean", np.ones(20), 0.99, "violated"),
    ("equality", "mean", np.zeros(20), 0.0, "holds"),
    ("upper", "mean", np.ones(20), math.inf, "vacuous"),
    ("lower", "mean", np.ones(20), 0.0, "vacuous"),
    ("upper", "mean", np.ones(20), math.nan, "not applicable"),
    ("upper", "mean", np.ones(3), 2.0, "inconclusive"),
]


@pytest.mark.parametrize("law", ["normal", "gamma"])
def test_few_trials_do_not_make_false_alarms_of_their_skewness(law):
    """Eight trials, nominal level 1e-3: the rate, with a false-alarm level of 1e-6; once 2.3 times as high."""
    rng, repetitions = np.random.default_rng(8), 40_000
    sample = (repetitions, 8)
    values = rng.standard_normal(sample) if law == "normal" else rng.gamma(150.0, size=sample) - 150.0
    # rows that are nothing special to Student's t are no alarm by any correction of it
    suspects = values[stats.ttest_1samp(values, 0.0, axis=1).pvalue < 0.1]
    alarms = sum(2.0 * min(skewed_mean(row, 1.0)[:2]) < 1e-3 for row in suspects)
    assert alarms <= stats.binom.isf(1e-6, repetitions, 1e-3)


def test_the_interval_of_few_trials_is_that_of_their_test():
    """Where a limit is the claim, its one-sided p-value is half the level, skewed either way, 39 trials and 41."""
    rng = np.random.default_rng(9)
    for size in (5, 39, 41):
        for sign in (-1.0, 1.0):
            values = sign * rng.gamma(2.0, size=size)
            low, high = skewed_mean(values, 0.01)[2:]
            assert skewed_mean(values - low, 0.01)[0] == pytest.approx(0.005, rel=1e-6)
            assert skewed_mean(values - high, 0.01)[1] == pytest.approx(0.005, rel=1e-6)


@pytest.mark.parametrize(("side", "form", "observed", "claimed", "status"), CASES)
def test_statuses(side, form, observed, claimed, status):
    claim = Requirement(side, form, delta=0.01, trivial=0.0 if side == "lower" else math.inf)
    verdict = judge(claim, Sample.of(observed, claimed), alpha=0.01)
    assert verdict.status == status
    assert verdict.status in STATUSES
    assert str(verdict).count(status) == 1
    with pytest.raises(TypeError, match="compare verdict"):
        bool(verdict)


def test_claims_at_the_trivial_value_are_vacuous_but_can_still_be_violated():
    claim = Requirement("upper", "always", trivial=1.0)
    assert judge(claim, Sample.of(np.full(9, 0.5), 1.0), alpha=0.01).status == "vacuous"
    assert judge(claim, Sample.of(np.full(9, 1.5), 1.0), alpha=0.01).status == "violated"
    mixed = judge(claim, Sample.of(np.full(9, 0.5), np.r_[0.6, np.ones(8)]), alpha=0.01)
    assert mixed.status == "holds"


@pytest.mark.parametrize("form", ["always", "share", "mean"])
def test_failed_trials_count_against_the_estimator(form):
    claim = Requirement("upper", form, delta=0.01)
    fine, broken = np.zeros(200), np.r_[np.zeros(190), np.full(10, np.nan)]
    assert judge(claim, Sample.of(fine, 1.0), alpha=0.2).status in ("holds", "inconclusive")
    verdict = judge(claim, Sample.of(broken, 1.0), alpha=0.01)
    assert (verdict.status, verdict.failures, verdict.trials) == ("violated", 10, 200)
    marked = Sample.of(fine, 1.0, np.arange(200) < 10)
    assert judge(claim, marked, alpha=0.01).status == "violated"
    below = judge(Requirement("lower", "mean"), Sample.of(broken + 2.0, 1.0), alpha=0.01)
    assert below.status == "inconclusive", "a lower bound cannot be confirmed by failures"


def test_trials_without_a_claim_are_told_apart_from_failures():
    sample = Sample.of(np.ones(10), np.r_[np.full(4, np.nan), np.full(6, 2.0)])
    verdict = judge(Requirement("upper", "always"), sample, alpha=0.01)
    assert (verdict.trials, verdict.undefined, verdict.failures, verdict.status) == (6, 4, 0, "holds")
    assert "4 trials without a claim" in str(verdict)


def test_rate_claims_use_the_exact_binomial_test():
    claim = Requirement("upper", "share", delta=0.1)
    for violations in range(0, 60, 7):
        sample = Sample.of(np.r_[np.full(violations, 2.0), np.zeros(100 - violations)], 1.0)
        p = evidence.p_value(claim, sample)
        exact = math.fsum(math.comb(100, k) * 0.1**k * 0.9 ** (100 - k) for k in range(violations, 101))
        assert p == pytest.approx(exact, rel=1e-9)


# --- power and honesty ------------------------------------------------------------------------------------


def test_true_identities_raise_false_alarms_at_the_stated_rate():
    """200 studies of 4 cells at family level 5 %: the number with any violation fits Bin(200, 0.05)."""
    rng, guarantee = np.random.default_rng(3), ct.guarantees.get("local_least_squares_risk")
    problems = [PROBLEM.replace(num_samples=n) for n in (11, 14, 20, 40)]
    observed = [errors(p, 200 * 60, rng).reshape(200, 60) for p in problems]
    claims = [verdicts.requirement_of(guarantee, p) for p in problems]
    values = [guarantee.value(p) for p in problems]
    alarms = 0
    for study in range(200):
        tests = [
            CellTest(c, Sample.of(o[study], v), 0.05) for c, o, v in zip(claims, observed, values, strict=True)
        ]
        alarms += any(v.status == "violated" for v in judge_family(tests))
    assert stats.binom.sf(alarms - 1, 200, 0.06) > 1e-6
    assert alarms > 0, "a test that never rejects is no test"


def test_pooled_deviations_keep_their_level():
    """1000 studies of 5 skewed cells of 40 trials at 5 %, and the same with every claim shifted by 5 %."""
    rng = np.random.default_rng(8)
    claim, alarms, caught = Requirement("equality", "mean"), 0, 0
    for _ in range(1000):
        cells = [Sample.of(rng.gamma(6.0, 1 / 6.0, 40) * 10.0**j, 10.0**j) for j in range(5)]
        alarms += judge_pooled(claim, pooled_deviation(cells), alpha=0.05, family=1).status == "violated"
    assert stats.binom.sf(alarms - 1, 1000, 0.06) > 1e-6
    assert stats.binom.cdf(alarms, 1000, 0.04) > 1e-6
    for shift in (0.95, 1.05):
        cells = [Sample.of(rng.gamma(6.0, 1 / 6.0, 400), np.full(400, shift)) for j in range(5)]
        caught += judge_pooled(claim, pooled_deviation(cells), alpha=1e-3, family=1).status == "violated"
    assert caught == 2
    assert pooled_deviation([Sample.of(np.ones(40), 1.0)] * 3) is None, "no spread, nothing to pool"


@pytest.mark.parametrize(("shift", "trials"), [(1.2, 400), (0.8, 400), (1.05, 6000), (0.95, 6000)])
def test_shifted_identities_are_caught(shift, trials):
    problem = PROBLEM.replace(num_samples=20)
    guarantee = ct.guarantees.get("local_least_squares_risk")
    observed = errors(problem, trials, np.random.default_rng(4))
    claim = verdicts.requirement_of(guarantee, problem)
    assert judge(claim, Sample.of(observed, guarantee.value(problem)), alpha=1e-4).status != "violated"
    assert judge(claim, Sample.of(observed, shift * guarantee.value(problem)), alpha=1e-4).status == "violated"


@pytest.mark.parametrize(("form", "start"), [("mean", 3.0), ("share", 30.0), ("always", 1e3)])
def test_upper_bounds_divided_by_a_growing_factor_are_caught(form, start):
    observed = errors(PROBLEM.replace(num_samples=20), 500, np.random.default_rng(5))
    bound = start * observed.mean()
    claim = Requirement("upper", form, delta=0.01)
    found = [judge(claim, Sample.of(observed, bound / 2.0**j), alpha=1e-6).status for j in range(16)]
    assert found[0] in ("holds", "inconclusive")
    assert found[-1] == "violated"
    assert found == sorted(found, key=lambda status: status == "violated"), "once caught, always caught"


# --- rates ------------------------------------------------------------------------------------------------


def powers(exponent: float, scatter: float = 0.1, cells: int = 8) -> tuple[np.ndarray, list[np.ndarray]]:
    rng, x = np.random.default_rng(6), 2.0 ** np.arange(cells)
    return 1 / x, [x_i**-exponent * rng.gamma(1 / scatter**2, scatter**2, 200) for x_i in x]


@pytest.mark.parametrize(
    ("side", "exponent", "status"),
    [
        ("equality", 1.0, "holds"),
        ("equality", 0.7, "violated"),
        ("equality", 1.3, "violated"),
        ("upper", 1.5, "holds"),
        ("upper", 0.6, "violated"),
        ("lower", 0.5, "holds"),
        ("lower", 1.5, "violated"),
    ],
)
def test_rates_are_calibrated_on_one_part_and_tested_on_the_other(side, exponent, status):
    verdict = judge_rate(side, *powers(exponent), alpha=0.01)
    assert verdict.status == status
    assert "calibrated on 4 cells" in verdict.reason
    assert verdict.interval[0] <= exponent <= verdict.interval[1]


def test_rates_need_enough_of_a_grid():
    rate, samples = powers(1.0, cells=3)
    assert judge_rate("upper", rate, samples, alpha=0.01).status == "inconclusive"
    rate, samples = powers(1.0)
    assert judge_rate("upper", np.ones(8), samples, alpha=0.01).status == "inconclusive"


# --- studies ----------------------------------------------------------------------------------------------


class Scaled(Guarantee):
    """The local least-squares risk, times a factor."""

    kind = "bound"
    side = "upper"
    estimators = ("full_finetuning",)
    source = "this test"
    factor: ClassVar[float] = 1.0

    def conditions(self, problem: ct.Problem) -> list[Hypothesis]:
        return ct.guarantees.get("local_least_squares_risk").conditions(problem)

    def formula(self, problem: ct.Problem) -> float:
        return self.factor * ct.guarantees.get("local_least_squares_risk").value(problem)


@register
class Generous(Scaled):
    """Twice the local least-squares risk bounds it."""

    name = "test_generous"
    factor = 2.0


@register
class Wrong(Scaled):
    """Half the local least-squares risk does not."""

    name = "test_wrong"
    factor = 0.5


@register
class Endless(Scaled):
    """An infinite bound."""

    name = "test_endless"
    factor = math.inf


STUDY = {
    "schema": 1,
    "name": "verdicts",
    "title": "t",
    "claim": "c",
    "seed": 7,
    "problem": {"num_users": 4, "dim_in": 6, "rank": 1, "noise_std": 0.3, "core_distribution": "unit"},
    "grid": {"num_samples": [3, 7, 20, 40]},
    "estimator": [{"name": "full_finetuning"}, {"name": "altmin", "params": {"max_sweeps": 40, "restarts": 0}}],
    "metrics": {"use": ["parameter_error", "success"]},
    "guarantee": [
        {"name": "local_least_squares_risk"},
        {"name": "test_generous"},
        {"name": "test_wrong"},
        {"name": "test_endless"},
        {"name": "cramer_rao", "alpha": 1e-4},
        {"name": "counting"},
        {"name": "local_identifiability"},
    ],
    "run": {"trials": 120},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    results = ct.run(ct.Study.from_dict(STUDY), out=tmp_path_factory.mktemp("run"))
    return ct.check(results)


def pick(found, name, estimator, where):
    return next(v for v in found if (v.guarantee, v.estimator, v.where) == (name, estimator, where))


def test_a_study_is_judged_cell_by_cell_and_overall(found):
    local = [v for v in found if v.guarantee == "local_least_squares_risk"]
    assert [v.where for v in local] == ["overall", *(f"num_samples = {n}" for n in (3, 7, 20, 40))]
    assert pick(found, "local_least_squares_risk", "full_finetuning", "num_samples = 7").status == "not applicable"
    assert all(v.status != "violated" for v in local)
    assert pick(found, "test_generous", "full_finetuning", "num_samples = 40").status == "holds"
    assert pick(found, "test_wrong", "full_finetuning", "num_samples = 40").status == "violated"
    assert pick(found, "test_wrong", "full_finetuning", "overall").status == "violated"
    assert pick(found, "test_endless", "full_finetuning", "overall").status == "vacuous"
    level = pick(found, "cramer_rao", "altmin", "num_samples = 40")
    assert level.status in ("holds", "inconclusive")
    assert 0.8 < level.tightness < 1.3
    assert level.alpha == 1e-4


def test_outside_the_hypotheses_nothing_holds(found):
    assert all(v.status == "not applicable" for v in found if v.guarantee in ("counting", "local_identifiability"))


def test_the_family_is_that_of_the_study_and_stated(found):
    tested = [v for v in found if v.p_value is not None]
    assert {v.family for v in tested} == {len(tested)}
    assert all(v.adjusted >= v.p_value for v in tested)
    assert "Holm over" in str(tested[0])
    assert all(set(v.as_dict()) >= {"status", "interval", "trials"} for v in found)


def test_infinite_claims_of_single_trials_are_stored_as_vacuous(tmp_path):
    raw = {
        **STUDY,
        "grid": {"num_samples": [3, 20]},
        "estimator": [{"name": "full_finetuning"}],
        "guarantee": [{"name": "grip_net"}],
        "run": {"trials": 8},
    }
    found = ct.check(ct.run(ct.Study.from_dict(raw), out=tmp_path))
    assert [v.status for v in found] == ["vacuous"] * 3


def test_noiseless_recovery_never_beats_counting(tmp_path):
    raw = {
        **STUDY,
        "problem": {"num_users": 4, "dim_in": 10, "rank": 2, "core_distribution": "unit"},
        "grid": {"num_samples": [2, 4, 5, 6, 9]},
        "estimator": [{"name": "altmin", "params": {"max_sweeps": 300, "restarts": 0}}],
        "metrics": {"use": ["success"]},
        "guarantee": [{"name": "counting"}, {"name": "local_identifiability"}],
        "run": {"trials": 10},
    }
    found = ct.check(ct.run(ct.Study.from_dict(raw), out=tmp_path))
    got = {(v.guarantee, v.where.rpartition(" ")[2]): v.status for v in found}
    assert [got["counting", str(n)] for n in (2, 4, 5, 6, 9)] == ["holds"] * 3 + ["not applicable"] * 2
    assert [got["local_identifiability", str(n)] for n in (2, 4, 5, 6, 9)] == ["holds"] * 3 + ["vacuous"] * 2
    assert got["counting", "overall"] == "holds"


def test_the_only_live_cell_gives_the_overall_verdict_its_evidence():
    """All others vacuous: nothing is pooled, and what the one cell says is said overall."""
    claim = Requirement("upper", "share", delta=0.01, trivial=1.0)
    guarantee = ct.guarantees.get("sweep_trajectory")
    group = verdicts._Group(guarantee, "altmin", 0.01)
    for value in (1.0, 0.5):
        group.cells.append((None, claim, Sample.of(np.full(800, 0.1), value), ""))
    *cells, pooled = judge_family(group.tests())
    got = verdicts._overall(group, cells, pooled)
    assert got.status == "holds"
    assert "0 of 800 trials break the claim" in got.reason
    assert got.interval == cells[1].interval


@pytest.mark.parametrize("level", [0.5, 0.75, 0.1])
def test_the_boundary_lies_where_the_share_of_successes_is_the_level(level: float) -> None:
    """Shares that follow a known logistic law exactly: along the boundary its value is the level."""
    x, y = np.meshgrid([5.0, 10, 20, 40, 80], [2.0, 4, 8, 16, 32])
    law = special.expit(-9.0 + 1.5 * np.log(x) + 2.0 * np.log(y))
    a, b, c = phase_boundary(x, y, 1e5 * law, 1e5, level)
    for at in (7.0, 30.0):
        on_line = np.exp(-(a + b * np.log(at)) / c)
        there = special.expit(-9.0 + 1.5 * np.log(at) + 2.0 * np.log(on_line))
        assert there == pytest.approx(level, abs=2e-3)


@pytest.mark.parametrize("adjusted", [None, 0.5])
def test_one_violated_cell_is_enough(adjusted: float | None) -> None:
    """Whatever the other cells, and all of them together, say."""
    required = Requirement("upper", "mean")
    told: list = [(None, required, None, "")] * 3
    group = verdicts._Group(ct.guarantees.get("oracle_inequality"), "altmin", 0.01, told)
    cells = [Verdict(guarantee="", status=status) for status in ("holds", "violated", "holds")]
    pooled = Verdict(guarantee="", status="holds", adjusted=adjusted, trials=9)
    assert verdicts._overall(group, cells, pooled).status == "violated"
    assert verdicts._overall(group, [cells[0], cells[2]], pooled).status == "holds"
