"""Bounds in unit tests: assertions, their messages, sequential looks, the pytest plugin."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

import colora_theory as ct
from colora_theory.estimators import Estimator, Fit

PROBLEM = ct.Problem(num_users=4, num_samples=25, dim_in=8, rank=2, noise_std=0.2, core_distribution="unit")


def risk(problem: ct.Problem) -> float:
    return problem.num_users * problem.noise_std**2 * problem.dim_in / (problem.counts[0] - problem.dim_in - 1)


def test_true_guarantees_pass():
    verdict = ct.testing.assert_guarantee("local_least_squares_risk", PROBLEM, trials=3000, seed=1, strict=True)
    assert verdict.status == "holds"
    assert verdict.estimator == "full_finetuning"
    ct.testing.assert_guarantee("oracle_subspace_risk", PROBLEM, trials=200)
    ct.testing.assert_guarantee("cramer_rao", PROBLEM.replace(noise_std=1e-3), estimator="altmin", trials=60)


def test_a_bound_of_ones_own():
    assert ct.testing.assert_holds(lambda p: 1.1 * risk(p), PROBLEM, trials=1500).status == "holds"
    ct.testing.assert_holds(risk, PROBLEM, side="equality", trials=200)
    ct.testing.assert_holds(lambda p: 0.5 * risk(p), PROBLEM, side="lower", trials=200, strict=True)
    ct.testing.assert_holds(lambda p: 9 * risk(p), PROBLEM, delta=0.1, trials=300, strict=True)


def test_a_false_bound_fails_with_counts_interval_worst_trial_and_seed():
    with pytest.raises(AssertionError) as caught:
        ct.testing.assert_holds(lambda p: 0.8 * risk(p), PROBLEM, trials=600, seed=5)
    text = str(caught.value)
    assert "violated" in text
    assert "600 trials, 0 failed" in text
    assert "% interval [" in text
    assert "seed=5" in text
    worst = int(text.rpartition("worst trial ")[2].partition(":")[0])
    truth, _, fit = ct.testing.replay(PROBLEM, worst, seed=5, estimator="full_finetuning")
    again = [
        ct.metrics.parameter_error(
            PROBLEM, *(ct.testing.replay(PROBLEM, t, seed=5, estimator="full_finetuning")[::2])
        )
        for t in range(0, 600, 7)
    ]
    assert ct.metrics.parameter_error(PROBLEM, truth, fit) >= max(again)
    with pytest.raises(AssertionError, match="of 300 trials break the claim"):
        ct.testing.assert_holds(risk, PROBLEM, delta=0.1, trials=300)


def test_claims_that_say_nothing_or_do_not_apply_fail():
    with pytest.raises(AssertionError, match="vacuous"):
        ct.testing.assert_holds(lambda p: float("inf"), PROBLEM, trials=20)
    with pytest.raises(AssertionError, match=r"not applicable – isotropic|not applicable – Gaussian"):
        ct.testing.assert_guarantee("local_least_squares_risk", PROBLEM.replace(covariates="rademacher"))
    with pytest.raises(AssertionError, match="NaN for this problem"):
        ct.testing.assert_holds(lambda p: float("nan"), PROBLEM)
    with pytest.raises(AssertionError, match="inconclusive"):
        ct.testing.assert_holds(risk, PROBLEM, side="equality", trials=10, strict=True)


def test_wrong_arguments_are_refused():
    for wrong, message in (
        ({"side": "above"}, "side must be"),
        ({"metric": "parameter_eror"}, "parameter_error"),
        ({"delta": 0.1, "expectation": True}, "either expectation"),
        ({"expectation": False}, "either expectation"),
        ({"delta": 2.0}, "delta must be"),
        ({"trials": 2}, "trials must be an integer ≥ 8"),
        ({"alpha": 0.0}, "alpha must"),
        ({"estimator": "altmim"}, "altmin"),
    ):
        with pytest.raises(ct.InputError, match=message):
            ct.testing.assert_holds(risk, PROBLEM, **wrong)
    with pytest.raises(ct.InputError, match="by a study"):
        ct.testing.assert_guarantee("counting", PROBLEM)
    with pytest.raises(ct.InputError, match="slope must not be 0"):
        ct.testing.assert_rate("parameter_error", PROBLEM, against="num_samples", values=[1, 2], slope=0.0)


@dataclass(frozen=True, kw_only=True)
class Fragile(Estimator):
    """Fails in some trials."""

    name = "fragile"

    def fit(self, data, rng=None):
        if rng.random() < 0.05:
            raise FloatingPointError("diverged")
        return Fit(status="converged", dense=np.zeros((data.num_users, data.dim_in, data.dim_out)))


def test_failures_of_the_estimator_are_violations():
    with pytest.raises(AssertionError, match=r"FloatingPointError: diverged"):
        ct.testing.assert_holds(lambda p: 100.0, PROBLEM, estimator=Fragile(), trials=200)
    with pytest.raises(AssertionError, match="violated"):
        ct.testing.assert_holds(lambda p: 100.0, PROBLEM, estimator=Fragile, delta=1e-3, trials=200)


def test_sequential_looks_stop_early_and_keep_the_level():
    full = ct.testing.assert_holds(lambda p: 5 * risk(p), PROBLEM, trials=800, strict=True)
    early = ct.testing.assert_holds(lambda p: 5 * risk(p), PROBLEM, trials=800, sequential=True)
    assert full.trials == 800
    assert early.trials <= 150
    with pytest.raises(AssertionError, match="looked at any time") as caught:
        ct.testing.assert_holds(lambda p: 0.3 * risk(p), PROBLEM, trials=800, sequential=True)
    assert "50 trials" in str(caught.value)
    certain = ct.testing.assert_holds(lambda p: 50 * risk(p), PROBLEM, delta=0.0, trials=80, sequential=True)
    assert certain.trials == 80


def test_rates():
    def check(slope, side="equality"):
        return ct.testing.assert_rate(
            "parameter_error",
            PROBLEM,
            against="num_samples",
            values=[100, 200, 400, 800, 1600],
            slope=slope,
            side=side,
            estimator="full_finetuning",
            trials=60,
        )

    assert check(-1.0).status == "holds"
    assert check(-0.8, "upper").status == "holds"
    with pytest.raises(AssertionError, match=r"violated.*slope"):
        check(-2.0)


def test_a_guarantee_of_ones_own_can_be_an_object():
    class Mine(ct.guarantees.Guarantee):
        """My theorem."""

        name, kind, side, source = "mine", "bound", "upper", "me"

        def conditions(self, problem):
            return []

        def formula(self, problem):
            return 2 * risk(problem)

    verdict = ct.testing.assert_guarantee(Mine(), PROBLEM, estimator="full_finetuning", trials=300, strict=True)
    assert verdict.guarantee == "mine"


FRESH = """
import colora_theory as ct

problem = ct.Problem(num_users=4, num_samples=25, dim_in=8, rank=2, noise_std=0.2)

def test_theorem(colora):
    verdict = colora.assert_guarantee("local_least_squares_risk", problem, trials=200)
    assert verdict.trials == {trials}

def test_wrong_claim(colora):
    colora.assert_holds(lambda p: 1e-6, problem, trials=40)
"""


@pytest.mark.parametrize(("option", "trials"), [([], 200), (["--colora-trials=0.25"], 50)])
def test_the_plugin_in_a_fresh_project(tmp_path, option, trials):
    (tmp_path / "test_fresh.py").write_text(FRESH.format(trials=trials))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *option, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "replay(problem" in done.stdout


DIRECT = """
import colora_theory as ct

problem = ct.Problem(num_users=4, num_samples=25, dim_in=8, rank=2, noise_std=0.2)

def test_first_and_without_the_fixture():
    assert ct.testing.assert_guarantee("local_least_squares_risk", problem, trials=200).trials == 50

def test_second(colora):
    assert colora.assert_guarantee("local_least_squares_risk", problem, trials=200).trials == 50
"""


@pytest.mark.parametrize("order", [[], ["-k", "first"], ["-k", "second"]])
def test_the_factor_does_not_depend_on_the_order_of_tests(tmp_path, order):
    (tmp_path / "test_direct.py").write_text(DIRECT)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--colora-trials=0.25", *order]
    done = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout


def test_claims_that_could_not_have_been_caught_are_warned_about():
    with pytest.warns(ct.testing.LowPowerWarning, match="a claim that is wrong by less than"):
        ct.testing.assert_guarantee("local_least_squares_risk", PROBLEM, trials=10, seed=3)
    with pytest.warns(ct.testing.LowPowerWarning, match="any size"):
        ct.testing.assert_holds(lambda p: 1e3, PROBLEM, delta=0.3, trials=8, alpha=1e-6)


def test_assertions_with_power_are_quiet(recwarn):
    ct.testing.assert_guarantee("local_least_squares_risk", PROBLEM, trials=1500, seed=3)
    ct.testing.assert_holds(lambda p: 1e3, PROBLEM, delta=0.05, trials=200)
    ct.testing.assert_holds(lambda p: 1e3, PROBLEM, delta=0.0, trials=8)
    assert not [w for w in recwarn if issubclass(w.category, ct.testing.LowPowerWarning)]


def test_the_stated_power_is_the_real_one():
    """At the error that is said to be caught, about half of all such assertions fail."""
    from colora_theory.assertion import least_error_caught
    from colora_theory.verdicts.judge import CellTest, Requirement, Sample, judge_family

    rng, required = np.random.default_rng(0), Requirement("upper", "mean")
    caught = 0
    for _ in range(400):
        observed = 1.0 + 0.4 * rng.standard_normal(200)
        wrong = least_error_caught(required, Sample.of(observed, 1.0), 1e-3)
        (verdict,) = judge_family([CellTest(required, Sample.of(observed, 1.0 / (1.0 + wrong)), 1e-3)])
        caught += verdict.status == "violated"
    assert 120 < caught < 280  # five standard errors around a half, and more


def test_the_plugin_refuses_nonsense(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--colora-trials=0", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert "must be a positive factor" in done.stdout + done.stderr


@dataclass(frozen=True, kw_only=True)
class Unsound(Estimator):
    """Answers with an unknown status, or with weights of a wrong shape."""

    name = "unsound"
    wrong: str = "status"

    def fit(self, data, rng=None):
        shape = (data.num_users, data.dim_in, data.dim_out)
        if self.wrong == "shape":
            return Fit(status="converged", dense=np.zeros((data.num_users, 1, 1)))
        return Fit(status="banana", dense=np.zeros(shape))


@pytest.mark.parametrize(
    ("wrong", "message"), [("status", "the fit has status 'banana'"), ("shape", "the estimate has shape")]
)
def test_assertions_refuse_what_studies_refuse(wrong, message):
    with pytest.raises(AssertionError, match=message):
        ct.testing.assert_holds(lambda p: 100.0, PROBLEM, estimator=Unsound(wrong=wrong), trials=20)


@pytest.mark.parametrize("name", ["lora_gd", "altmin", "distillation"])
def test_the_trials_of_an_assertion_are_those_of_a_study(name, tmp_path):
    """One engine, one stream: also for estimators that draw random numbers."""
    problem = ct.Problem(num_users=4, num_samples=12, dim_in=6, dim_out=3, rank=2, noise_std=0.2)
    study = ct.Study.from_dict(
        {
            "schema": 1,
            "name": "same",
            "seed": 0,
            "problem": problem.content(),
            "estimator": [{"name": name}],
            "metrics": {"use": ["parameter_error"]},
            "run": {"trials": 5},
        }
    )
    stored = ct.run(study, tmp_path / "run", backend="inline").frame().value.to_numpy()
    for trial in range(5):
        truth, _, fit = ct.testing.replay(problem, trial, seed=0, estimator=name)
        assert ct.metrics.parameter_error(problem, truth, fit) == stored[trial]
        built = ct.estimators.get(name)(rank=2)
        truth, _, fit = ct.testing.replay(problem, trial, seed=0, estimator=built)
        assert ct.metrics.parameter_error(problem, truth, fit) == stored[trial]
