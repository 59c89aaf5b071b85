"""The scikit-learn style front door."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from conftest import draw
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

import colora_theory as ct
from colora_theory.regression import fitted, regressor
from colora_theory.regression.labels import key_of


def table(seed: int = 0, **fields: object) -> tuple[ct.Truth, np.ndarray, np.ndarray, np.ndarray]:
    """Own data as one table: rows, responses, users' labels."""
    base = dict(num_users=12, num_samples=25, dim_in=8, rank=2, noise_std=0.01)
    p = ct.Problem(**{**base, **fields})
    truth, data = draw(p, seed)
    users = np.repeat([f"user {i}" for i in range(p.num_users)], data.covariates.shape[1])
    order = np.random.default_rng(seed).permutation(len(users))
    x, y = data.covariates.reshape(-1, p.dim_in), data.responses.reshape(-1, p.dim_out)
    return truth, x[order], y[order], users[order]


@pytest.mark.parametrize("estimator", ["hierarchical", "gauss_newton"])
def test_fit_and_predict_users_of_a_shuffled_table(estimator: str) -> None:
    truth, x, y, users = table(intercept_std=1.0)
    model = ct.CoLoRARegressor(rank=2, estimator=estimator).fit(x, y[:, 0], groups=users)
    assert list(model.coef_.index) == model.users_
    assert model.score(x, y[:, 0], groups=users) > 0.999
    assert ct.subspace_distance(model.input_subspace_, truth.input_subspace) < 0.02
    index = model.users_.index("user 3")
    np.testing.assert_allclose(model.weights_[index], truth.weights[3], atol=0.05)
    np.testing.assert_allclose(model.intercept_.iloc[index], truth.intercepts[3], atol=0.05)


def test_the_rank_is_chosen_by_default() -> None:
    _, x, y, users = table(dim_out=3)
    model = ct.CoLoRARegressor().fit(x, y, groups=users)
    assert model.rank_ == (2, 2)
    assert model.predict(x[:5], groups=users[:5]).shape == (5, 3)


def test_a_new_user_needs_few_samples() -> None:
    truth, x, y, users = table()
    old = users != "user 7"
    model = ct.CoLoRARegressor(rank=2, fit_intercept=False).fit(x[old], y[old, 0], groups=users[old])
    few = np.flatnonzero(~old)[:4]
    weights = model.partial_user(x[few], y[few, 0], user="user 7")
    np.testing.assert_allclose(weights, truth.weights[7], atol=0.1)
    rest = np.flatnonzero(~old)[4:]
    np.testing.assert_allclose(model.predict(x[rest], groups=users[rest]), y[rest, 0], atol=0.3)
    with pytest.raises(ct.InputError, match="user 'user 7' is known already"):
        model.partial_user(x[few], y[few, 0], user="user 7")


def test_refusals() -> None:
    _, x, y, users = table()
    model = ct.CoLoRARegressor(rank=2)
    with pytest.raises(NotFittedError):
        model.predict(x)
    with pytest.raises(NotFittedError):
        model.partial_user(x, y)
    model.fit(x, y, groups=users)
    for call, words in (
        (lambda: model.predict(x), "groups must be given: the model knows 12 users"),
        (
            lambda: ct.CoLoRARegressor(rank=2, estimator="altmin").fit(x, y, users).predict(x[:1], ["nobody"]),
            "unknown user 'nobody'",
        ),
        (lambda: model.predict(x, groups=users[:3]), "groups must have shape"),
        (lambda: model.predict(x[:, :3], groups=users), "expecting 8 features"),
        (lambda: model.partial_user(x[:, :3], y), "new samples must have 8 inputs"),
        (lambda: model.set_params(rnk=2), "unknown parameter 'rnk'"),
        (lambda: model.fit(x, y[:3], groups=users), "y must have one row per row of X"),
    ):
        with pytest.raises(ct.InputError, match=words):
            call()


def test_parameters_survive_cloning() -> None:
    model = ct.CoLoRARegressor(rank=(2, 1), estimator="altmin", random_state=3)
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(rank=1).rank == 1
    assert "estimator='altmin'" in repr(model)


@pytest.mark.parametrize("settings", [{}, {"estimator": "altmin", "rank": 1}])
def test_scikit_learns_own_checks(settings: dict[str, object]) -> None:
    """Its checks give no groups: one user's rows, which has to be said."""
    model = ct.CoLoRARegressor(single_user=True, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(model, on_fail=None)
    assert len(results) > 30
    failed = [r["check_name"] for r in results if r["status"] == "failed"]
    # weights reach altmin through scaled rows, whose iterations differ in the last digits
    assert failed == [], failed


def test_labels_are_looked_up_not_numbered_again_for_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predicting costs one look per row and one per user; once all users were numbered anew for every row."""
    rng = np.random.default_rng(3)
    users = np.repeat(np.arange(40), 5)
    x = rng.standard_normal((200, 2))
    model = ct.CoLoRARegressor().fit(x, x[:, 0] + rng.standard_normal(200), groups=users)
    looks = []

    def counted(label: object) -> object:
        looks.append(label)
        return key_of(label)

    monkeypatch.setattr(fitted, "key_of", counted)
    monkeypatch.setattr(regressor, "key_of", counted)
    model.predict(x, groups=users)
    assert 0 < len(looks) <= 200 + 40
