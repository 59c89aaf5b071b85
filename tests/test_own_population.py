"""Users learned together from a table: against exact references, in caller's units, with honest intervals."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, t

import colora_theory as ct
from colora_theory.regression import compare
from colora_theory.regression.regressor import UnknownUserWarning

pytestmark = pytest.mark.filterwarnings("ignore::colora_theory.regression.regressor.UnknownUserWarning")


def population(
    seed: int, k: int = 40, n: Any = 12, d: int = 6, rank: int = 2, stray: float = 0.1, noise: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of users with random intercepts and coefficients of a low-rank plus isotropic population."""
    rng = np.random.default_rng(seed)
    counts = np.broadcast_to(n, k)
    u = np.linalg.qr(rng.standard_normal((d, rank)))[0]
    weights = np.linspace(-1, 1, d) + rng.standard_normal((k, rank)) @ u.T + stray * rng.standard_normal((k, d))
    levels = 3.0 + rng.standard_normal(k)
    users = np.repeat(np.arange(k), counts)
    x = rng.standard_normal((len(users), d))
    y = np.einsum("nd,nd->n", x, weights[users]) + levels[users] + noise * rng.standard_normal(len(users))
    return x, y, users, weights, levels


def test_coefficients_are_in_the_units_of_the_table() -> None:
    """x → a x + b and y → c y + e change coefficients accordingly, and predictions not at all."""
    x, y, users, *_ = population(1)
    plain = ct.CoLoRARegressor(2).fit(x, y, groups=users)
    scale, shift = np.array([1e-6, 1.0, 1e5, 3.0, 1e-2, 7.0]), np.array([0.0, 2000.0, -5.0, 1e4, 3.0, 0.0])
    other = ct.CoLoRARegressor(2).fit(x * scale + shift, 1e3 * y - 50.0, groups=users)
    np.testing.assert_allclose(
        other.weights_[:, :, 0] * scale / 1e3, plain.weights_[:, :, 0], rtol=1e-2, atol=2e-3
    )
    predicted = other.predict(x * scale + shift, groups=users)
    np.testing.assert_allclose((predicted + 50.0) / 1e3, plain.predict(x, groups=users), atol=5e-3)
    std = other.predict(x * scale + shift, groups=users, return_std=True)[1]
    np.testing.assert_allclose(std / 1e3, plain.predict(x, groups=users, return_std=True)[1], rtol=0.02)


def test_posterior_is_that_of_dense_algebra() -> None:
    """Means and covariances of users, the population's uncertainty included, by generalised least squares."""
    x, y, users, *_ = population(2, k=7, n=(3, 1, 9, 5, 8, 2, 30), d=3, rank=1)
    fitted = ct.CoLoRARegressor(1).fit(x, y, groups=users)._fitted
    prior, rows = fitted.population, fitted.rows
    inside = fitted.units.standard(x) / prior.units
    answers = (y - fitted.units.y_centre) / fitted.units.y_scale / prior.size
    q = inside.shape[1]
    mean, square = np.zeros((7, q)), np.zeros((7, q, q))
    for c in prior.components:
        hyper, shares = c.at(rows)
        for j, factor in enumerate(c.factors):
            own = np.zeros(q)
            own[list(hyper.columns)] = hyper.own**2
            gamma = (
                hyper.u @ hyper.core @ hyper.core.T @ hyper.u.T + np.diag(own) + factor * hyper.tau2 * np.eye(q)
            )
            for i in range(7):
                a, b = inside[users == i], answers[users == i]
                gain = gamma @ a.T @ np.linalg.inv(a @ gamma @ a.T + hyper.sigma2[0] * np.eye(len(a)))
                w = hyper.mean[:, 0] + gain @ (b - a @ hyper.mean[:, 0])
                share = c.share * shares[i, j]
                mean[i] += share * w
                square[i] += share * (gamma - gain @ a @ gamma + np.outer(w, w))
    np.testing.assert_allclose(prior.weights(rows)[:, :, 0] / prior.back[:, 0], mean, atol=1e-9)
    expected = square - mean[:, :, None] * mean[:, None, :]
    from dataclasses import replace

    found = replace(prior, mean_covariance=None).covariances(rows)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())
    assert (np.linalg.eigvalsh(prior.covariances(rows) - found) > -1e-12).all()


@pytest.mark.parametrize("shots", [0, 1, 2, 5])
def test_few_rows_of_a_new_user(shots: int) -> None:
    """Never worse than the population on average over users, and better with every row."""
    x, y, users, weights, _ = population(3, k=120, n=14)
    old = users < 60
    model = ct.CoLoRARegressor().fit(x[old], y[old], groups=users[old])
    errors, base = [], []
    for i in range(60, 120):
        mine = np.flatnonzero(users == i)[:shots]
        coefficient = model.partial_user(x[mine], y[mine]) if shots else model.population_coef_
        errors.append(((coefficient[:, 0] - weights[i]) ** 2).sum())
        base.append(((model.population_coef_[:, 0] - weights[i]) ** 2).sum())
    assert np.mean(errors) <= np.mean(base) * (1.0 if shots == 0 else 1.02 - 0.08 * shots)


def test_updating_is_fitting_the_posterior_of_all_rows() -> None:
    """Rows in two parts give the same user as at once; other users and the population stay."""
    x, y, users, *_ = population(4)
    first = np.arange(len(y)) % 12 < 7
    whole = ct.CoLoRARegressor(2).fit(x, y, groups=users)
    model = ct.CoLoRARegressor(2).fit(x, y, groups=users)
    new = (users == 3) & ~first
    model.partial_user(x[(users == 3) & first], y[(users == 3) & first], user="again")
    model.update(x[new], y[new], groups=["again"] * int(new.sum()))
    np.testing.assert_allclose(model.coef_.loc["again"], whole.weights_[3, :, 0], atol=1e-8)
    np.testing.assert_array_equal(model.weights_[:40], whole.weights_)
    rng = np.random.default_rng(0)
    far = rng.standard_normal((50, 6))
    model.update(far, 10.0 * far[:, 0], groups=[7] * 50)
    assert model.weights_[7, 0, 0] > whole.weights_[7, 0, 0] + 3.0
    np.testing.assert_array_equal(np.delete(model.weights_, 7, 0)[:39], np.delete(whole.weights_, 7, 0))
    assert model.users_ == [*range(40), "again"]


@pytest.mark.parametrize("outputs", [1, 2])
def test_intervals_cover(outputs: int) -> None:
    """95 % intervals of new rows: of known users, of users after two rows, and of strangers."""
    held, inside = 0, 0
    for seed in range(4):
        x, y, users, *_ = population(10 + seed, k=60, n=16)
        if outputs == 2:
            rng = np.random.default_rng([seed, 7])
            other = np.einsum("nd,nd->n", x, rng.standard_normal((60, 6))[users]) + rng.standard_normal(len(y))
            y = np.stack([y, 2.0 * other], 1)
        turn = np.arange(len(users)) % 16
        train = (turn < 8) & (users < 50) | (turn < 2) & (users >= 50) & (users < 55)
        test = turn >= 8
        model = ct.CoLoRARegressor().fit(x[train], y[train], groups=users[train])
        found = model.predict_interval(x[test], groups=users[test]).to_numpy().reshape(int(test.sum()), outputs, 3)
        truth = y[test].reshape(-1, outputs)
        hit = (found[:, :, 0] <= truth) & (truth <= found[:, :, 2])
        held, inside = held + hit.size, inside + int(hit.sum())
    assert 0.92 < inside / held < 0.98
    assert binom.cdf(inside, held, 0.90) > 1e-6


def test_several_outputs_with_names() -> None:
    x, y, users, *_ = population(5)
    frame = pd.DataFrame(x, columns=list("abcdef"))
    both = pd.DataFrame({"first": y, "second": -2.0 * y + 1.0})
    model = ct.CoLoRARegressor().fit(frame, both, groups=users)
    assert model.coef_.columns.tolist()[:2] == [("first", "a"), ("first", "b")]
    assert model.predict(frame, groups=users).shape == (480, 2)
    np.testing.assert_allclose(model.coef_["second"], -2.0 * model.coef_["first"], atol=0.02)
    single = ct.CoLoRARegressor().fit(frame, both[["first"]], groups=users)
    assert single.predict(frame, groups=users).shape == (480, 1)


def test_weights_are_repetitions() -> None:
    x, y, users, *_ = population(6, k=15)
    times = np.random.default_rng(0).integers(0, 3, len(y))
    weighted = ct.CoLoRARegressor(2).fit(x, y, groups=users, sample_weight=times)
    repeated = ct.CoLoRARegressor(2).fit(x.repeat(times, 0), y.repeat(times), groups=users.repeat(times))
    order = [weighted.users_.index(user) for user in repeated.users_]
    np.testing.assert_allclose(weighted.weights_[order], repeated.weights_, atol=2e-3)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (1, 2, 3, 2000, 5), (50, 0, 1, 2, 3)])
def test_users_of_very_different_sizes(sizes: tuple[int, ...]) -> None:
    x, y, users, *_ = population(7, k=5, n=sizes, d=3, rank=1)
    model = ct.CoLoRARegressor().fit(x, y, groups=users)
    out, std = model.predict(x, groups=users, return_std=True)
    assert np.isfinite(out).all()
    assert (std > 0).all()


def test_columns_that_say_nothing_or_the_same() -> None:
    """Constant, duplicate and collinear columns change no prediction beyond the prior's isotropy."""
    x, y, users, *_ = population(8)
    plain = ct.CoLoRARegressor().fit(x, y, groups=users)
    odd = np.column_stack([x, np.full(len(x), 7.0), x[:, 0], x[:, 1] + x[:, 2]])
    model = ct.CoLoRARegressor().fit(odd, y, groups=users)
    assert np.isfinite(model.weights_).all()
    assert np.abs(model.weights_[:, 6]).max() < 1e-12
    gap = model.predict(odd, groups=users) - plain.predict(x, groups=users)
    assert np.sqrt(np.mean(gap**2)) < 0.1 * y.std()


def test_noise_of_users_is_not_learned() -> None:
    """Where users differ in noise only, nobody is given deviations for it; the population is the answer."""
    rng = np.random.default_rng(9)
    users = np.repeat(np.arange(80), 8)
    x = rng.standard_normal((640, 8))
    sizes = np.exp(rng.standard_normal(80))
    y = x @ np.linspace(-1, 1, 8) + sizes[users] * rng.standard_normal(640)
    model = ct.CoLoRARegressor().fit(x, y, groups=users)
    error = ((model.weights_[:, :, 0] - np.linspace(-1, 1, 8)) ** 2).sum(1).mean()
    assert error < 0.3  # users' own fits: about 8 σ²/n = 7


def test_many_columns_and_few_rows() -> None:
    """More columns than a user has rows, and hardly more rows than columns: better than pooling and than alone."""
    x, y, users, weights, _ = population(11, k=30, n=8, d=40, rank=1, stray=0.02)
    model = ct.CoLoRARegressor().fit(x, y, groups=users)
    error = ((model.weights_[:, :, 0] - weights) ** 2).sum(1).mean()
    pooled = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0][:-1]
    assert error < 0.9 * ((pooled - weights) ** 2).sum(1).mean()


def test_the_summary_finds_who_does_not_belong() -> None:
    x, y, users, *_ = population(12, k=30, n=25, stray=0.0)
    y[users == 4] = 6.0 * x[users == 4, 5] + 1.0
    model = ct.CoLoRARegressor(2).fit(x, y, groups=users)
    summary = model.summary()
    assert summary.users["flagged"][4]
    assert summary.users["flagged"].sum() <= 5
    assert summary.variances["share"].sum() == pytest.approx(1.0)
    assert "Users that do not belong" in str(summary)
    assert "shared rank" in repr(summary)
    assert model.alignment_.flagged[4]


def test_doubts_are_said() -> None:
    rng = np.random.default_rng(13)
    users = np.repeat(np.arange(40), 20)
    x = rng.standard_normal((800, 2))
    y = x[:, 0] + np.exp(1.5 * rng.standard_normal(40))[users] * rng.standard_normal(800)
    doubts = " ".join(ct.CoLoRARegressor().fit(x, y, groups=users).summary().doubts)
    assert "heavy tails" in doubts
    fitted = ct.CoLoRARegressor().fit(x, y, groups=users)
    narrow = fitted.predict(x, groups=users, return_std=True)[1]
    assert narrow.max() > 5.0 * narrow.min()
    assert fitted.partial_user(x[:3], y[:3], user="new").shape == (2, 1)


def test_comparison_with_the_usual_models() -> None:
    x, y, users, *_ = population(14, k=25, n=9, d=5)
    frame = ct.compare(ct.CoLoRARegressor(2), x, y, users)
    assert frame.index[0] == "CoLoRA"
    assert set(frame.index) == {"CoLoRA", "alone", "pooled", "user intercepts", "MixedLM"}
    assert frame.loc["pooled", "low"] > 0.0
    shots = ct.compare(ct.CoLoRARegressor(2), x, y, users, split=ct.UserShotsSplit(5, shots=2), mixed=False)
    assert shots.index[0] == "CoLoRA"
    assert "MixedLM" not in shots.index
    with pytest.raises(ct.InputError, match="groups must be given to compare"):
        ct.compare(ct.CoLoRARegressor(), x, y)


def test_splitters() -> None:
    users = np.repeat(list("abcdefg"), (1, 2, 3, 5, 8, 13, 4))
    x = np.zeros((len(users), 1))
    seen = np.zeros(len(users), dtype=int)
    for train, test in ct.WithinUserSplit(4).split(x, groups=users):
        assert not set(train) & set(test)
        assert len(train) + len(test) == len(users)
        assert set(users[test]) <= set(users[train]) | {"b"}
        seen[test] += 1
    assert (seen[users != "a"] == 1).all()
    assert seen[0] == 0
    held = []
    for train, test in ct.UserShotsSplit(3, shots=2).split(x, groups=users):
        for user in set(users[test]):
            assert (users[train] == user).sum() == 2
        held += sorted(set(users[test]))
        assert len(train) + len(test) == len(users)
    assert sorted(held) == list("cdefg")
    with pytest.raises(ct.InputError, match="groups must be given to split"):
        next(ct.WithinUserSplit().split(x))
    with pytest.raises(ct.InputError, match="n_splits must be at most the number of users 7"):
        next(ct.UserShotsSplit(8).split(x, groups=users))
    assert "shots=2" in repr(ct.UserShotsSplit(3, shots=2))


LABELS = [
    lambda rng, k: [f"u{i}" for i in range(k)],
    lambda rng, k: list(range(2**63, 2**63 + k)),
    lambda rng, k: [i % 2 == 0 if i < 2 else str(i) for i in range(k)],
    lambda rng, k: list(pd.date_range("2020", periods=k)),
    lambda rng, k: [None if i == 3 else i for i in range(k)],
]
COLUMNS = [
    lambda rng, n: rng.standard_normal(n),
    lambda rng, n: rng.integers(0, 3, n),
    lambda rng, n: np.full(n, rng.choice([0.0, 1.0, 1e9])),
    lambda rng, n: rng.standard_normal(n) * 10.0 ** rng.integers(-200, 200),
    lambda rng, n: rng.random(n) < 0.5,
    lambda rng, n: pd.array(np.where(rng.random(n) < 0.02, None, rng.integers(0, 9, n)), dtype="Int64"),
    lambda rng, n: np.where(rng.random(n) < 0.01, np.nan, rng.standard_normal(n)),
    lambda rng, n: 1e6 + rng.standard_normal(n),
    lambda rng, n: rng.standard_t(1, n),
]
SELDOM = [
    lambda rng, n: rng.standard_normal(n).astype(str),
    lambda rng, n: pd.date_range("2020", periods=n),
    lambda rng, n: pd.Categorical(["a"] * n),
    lambda rng, n: rng.standard_normal(n) + 0j,
    lambda rng, n: pd.Series([10**400] * n, dtype=object),  # pandas 2.1 cannot make a column of the array
]


def random_table(seed: int) -> str:
    """Fit one random table; how it ended: "fit", or the refusal."""
    rng = np.random.default_rng(seed)
    n, d, k = int(rng.choice([1, 2, 5, 20, 60])), int(rng.integers(1, 7)), int(rng.integers(1, 12))
    labels = LABELS[rng.integers(len(LABELS))](rng, k)
    chosen = rng.integers(0, len(labels), n)
    columns: dict[str, Any] = {}
    for j in range(d):
        kinds = SELDOM if rng.random() < 0.02 else COLUMNS
        columns[f"x{j}"] = kinds[rng.integers(len(kinds))](rng, n)
    frame = pd.DataFrame(columns)
    y = COLUMNS[rng.choice([0, 0, 0, 1, 2, 3, 6, 8])](rng, n)
    y = np.stack([y, rng.standard_normal(n)], 1) if rng.random() < 0.2 else y
    settings: dict[str, Any] = {
        "rank": [0, 1, 2, "auto", "auto", "auto"][rng.integers(6)],
        "fit_intercept": bool(rng.random() < 0.8),
        "noise": ["common", "common", "per_user"][rng.integers(3)],
    }
    if rng.random() < 0.15:
        settings |= {"estimator": "altmin", "noise": "common"}
    weights = None if rng.random() < 0.7 else rng.integers(0, 3, n).astype(float)
    groups = [labels[i] for i in chosen]
    model = ct.CoLoRARegressor(**settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UnknownUserWarning)
        try:
            model.fit(frame, y, groups=groups, sample_weight=weights)
        except ct.InputError as error:
            refusal = str(error)
        else:
            refusal = ""
        if refusal:
            assert "\n" not in refusal
            assert not hasattr(model, "coef_")
            return refusal
        out = model.predict(frame, groups=groups)
        assert out.shape == np.shape(y)
        assert np.isfinite(out).all()
        assert np.isfinite(model.weights_).all()
        if settings.get("estimator") is None and model.population_coef_ is not None:
            assert np.isfinite(model.predict(frame, groups=groups, return_std=True)[1]).all()
            assert str(model.summary())
    return "fit"


def test_random_tables_end_in_a_fit_or_one_sentence() -> None:
    ends = [random_table(seed) for seed in range(150)]
    assert ends.count("fit") > 60


@pytest.mark.parametrize("seed", [1790])  # a direction that only the intercept has
def test_tables_that_once_ended_in_a_raw_error(seed: int) -> None:
    assert random_table(seed) == "fit"


@pytest.mark.slow
def test_five_thousand_random_tables() -> None:
    ends = [random_table(seed) for seed in range(1000, 6000)]
    assert ends.count("fit") > 2000


def test_noise_of_outputs_follows_their_units() -> None:
    """Units a hundred times smaller: intervals a hundred times wider; those of the other output stay."""
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(6), 20)
    x = rng.standard_normal((120, 3))
    y = x[:, :2] + rng.standard_normal((120, 2)) * [1.0, 0.2]
    one = ct.CoLoRARegressor().fit(x, y, groups=groups).predict(x, groups=groups, return_std=True)[1]
    other = ct.CoLoRARegressor().fit(x, y * [1.0, 100.0], groups=groups)
    np.testing.assert_allclose(other.predict(x, groups=groups, return_std=True)[1], one * [1.0, 100.0], rtol=1e-6)
    assert 3.0 < one[:, 0].mean() / one[:, 1].mean() < 7.0


def test_shrinkage_is_one_without_rows_and_vanishes_with_many() -> None:
    """1 − (effective parameters)/(coefficients): between 0 and 1, less the more rows a user has."""
    rng = np.random.default_rng(6)
    sizes = [1, 3, 10, 40, 400, 40, 40, 40]
    groups = np.repeat(np.arange(8), sizes)
    x = rng.standard_normal((sum(sizes), 2))
    y = np.einsum("nd,nd->n", x, rng.standard_normal((8, 2))[groups]) + rng.standard_normal(len(x))
    shrinkage = ct.CoLoRARegressor().fit(x, y, groups=groups).summary().users["shrinkage"].to_numpy()
    assert (shrinkage >= 0.0).all()
    assert (shrinkage <= 1.0).all()
    assert shrinkage[0] > 0.5 > 0.1 > shrinkage[4]
    assert (np.diff(shrinkage[:5]) < 0.0).all()


def test_distances_are_those_of_standardised_coefficients() -> None:
    """‖(coefficients − population's) · column scale / response scale‖, by the public attributes."""
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(5), 30)
    x = rng.standard_normal((150, 3)) * [1.0, 10.0, 0.1]
    y = np.einsum("nd,nd->n", x, (3.0 + rng.standard_normal((5, 3)))[groups]) + rng.standard_normal(150)
    fitted = ct.CoLoRARegressor().fit(x, y, groups=groups)
    off = (fitted.weights_[:, :, 0] - fitted.population_coef_[:, 0]) * x.std(0) / y.std()
    np.testing.assert_allclose(fitted.summary().users["distance"], np.sqrt((off**2).sum(1)), rtol=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_paired_intervals_take_users_for_the_independent_units(level: float) -> None:
    """By hand: mean difference ± t_{k−1} √(k/(k−1) Σ_u (Σ_{rows of u} (d − d̄))²) / N."""
    rng = np.random.default_rng(8)
    which, tested = rng.integers(0, 6, 50), np.arange(3, 50)
    mine, ours = rng.gamma(2.0, size=50), rng.gamma(1.0, size=50)
    rmse, mean, low, high = compare._paired(mine, ours, which, tested, level)
    d = (mine - ours)[3:]
    sums = [(d - d.mean())[which[3:] == user].sum() for user in range(6)]
    half = t.ppf(0.5 + level / 2, 5) * np.sqrt(6 / 5 * np.sum(np.square(sums))) / 47
    np.testing.assert_allclose(
        [rmse, mean, low, high], [np.sqrt(mine[3:].mean()), d.mean(), *(d.mean() + half * np.array([-1, 1]))]
    )
