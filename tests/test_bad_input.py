"""Hostile use of the Python API: every refusal is one sentence that says what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import colora_theory as ct
from colora_theory.verdicts import statistics as analysis

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 4))
Y = X[:, 0]
USERS = np.repeat([0, 1, 2, 3], 5)
FIELDS = {"num_users": 4, "num_samples": 20, "dim_in": 4, "rank": 1}
P = ct.Problem(**FIELDS)
TRUTH = ct.sample_truth(P, RNG)
DATA = ct.sample_data(P, TRUTH, RNG)
own = ct.Dataset.from_arrays
get = ct.estimators.get
altmin = get("altmin")
Reg = ct.CoLoRARegressor


def dataset(**changes: object) -> ct.Dataset:
    return ct.Dataset(
        **{"covariates": DATA.covariates, "responses": DATA.responses, "counts": DATA.counts, **changes}
    )


def holds(claim: object, **changes: object) -> object:
    settings = {"metric": "parameter_error", "estimator": "ridge", "expectation": True, "trials": 20, "seed": 0}
    return ct.testing.assert_holds(claim, P, **{**settings, **changes})


#: What is tried, and words of the refusal.
CASES: list[tuple[Callable[[], object], str]] = [
    (lambda: own([X + 1j], [Y]), "covariates of user 0 must be an array of numbers"),
    (lambda: own([np.ma.masked_greater(X, 0.5)], [Y]), "covariates of user 0 must be complete"),
    (lambda: own([X.astype(str)], [Y]), "covariates of user 0 must be an array of numbers"),
    (lambda: own([np.array([[None, 1.0]], dtype=object)], [[1.0]]), "covariates of user 0 must be finite"),
    (lambda: own([[[10**400, 1]]], [[1.0]]), "covariates of user 0 must be an array of numbers"),
    (lambda: own([sp.csr_array(X)], [Y]), "covariates of user 0 must be an array of numbers"),
    (
        lambda: own([np.array([["2020-01-01"]], dtype="datetime64[D]")], [[1.0]]),
        "covariates of user 0 must be an array of numbers",
    ),
    (lambda: own([[[1, 2], [3]]], [[1, 2]]), "covariates of user 0 must be an array of numbers"),
    (lambda: own({"a": X}, {"a": Y}), "covariates must be a Sequence or ndarray"),
    (lambda: own(None, None), "covariates must be a Sequence or ndarray"),
    (lambda: own(3, 4), "covariates must be a Sequence or ndarray"),
    (lambda: own((x for x in [X]), (y for y in [Y])), "covariates must be a Sequence or ndarray"),
    (lambda: own(X, Y), "responses of user 0 must be an array"),
    (lambda: own("ab", "cd"), "covariates of user 0 must be an array of numbers"),
    (
        lambda: own([np.ones((2, 2, 2, 2))], [np.ones(2)]),
        "covariates of user 0 must have shape (n, dim_in) or (n,",
    ),
    (lambda: own([X], [np.ones((20, 1, 1))]), "responses of user 0 must have shape (20, 1) to match the"),
    (lambda: own([X], [Y], pretrained=[np.nan] * 4), "pretrained must be finite"),
    (lambda: own([X], [Y], pretrained=np.ones((4, 1, 1))), "pretrained must have shape (4, 1)"),
    (lambda: own([X], [Y], pretrained=3), "pretrained must be an array"),
    (lambda: own([pd.DataFrame({"a": ["x", "y"]})], [[1, 2]]), "covariates of user 0 must be an array of numbers"),
    (
        lambda: altmin(rank=1).fit(dataset(responses=DATA.responses[:2]), RNG),
        "responses must have shape (4, 20, dim_out) to match the",
    ),
    (
        lambda: altmin(rank=1).fit(dataset(covariates=DATA.covariates[0]), RNG),
        "covariates must have shape (num_users, m, dim_in) or",
    ),
    (
        lambda: altmin(rank=1).fit(dataset(counts=DATA.counts[:2]), RNG),
        "counts must be 4 numbers from 0 and 20, the rows that are",
    ),
    (
        lambda: altmin(rank=1).fit(dataset(counts=-DATA.counts), RNG),
        "counts must be 4 numbers from 0 and 20, the rows that are",
    ),
    (
        lambda: altmin(rank=1).fit(dataset(counts=DATA.counts * 3), RNG),
        "counts must be 4 numbers from 0 and 20, the rows that are",
    ),
    (
        lambda: altmin(rank=1).fit(dataset(covariates=DATA.covariates.tolist()), RNG),
        "covariates must be a ndarray",
    ),
    (lambda: altmin(rank=1).fit(dataset(pretrained=np.ones((3, 1))), RNG), "pretrained must have shape (4, 1)"),
    (lambda: altmin(rank=1).fit(None, RNG), "data must be a Dataset"),
    (lambda: altmin(rank=1).fit((X, Y), RNG), "data must be a Dataset"),
    (lambda: altmin(rank=1).fit(DATA, 0), "rng must be a Generator or None"),
    (lambda: altmin(rank=-1).fit(DATA, RNG), "rank must be an integer ≥ 1"),
    (lambda: altmin(rank=(1, 1, 1)).fit(DATA, RNG), "rank must be one integer or (rank_in, rank_out)"),
    (lambda: altmin(rank=float("nan")).fit(DATA, RNG), "rank must be an integer ≥ 1, got nan"),
    (lambda: altmin(rank=1, tol=float("nan")), "tol must be a number ≥ 0"),
    (lambda: altmin(rank=1, tol="x"), "tol must be a number ≥ 0"),
    (lambda: altmin(rank=1, max_sweeps=0), "max_sweeps must be an integer ≥ 1"),
    (lambda: altmin(rank=1, max_sweeps=3.0), "max_sweeps must be an integer ≥ 1"),
    (lambda: altmin(rank=1, restarts=-1), "restarts must be an integer ≥ 0"),
    (lambda: altmin(rank=1, start="splithalf"), "start must be one of split_half, second_moment,"),
    (lambda: altmin(rank=1, start=None), "start must be one of split_half, second_moment,"),
    (
        lambda: altmin(rank=1, input_subspace=np.ones((3, 1))).fit(DATA, RNG),
        "input_subspace must have shape (4, 1)",
    ),
    (
        lambda: altmin(rank=1, input_subspace=np.full((4, 1), np.nan)).fit(DATA, RNG),
        "input_subspace must be finite with 1 independent columns",
    ),
    (
        lambda: altmin(rank=1, input_subspace=np.zeros((4, 1))).fit(DATA, RNG),
        "input_subspace must be finite with 1 independent columns",
    ),
    (
        lambda: altmin(rank=1, input_subspace="U").fit(DATA, RNG),
        "input_subspace must be an array of numbers, got str",
    ),
    (lambda: get("ridge")(penalty=-1), "penalty must be a number ≥ 0"),
    (lambda: get("ridge")(penalty=float("nan")).fit(DATA), "penalty must be a number ≥ 0"),
    (lambda: get("sparse")(method="iht"), "sparsity must be given for method = 'iht': the number of"),
    (
        lambda: altmin(rank=1, fresh_samples=True, max_sweeps=50).fit(DATA, RNG),
        "fresh_samples with max_sweeps = 50 needs at least 102 samples",
    ),
    (
        lambda: get("transfer")(rank=1, sources=4).fit(DATA, RNG),
        "sources must lie between 1 and num_users - 1 = 3",
    ),
    (lambda: get("transfer")(input_subspace="U").fit(DATA, RNG), "input_subspace must be an array of numbers"),
    (
        lambda: get("oracle_subspace")(input_subspace="U").fit(DATA, RNG),
        "input_subspace must be an array of numbers",
    ),
    (lambda: get("distillation")(rank=1, teacher="god"), "teacher must be one of ridge, pooled"),
    (lambda: get("distillation")(rank=1, teacher=[1]), "teacher must be a word, got [1]"),
    (lambda: get("shared_plus_personal")(rank=1, own_rank=-1), "own_rank must be an integer ≥ 0"),
    (lambda: get("robust_multitask")(rank=1, strength=-1), "strength must be a number ≥ 0"),
    (lambda: get("altmim"), "unknown estimator 'altmim'"),
    (lambda: get(None), "unknown estimator None"),
    (lambda: ct.guarantees.get("cramer"), "unknown guarantee 'cramer'"),
    (lambda: ct.guarantees.get(3), "unknown guarantee 3"),
    (lambda: ct.guarantees.get("cramer_rao", delta=3), "guarantee 'cramer_rao' has no setting 'delta'"),
    (lambda: ct.guarantees.get("cramer_rao").value(P, num_user=[1, 2]), "unknown problem field 'num_user'"),
    (lambda: ct.guarantees.get("cramer_rao").value(None), "problem must be a Problem"),
    (
        lambda: ct.guarantees.get("noise_moment", failure_probability=2.0).value(
            ct.Problem(**FIELDS, noise_std=1.0)
        ),
        "failure_probability must lie strictly between 0 and 1",
    ),
    (lambda: ct.Problem(**{**FIELDS, "rank": 0}), "rank must be an integer ≥ 1"),
    (lambda: ct.Problem(**{**FIELDS, "rank": 9}), "rank must be at most min(dim_in, num_users * rank_out) = 4"),
    (lambda: ct.Problem(**{**FIELDS, "num_users": 0}), "num_users must be an integer ≥ 1"),
    (lambda: ct.Problem(**{**FIELDS, "num_users": -3}), "num_users must be an integer ≥ 1"),
    (lambda: ct.Problem(**{**FIELDS, "num_users": 3.0}), "num_users must be an integer ≥ 1"),
    (lambda: ct.Problem(**{**FIELDS, "num_users": 10**20}), "num_users must be at most 10^15"),
    (
        lambda: ct.Problem(**{**FIELDS, "num_samples": []}),
        "num_samples must be one integer, or 1 to num_users = 4 of",
    ),
    (lambda: ct.Problem(**{**FIELDS, "num_samples": "20"}), "num_samples must be an integer ≥ 0"),
    (lambda: ct.Problem(**FIELDS, noise_std=float("nan")), "noise_std must be a number ≥ 0"),
    (lambda: ct.Problem(**FIELDS, noise_std=-1), "noise_std must be a number ≥ 0"),
    (lambda: ct.Problem(**FIELDS, noise_std="0.1"), "noise_std must be a number ≥ 0"),
    (lambda: P.replace(num_user=3), "unknown problem field 'num_user'"),
    (
        lambda: ct.sample_data(ct.Problem(num_users=10**6, num_samples=10**6, dim_in=10**3, rank=1), TRUTH, RNG),
        "truth must have weights of shape (1000000, 1000, 1) like the",
    ),
    (lambda: ct.Problem(**FIELDS, signal_norm=1e-200), "signal_norm must be 0 or between 1e-150 and 1e150"),
    (
        lambda: ct.sample_truth(
            ct.Problem(
                num_users=9,
                num_samples=9,
                dim_in=5,
                rank=2,
                core_distribution="orthogonal",
                condition_number=1e300,
            ),
            RNG,
        ),
        "condition_number must be a number between 1 and 1e+07",
    ),
    (lambda: ct.Problem(**FIELDS, incoherence=1e9), "incoherence must be a number between 1 and 4"),
    (lambda: ct.sample_truth(P, None), "rng must be a Generator"),
    (lambda: ct.sample_truth(P, 0), "rng must be a Generator"),
    (lambda: ct.sample_truth(FIELDS, RNG), "problem must be a Problem"),
    (
        lambda: ct.sample_data(ct.Problem(num_users=5, num_samples=9, dim_in=6, rank=2), TRUTH, RNG),
        "truth must have weights of shape (5, 6, 1) like the problem",
    ),
    (lambda: DATA.split(0), "parts must be an integer ≥ 1"),
    (lambda: DATA.split(-1), "parts must be an integer ≥ 1"),
    (lambda: DATA.take([99]), "users must be at least one index between 0 and 3"),
    (
        lambda: ct.subspace_distance(np.ones((3, 1)), np.ones((4, 1))),
        "subspaces must be matrices with equally many rows",
    ),
    (
        lambda: ct.subspace_distance(np.full((3, 1), np.nan), np.ones((3, 1))),
        "the estimated subspace must be finite",
    ),
    (lambda: ct.subspace_distance(np.ones(3), np.ones(3)), "subspaces must be matrices with equally many rows"),
    (lambda: Reg(rank=1).fit(np.where(X > 1, np.nan, X), Y, groups=USERS), "X must be finite"),
    (lambda: Reg(rank=1).fit(X, Y, groups=USERS[:3]), "groups must have shape (20,), one label per row"),
    (
        lambda: Reg(rank=1).fit(X, Y, groups=np.where(USERS == 1, np.nan, USERS)),
        "groups must name a user in every row",
    ),
    (lambda: Reg(rank=-1).fit(X, Y, groups=USERS), "rank must be an integer ≥ 1"),
    (lambda: Reg(rank=1, estimator="altmim").fit(X, Y, groups=USERS), "unknown estimator 'altmim'"),
    (lambda: Reg(rank=1, estimator="ridge").fit(X, Y, groups=USERS), "estimator 'ridge' has no parameter 'rank'"),
    (
        lambda: Reg(rank=1, estimator="pooled_lora").fit(X, Y, groups=USERS),
        "estimator must be one that learns shared subspaces, such as",
    ),
    (lambda: Reg(rank=1, random_state=-1).fit(X, Y, groups=USERS), "random_state must be an integer"),
    (
        lambda: Reg(rank=1, random_state=None).fit(X, Y, groups=USERS),
        "random_state must be an integer",
    ),
    (lambda: Reg(rank=1).fit([["a", "b"]], [1], groups=[0]), "X must be an array of numbers"),
    (
        lambda: Reg(rank=1, unknown_users="refuse").fit(X, Y, groups=USERS).predict(X[:1], groups=[9]),
        "unknown user 9 in groups",
    ),
    (
        lambda: Reg(rank=1).fit(X, Y, groups=USERS).predict(X[:, :2], groups=USERS),
        "X has 2 features, but CoLoRARegressor is expecting 4 features",
    ),
    (lambda: Reg(rank=1).fit(X, Y, groups=USERS).partial_user(X, Y, user=1), "user 1 is known already"),
    (lambda: Reg(rank=1).fit(X, ["a"] * 20, groups=USERS), "y must be an array of numbers"),
    (lambda: Reg(rank=1).fit(X, np.ma.masked_greater(Y, 0), groups=USERS), "y must be complete"),
    (lambda: Reg(rank=1).fit(np.ma.masked_greater(X, 0), Y, groups=USERS), "X must be complete"),
    (
        lambda: Reg(rank=1).fit(X, Y, groups=USERS).score(X, Y[:3], groups=USERS),
        "y must have shape (20,) like the predictions",
    ),
    (lambda: ct.testing.assert_guarantee("nope", P, trials=10, alpha=1e-6, seed=0), "unknown guarantee 'nope'"),
    (
        lambda: ct.testing.assert_guarantee("local_least_squares_risk", P, trials=0, alpha=1e-6, seed=0),
        "trials must be an integer ≥ 8",
    ),
    (
        lambda: ct.testing.assert_guarantee("local_least_squares_risk", P, trials=10, alpha=2, seed=0),
        "alpha must lie strictly between 0 and 1",
    ),
    (lambda: holds("x"), "claim must be a function of a Problem"),
    (lambda: holds(lambda q: 1.0, metric="error"), "unknown metric 'error'"),
    (lambda: holds(lambda q: 1.0, side="above"), "side must be upper, lower or equality"),
    (lambda: holds(lambda q: 1.0, delta=0.1), "give either expectation=True (a claim about the mean) or"),
    (lambda: ct.Study.from_dict([1, 2]), "a study must be a Mapping"),
    (lambda: ct.Study.from_dict(None), "a study must be a Mapping"),
    (lambda: ct.Study.from_toml("/tmp"), "cannot read the study file /tmp: Is a directory."),
    (lambda: ct.Study.from_toml(3), "path must be a str or Path"),
    (lambda: ct.run("x.toml", out="/tmp/x"), "study must be a Study"),
    (lambda: ct.Results.open("/nope"), "there are no results at /nope"),
    (lambda: ct.Results.open(3), "path must be a str or Path"),
    (lambda: ct.check("runs/x"), "results must be a Results"),
    (
        lambda: analysis.log_log_slope([1, -1], [1, 2], [1, 1]),
        "a log-log slope needs at least two different positive points",
    ),
    (
        lambda: analysis.log_log_slope([2, 2], [1, 2], [1, 1]),
        "a log-log slope needs at least two different positive points",
    ),
    (
        lambda: analysis.log_log_slope([1, 2], [float("nan"), 2], [1, 1]),
        "a log-log slope needs at least two different positive points",
    ),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_hostile_calls_are_refused_in_one_sentence(case: int) -> None:
    action, words = CASES[case]
    with pytest.raises(ct.InputError, match=re.escape(words)) as error:
        action()
    assert "\n" not in str(error.value)


def test_what_looks_odd_but_is_sound_is_taken() -> None:
    """Tables, integers and single precision are numbers; zero responses and one user are data."""
    table = own([pd.DataFrame(X)], [pd.Series(Y)])
    np.testing.assert_array_equal(table.covariates[0], X)
    for kind in ("float32", "int32"):
        weights = get("full_finetuning")().fit(dataset(covariates=(8 * DATA.covariates).astype(kind))).weights
        assert weights.dtype == np.float64
    assert get("sparse")(method="iht", sparsity=10**6).fit(DATA).status == "converged"
    assert Reg(rank=1, single_user=True).fit(X, Y).users_ == [0]
