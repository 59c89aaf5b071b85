"""Several outputs with correlated noise: intervals that hold, by dense algebra, in any combination of outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import rel_entr

import colora_theory as ct
from colora_theory.model.linalg import Array
from colora_theory.regression import fitting
from colora_theory.regression.output_noise import spent, whitening
from colora_theory.regression.storage import load, save

Rows = tuple[Array, Array, Array]


def correlation(p: int, rho: float) -> Array:
    """All outputs correlated by |rho|, every second one with the other sign where rho < 0."""
    signs = np.where(np.arange(p) % 2, -1.0 if rho < 0 else 1.0, 1.0)
    return (abs(rho) + (1.0 - abs(rho)) * np.eye(p)) * np.outer(signs, signs)


def population(seed: int, p: int, rho: float, n: int, k: int, d: int = 2, fresh: int = 20) -> tuple[Rows, Rows]:
    """Rows to fit and fresh rows of the same users, noise of variance 1 that is correlated between outputs."""
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(correlation(p, rho))
    weights = rng.standard_normal((d, p)) + 0.2 * rng.standard_normal((k, d, p))
    weights += rng.standard_normal((1, d, 1)) * 0.7 * rng.standard_normal((k, 1, p))
    levels = rng.standard_normal((k, p))

    def rows(each: int) -> Rows:
        users = np.repeat(np.arange(k), each)
        x = rng.standard_normal((len(users), d))
        y = np.einsum("nd,ndp->np", x, weights[users]) + levels[users]
        return x, y + rng.standard_normal((len(users), p)) @ root.T, users

    return rows(n), rows(fresh)


def held(fit: Rows, new: Rows) -> Array:
    """Share of every user's new responses that lie in their 95 % intervals, shape (users, outputs)."""
    model = ct.CoLoRARegressor().fit(fit[0], fit[1], groups=fit[2])
    frame = model.predict_interval(new[0], groups=new[2])
    low, high = frame.xs("low", axis=1, level=1), frame.xs("high", axis=1, level=1)
    inside = (low.to_numpy() <= new[1]) & (new[1] <= high.to_numpy())
    return inside.reshape(len(model.users_), -1, new[1].shape[1]).mean(1)


def refuted(shares: Array, least: float, most: float) -> bool:
    """Whether some output's coverage lies outside [least, most], with an error rate of at most 1e-6.

    Users' shares lie in [0, 1] and are independent given the fit: Chernoff's bound exp(−k KL) for their mean
    (Hoeffding 1963), for both sides of every output together.
    """
    k, p = shares.shape
    for mean in shares.mean(0):
        claim = min(max(float(mean), least), most)
        distance = float(rel_entr(mean, claim) + rel_entr(1.0 - mean, 1.0 - claim))
        if k * distance > np.log(2.0 * p / 1e-6):
            return True
    return False


@pytest.mark.parametrize("rho", [0.0, 0.9, -0.9])
@pytest.mark.parametrize(("p", "n", "k"), [(2, 4, 400), (3, 4, 400), (2, 30, 60), (3, 30, 60)])
def test_intervals_hold_whatever_the_correlation(p: int, n: int, k: int, rho: float) -> None:
    """Nominal 95 %: between 93 and 98 % of every output's new rows, and 94 to 97 % of all."""
    shares = held(*population(5, p, rho, n, k))
    assert not refuted(shares, 0.93, 0.98)
    assert 0.94 <= shares.mean() <= 0.97


@pytest.mark.parametrize("rho", [0.9, -0.9])
def test_independent_noise_is_refuted(rho: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same check catches fits that take the noise as independent: they hold 83 % of new rows."""
    monkeypatch.setattr(fitting, "whitening", lambda *_: None)
    assert refuted(held(*population(5, 3, rho, 4, 400)), 0.93, 0.98)


def test_the_covariance_of_the_noise_is_found() -> None:
    """Entries have standard errors of at most √(2/ν) (Wishart), ν the degrees of freedom left to the noise."""
    (x, y, users), _ = population(2, 3, -0.9, 12, 50, d=2)
    sizes = np.array([1.0, 10.0, 0.1])
    model = ct.CoLoRARegressor().fit(x, y * sizes, groups=users)
    found = model._fitted
    covariance = noise_of(found) / np.outer(sizes, sizes)
    told = [float(word) for word in model.summary().head["noise"].split()[:3]]
    np.testing.assert_allclose(told, sizes * np.sqrt(np.diag(covariance)), rtol=1e-3)
    # 5.4 standard errors: both sides of 9 entries at false-alarm level 1e-6
    np.testing.assert_allclose(covariance, correlation(3, -0.9), atol=5.4 * np.sqrt(2.0 / found.freedom))
    assert found.freedom > 300


def noise_of(found: Any) -> Array:
    """Covariance of the noise in the units of the responses."""
    outputs = found.units.outputs * found.units.y_scale
    size = found.population.size**2 * float(found.population.noise(None)[0])
    return np.asarray(size * outputs.T @ found.between @ outputs)


@pytest.mark.parametrize("copies", [False, True])
def test_posterior_is_that_of_dense_algebra(copies: bool) -> None:
    """Coefficients, standard errors and deviations of correlated outputs, by one dense Gaussian per user."""
    (x, y, users), (new, _, _) = population(1, 2, 0.9, 5, 12, d=2)
    if copies:
        y = np.concatenate([y, 3.0 - y[:, :1] + 2.0 * y[:, 1:]], axis=1)
    p = y.shape[1]
    found = ct.CoLoRARegressor(1).fit(x, y, groups=users)._fitted
    assert found.units.mixing is not None
    assert found.units.mixing.shape == (2, p)
    leader = found.population.components[0]
    leader = replace(leader, share=1.0, factors=np.ones(1), chances=np.ones(1))
    found = replace(found, population=replace(found.population, components=(leader,), mean_covariance=None))
    hyper, units, size = leader.hyper, found.units, found.population.size
    into = np.kron(np.diag(found.population.back[:, 0]), units.mixing.T)  # vec of weights: inputs outside
    own = np.zeros(3)
    own[list(hyper.columns)] = hyper.own**2
    low = np.kron(hyper.u, hyper.v) @ hyper.core
    gamma = into @ (low @ low.T + np.kron(np.diag(own + hyper.tau2), np.eye(2))) @ into.T
    mean = into @ hyper.mean.reshape(-1)
    white = size**2 * hyper.sigma2.mean() * units.mixing.T @ units.mixing
    posterior = found.population.weights(found.rows)
    coef, _ = units.weights(posterior)
    errors = found.standard_errors(np.arange(12))
    shape = units.mixing.T @ found.between @ units.mixing * size**2 * hyper.sigma2.mean()
    for i in range(12):
        a = np.kron(units.standard(x[users == i]), np.eye(p))
        b = ((y[users == i] - units.y_centre) / units.y_scale).reshape(-1)
        marginal = a @ gamma @ a.T + np.kron(np.eye(5), white)
        gain = gamma @ a.T @ np.linalg.pinv(marginal, rcond=1e-12, hermitian=True)
        w = (mean + gain @ (b - a @ mean)).reshape(3, p)
        cov = (gamma - gain @ a @ gamma).reshape(3, p, 3, p)
        factor = units.y_scale / units.scale[:, None]
        np.testing.assert_allclose(coef[i], factor * w[:2], atol=1e-7)
        np.testing.assert_allclose(errors[i], factor * np.sqrt(np.einsum("dodo->do", cov))[:2], rtol=1e-6)
        at = units.standard(new[:4])
        spread = np.einsum("nd,doeo,ne->no", at, cov, at) + np.diag(shape)
        got = found.deviations(new[:4], np.full(4, i))
        np.testing.assert_allclose(got, units.y_scale * np.sqrt(spread), rtol=1e-6)


def test_spent_degrees_of_freedom_are_those_of_the_leader() -> None:
    """The trace of the matrix is the number of `effective` and one per weight of the mean."""
    (x, y, users), _ = population(3, 3, 0.5, 6, 20, d=2)
    found = ct.CoLoRARegressor(1).fit(x, y, groups=users)._fitted
    whole = spent(found.population, found.rows, None)
    expected = found.population.effective(found.rows).sum() + found.rows.d * found.rows.p
    np.testing.assert_allclose(np.trace(whole), expected, rtol=1e-10)
    assert (np.linalg.eigvalsh(whole) > 0.0).all()


MIXINGS = {
    "units": np.diag([1e3, -1e-2]),
    "order": np.eye(2)[::-1],
    "sum and difference": np.array([[1.0, 1.0], [1.0, -1.0]]),
    "any": np.array([[2.0, -1.0], [0.5, 1.0]]),
    "nearly white": np.array([[1.0, 0.0], [-0.9, 0.3]]),
}


@pytest.mark.parametrize("name", MIXINGS)
def test_any_combination_of_outputs_is_fitted_alike(name: str) -> None:
    """Y → Y·M: coefficients · M, covariance MᵀNM, intervals that follow.

    Whitening ends where the covariance is white by Akaike's criterion, so it differs between the fits by less than
    its standard error, √(2/ν) = 7 % here; standard errors then differ by half of that, and coefficients by that
    share of what noise moves them. Units and order alone lose nothing but the tolerance of the climbs.
    """
    mixing = MIXINGS[name]
    (x, y, users), (new, _, who) = population(3, 2, 0.9, 8, 60, d=2)
    plain = ct.CoLoRARegressor().fit(x, y, groups=users)
    other = ct.CoLoRARegressor().fit(x, y @ mixing, groups=users)
    exact = name in ("units", "order")
    back = np.linalg.inv(mixing)
    moved = np.abs(other.weights_ @ back - plain.weights_) / plain.standard_errors()
    assert moved.max() < (0.005 if exact else 0.15)
    noise, expected = back.T @ noise_of(other._fitted) @ back, noise_of(plain._fitted)
    np.testing.assert_allclose(noise, expected, atol=(0.001 if exact else 0.035) * expected.max())
    if exact:
        each = np.abs(mixing).sum(1)[np.abs(mixing).argmax(0)]
        source = np.abs(mixing).argmax(0)
        std = plain.predict(new, groups=who, return_std=True)[1][:, source] * each
        np.testing.assert_allclose(other.predict(new, groups=who, return_std=True)[1], std, rtol=0.002)
    first = replace(plain._fitted, units=replace(plain._fitted.units, mixing=plain._fitted.units.outputs))
    scaled = replace(first.units, y_scale=np.ones(2), mixing=first.units.outputs * first.units.y_scale @ mixing)
    std = replace(first, units=scaled).deviations(new, who)
    np.testing.assert_allclose(other.predict(new, groups=who, return_std=True)[1], std, rtol=0.035)


def test_one_output_is_fitted_as_before() -> None:
    """The numbers that were fitted before noise between outputs was known; nothing is whitened."""
    rng = np.random.default_rng(11)
    users = np.repeat(np.arange(8), 7)
    x = rng.standard_normal((56, 3))
    y = x[:, 0] + rng.standard_normal(8)[users] * x[:, 1] + 0.5 * rng.standard_normal(56)
    model = ct.CoLoRARegressor().fit(x, y, groups=users)
    out, std = model.predict(x, groups=users, return_std=True)
    told = [out.sum(), std.sum(), model._fitted.freedom, model.standard_errors().sum()]
    before = ["-0x1.1f27b12fabbc0p-1", "0x1.b7fdc5eb44948p+4", "0x1.619ae34c4981ep+5", "0x1.5c0e64898fc94p+1"]
    np.testing.assert_allclose(told, [float.fromhex(each) for each in before], rtol=1e-6)
    assert model._fitted.units.mixing is None
    assert model._fitted.between is None


def test_a_copy_of_an_output_changes_nothing() -> None:
    (x, y, users), _ = population(4, 1, 0.0, 10, 20, d=2)
    one = ct.CoLoRARegressor(1).fit(x, y, groups=users)
    both = ct.CoLoRARegressor((1, 1)).fit(x, np.concatenate([y, 5.0 - 3.0 * y, 0.0 * y + 7.0], 1), groups=users)
    np.testing.assert_allclose(both.weights_, one.weights_ * [1.0, -3.0, 0.0], atol=2e-3)
    np.testing.assert_allclose(both.standard_errors(), one.standard_errors() * [1.0, 3.0, 0.0], rtol=0.01)
    out, std = both.predict(x, groups=users, return_std=True)
    np.testing.assert_allclose(out[:, 2], 7.0, rtol=1e-12)
    np.testing.assert_allclose(std[:, 2], 0.0, atol=1e-9)
    np.testing.assert_allclose(std[:, 1], 3.0 * std[:, 0], rtol=1e-9)


def tables() -> dict[str, tuple[Array, Array, Array, dict[str, Any]]]:
    """Tables at the edge: x, y, users and parameters."""
    (x, y, users), _ = population(6, 2, 0.9, 6, 10, d=3)
    rng = np.random.default_rng(0)
    both = np.stack([y[:, 0], y[:, 0] + 1e-6 * y[:, 1]], 1)
    return {
        "copies": (x, y[:, [0, 0]], users, {"rank": (2, 2)}),
        "copies of one user": (x, y[:, [0, 0]], 0 * users, {"rank": 1}),
        "nearly copies": (x, both, users, {}),
        "a sum": (x, np.column_stack([y, y.sum(1)]), users, {"noise": "per_user"}),
        "no intercept": (x, np.column_stack([y, y.sum(1)]), users, {"fit_intercept": False}),
        "a constant": (x, np.column_stack([y, np.full(60, 7.0)]), users, {}),
        "constants": (x, np.ones((60, 2)), users, {}),
        "five rows": (x[:5], rng.standard_normal((5, 8)), users[:5], {}),
        "as many rows as outputs": (x[::6], rng.standard_normal((10, 10)), users[::6], {}),
        "one row more": (x[:11], rng.standard_normal((11, 10)), users[:11], {}),
        "no noise": (x, x[:, :2] @ np.array([[1.0, 2.0], [0.0, 1.0]]), users, {}),
        "no noise in one": (x, np.stack([x[:, 0], y[:, 0]], 1), users, {}),
        "far apart": (x, y * [1e-200, 1e200], users, {}),
    }


@pytest.mark.parametrize("name", tables())
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_tables_at_the_edge_end_in_a_fit(name: str) -> None:
    x, y, users, parameters = tables()[name]
    model = ct.CoLoRARegressor(**parameters).fit(x, y, groups=users)
    assert np.isfinite(model.predict(x, groups=users)).all()
    assert model.weights_.shape == (len(model.users_), 3, y.shape[1])
    if name == "constants":
        return
    assert np.isfinite(model.predict_interval(x, groups=users).to_numpy()).all()
    assert np.isfinite(model.standard_errors()).all()
    summary = model.summary()
    assert len(summary.head["noise"].split()) == y.shape[1] + 2
    np.testing.assert_allclose(summary.variances["share"].sum(), 1.0)
    model.update(x[:3], y[:3], groups=users[:3])
    model.partial_user(x[:2], y[:2], user="new")
    assert np.isfinite(model.weights_).all()


def test_rows_that_come_later_count_as_if_they_had_been_there() -> None:
    """A user in two parts has the posterior of all its rows, in correlated outputs too."""
    (x, y, users), _ = population(8, 2, 0.9, 8, 30, d=2)
    model = ct.CoLoRARegressor(1).fit(x, y, groups=users)
    assert model._fitted.units.mixing is not None
    mine = np.flatnonzero(users == 3)
    model.partial_user(x[mine[:3]], y[mine[:3]], user="again")
    model.update(x[mine[3:]], y[mine[3:]], groups=["again"] * 5)
    np.testing.assert_allclose(model.weights_[-1], model.weights_[3], atol=1e-8)
    np.testing.assert_allclose(model.standard_errors()[-1], model.standard_errors()[3], rtol=1e-6)


def test_models_on_disk_keep_the_noise_between_outputs(tmp_path: Path) -> None:
    (x, y, users), _ = population(9, 2, -0.9, 8, 20, d=2)
    frame = pd.DataFrame(y, columns=["price", "amount"])
    model = ct.CoLoRARegressor(1).fit(x, frame, groups=users)
    again = load(save(model, tmp_path / "model"))
    expected = model.predict_interval(x, groups=users)
    pd.testing.assert_frame_equal(again.predict_interval(x, groups=users), expected, check_exact=True)
    np.testing.assert_array_equal(again.standard_errors(), model.standard_errors())
    assert str(again.summary()) == str(model.summary())
    np.testing.assert_array_equal(again.partial_user(x[:2], y[:2]), model.partial_user(x[:2], y[:2]))


def test_a_model_saved_before_still_predicts() -> None:
    """Two outputs, saved when their noise was taken as independent: the numbers that it printed then."""
    model = load(Path(__file__).parent / "model_schema_1")
    out, std = model.predict([[1.0, -1.0], [0.5, 2.0]], groups=["a", "c"], return_std=True)
    expected = [[1.3955909462340552, 3.9935802568304477], [0.3595652547527583, 7.038158983004344]]
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    expected = [[0.4697605003959112, 0.20008818192032204], [0.4679669273178805, 0.20329289033627976]]
    np.testing.assert_allclose(std, expected, rtol=1e-9)
    assert "noise" in str(model.summary())
    model.update([[1.0, -1.0]], [[2.0, 4.0]], groups=["a"])
    assert model.predict([[1.0, -1.0]], groups=["a"])[0, 0] > out[0, 0]


def test_white_noise_is_left_alone() -> None:
    """A covariance as white as 50 degrees of freedom can tell is no reason to fit again; a clear one is undone."""
    assert whitening(np.eye(3), 50.0) is None
    assert whitening(correlation(2, 0.9), 1.0) is None
    root = whitening(correlation(2, 0.9), 1e6)
    assert root is not None
    np.testing.assert_allclose(root @ root, correlation(2, 0.9), rtol=1e-4)


def test_noise_shape_does_not_depend_on_what_outputs_spend() -> None:
    """An output that users explain by coefficients of their own has as much noise as one that nobody explains."""
    rng = np.random.default_rng(10)
    users = np.repeat(np.arange(600), 6)
    x = rng.standard_normal((3600, 2))
    weights = rng.standard_normal((600, 2, 2)) * [5.0, 0.0]
    y = np.einsum("nd,ndp->np", x, weights[users]) + rng.standard_normal((3600, 2))
    found = ct.CoLoRARegressor().fit(x, y, groups=users)._fitted
    noise = noise_of(found)
    raw = np.square(found.residuals.std).mean(0)
    assert raw[0] < 0.85 * raw[1]
    # log ratio of variances with at least 1 800 and 3 000 degrees of freedom, 4.9 standard errors
    assert abs(np.log(noise[0, 0] / noise[1, 1])) < 4.9 * np.sqrt(2.0 / 1800.0 + 2.0 / 3000.0)
