"""Tables of one's own: labels kept apart, names of columns, refusals, all-or-nothing fits, scikit-learn."""

from __future__ import annotations

import copy
import datetime
import importlib
import pickle
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metadata_routing import get_routing_for_object

import colora_theory as ct
from colora_theory.regression.regressor import UnknownUserWarning

RNG = np.random.default_rng(5)
X = RNG.standard_normal((24, 3))
SLOPES = np.repeat([3.0, -3.0, 0.0], 8)
Y = SLOPES * X[:, 0] + 0.01 * RNG.standard_normal(24)
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])

KEPT = pd.DataFrame(np.arange(24)[:, None] != np.array([[3, 3, 3]]), columns=["a", "b", "c"])


def labels(*three: Any) -> list[Any]:
    """Eight rows of each of three users."""
    return [label for label in three for _ in range(8)]


def model(**settings: Any) -> ct.CoLoRARegressor:
    return ct.CoLoRARegressor(**{"rank": 1, **settings})


APART = {
    "text and number": labels("1", 1, 2),
    "large integers": labels(2**63, 2**63 + 1, 2**64),
    "trailing nulls": labels("a", "a\0", "a\0\0"),
    "number and truth": labels(1, True, 0),
    "text and bytes": labels("a", b"a", "b"),
    "mixed": labels(1, "b", None.__class__),
    "tuples": labels(("a", 1), ("a", 2), ("a", "1")),
    "days": labels(datetime.date(2020, 1, 1), datetime.date(2020, 1, 2), datetime.date(2020, 1, 3)),
    "object array": np.array(labels("1", 1, True), dtype=object),
    "nanoseconds": np.repeat(np.array([0, 1, 2], dtype="datetime64[ns]"), 8),
    "durations": np.repeat(np.array([0, 1, 2], dtype="timedelta64[ms]"), 8),
    "unsigned": np.repeat(np.array([2**63, 2**63 + 1, 2**64 - 1], dtype=np.uint64), 8),
    "floats": np.repeat([0.1, np.nextafter(0.1, 1), np.inf], 8),
    "categories": pd.Series(labels("u", "v", "w"), dtype="category"),
    "time zones": pd.Series(pd.date_range("2020-03-29", periods=3, tz="Europe/Berlin").repeat(8)),
    "nullable": pd.Series(labels(1, 2, 3), dtype="Int64"),
    "arrow": pd.Series(labels("u", "v", "w"), dtype="string[pyarrow]"),
    "index": pd.Index(labels("u", "v", "w")),
}


@pytest.mark.parametrize("name", APART)
def test_labels_are_kept_apart_exactly(name: str) -> None:
    groups = APART[name]
    fitted = model().fit(X, Y, groups=groups)
    assert len(fitted.users_) == 3
    np.testing.assert_allclose(fitted.weights_[:, 0, 0], [3.0, -3.0, 0.0], atol=0.1)
    np.testing.assert_allclose(fitted.predict(X, groups=groups), Y, atol=0.15)
    one = groups.iloc[8:9] if isinstance(groups, pd.Series) else groups[8:9]
    np.testing.assert_allclose(fitted.predict(X[8:9], groups=one), Y[8:9], atol=0.15)
    assert fitted.knows(groups).all()


MISSING = {
    "NaN": labels("a", "b", float("nan")),
    "None": labels("a", None, "b"),
    "NA": labels("a", pd.NA, "b"),
    "NaT": labels(pd.NaT, "a", "b"),
    "float array": np.repeat([1.0, np.nan, 2.0], 8),
    "dates": np.repeat(np.array(["2020-01-01", "NaT", "2021-01-01"], dtype="datetime64[D]"), 8),
    "masked": np.ma.array(np.repeat([1, 2, 3], 8), mask=np.repeat([0, 0, 1], 8)),
    "categories": pd.Series(labels("a", None, "b"), dtype="category"),
    "nullable": pd.Series(labels(1, None, 2), dtype="Int64"),
    "inside a tuple": labels(("a", None), ("a", 1), ("a", 2)),
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_labels_are_refused(name: str) -> None:
    with pytest.raises(ct.InputError, match=r"must name a user in every row, got a (missing|masked) label in row"):
        model().fit(X, Y, groups=MISSING[name])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "text for groups": ({"groups": "abc"}, "groups must be a sequence of labels, got str"),
    "a frame for groups": ({"groups": FRAME}, "groups must have shape"),
    "lists as labels": ({"groups": [[1]] * 24}, "got a list in row 0"),
    "too few": ({"groups": [1, 2]}, r"groups must have shape \(24,\)"),
    "no groups": ({"groups": None}, "groups must be given to fit"),
    "NA in X": ({"X": FRAME.astype("Float64").where(KEPT)}, "X must be finite.*row 3, column 'a'"),
    "NA objects": ({"X": FRAME.astype(object).where(KEPT, pd.NA)}, "X must be finite.*row 3"),
    "timestamps": ({"X": FRAME.assign(c=pd.Timestamp("2020"))}, "column 'c', must hold numbers, got datetime64"),
    "durations": ({"X": FRAME.assign(c=pd.Timedelta("1h"))}, "column 'c', must hold numbers, got timedelta64"),
    "text": ({"X": FRAME.assign(b="3")}, "column 'b', must"),
    "text of numbers": ({"X": FRAME.assign(b=FRAME.b.astype(str))}, "column 'b', must"),
    "text in an array": ({"X": X.astype(str)}, "X must be an array of numbers, got one of <U"),
    "text among objects": ({"X": [[1, 2, "3"]] * 24}, "X must be an array of numbers, got"),
    "categories in X": ({"X": FRAME.assign(b=pd.Categorical(["u"] * 24))}, "got category; encode"),
    "complex": ({"X": FRAME.assign(b=1j)}, "Complex data not supported"),
    "large": ({"X": [[10**400, 1, 2]] * 24}, "up to 1e308"),
    "dates in an array": (
        {"X": X.astype("datetime64[s]")},
        "X must be an array of numbers, got one of datetime64",
    ),
    "mixed names": ({"X": FRAME.rename(columns={"b": 1})}, "Feature names are only supported if all"),
    "NA in y": ({"y": pd.Series(Y).astype("Float64").mask(FRAME.index == 2)}, "y must be finite.*row 2"),
    "text in y": ({"y": [str(v) for v in Y]}, "y must be an array of numbers"),
    "flag": ({"settings": {"fit_intercept": "no"}}, "fit_intercept must be true or false, got 'no'"),
    "another flag": ({"settings": {"single_user": 1}}, "single_user must be true or false"),
    "word": ({"settings": {"unknown_users": "x"}}, "unknown_users must be one of population, refuse"),
    "no such column": (
        {"X": FRAME, "settings": {"group_column": "user"}, "groups": None},
        "group_column must be one of X's columns",
    ),
    "both": ({"X": FRAME, "settings": {"group_column": "a"}}, "groups must not be given beside group_column='a'"),
    "single with groups": ({"settings": {"single_user": True}}, "groups must not be given beside single_user"),
    "negative weights": ({"sample_weight": np.full(24, -1.0)}, "sample_weight must hold numbers ≥ 0"),
    "no weight at all": ({"sample_weight": np.zeros(24)}, "sample_weight must hold numbers ≥ 0, not all 0"),
    "weights' shape": ({"sample_weight": [1.0, 2.0]}, "sample_weight.shape"),
    "units out of reach": ({"X": X * 1e-300, "y": Y * 1e300}, "weights must lie between 1e-301 and 1e301"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_in_one_sentence_leave_the_old_fit(name: str) -> None:
    """Whatever a refit is refused for, predictions afterwards are those of the fit before it."""
    call, words = REFUSED[name]
    groups = labels("u", "v", "w")
    fitted = model().fit(X, Y, groups=groups)
    before, state = fitted.predict(X, groups=groups), dict(vars(fitted))
    changes = call.get("settings", {})
    fitted.set_params(**changes)
    given = {"X": X, "y": Y, "groups": groups} | {k: v for k, v in call.items() if k != "settings"}
    with pytest.raises(ct.InputError, match=words) as caught:
        fitted.fit(**given)
    assert "\n" not in str(caught.value)
    fitted.set_params(**{key: state[key] for key in changes})
    assert all(value is state[key] for key, value in vars(fitted).items() if key not in changes)
    np.testing.assert_array_equal(fitted.predict(X, groups=groups), before)


def test_names_of_columns_are_held_to() -> None:
    groups = labels("u", "v", "w")
    fitted = model().fit(FRAME, Y, groups=groups)
    assert fitted.feature_names_in_.tolist() == ["a", "b", "c"]
    assert fitted.feature_names_in_.dtype == object
    assert list(fitted.coef_.columns) == ["a", "b", "c"]
    with pytest.raises(ct.InputError, match="must be in the same order"):
        fitted.predict(FRAME[["b", "a", "c"]], groups=groups)
    with pytest.raises(ct.InputError, match=r"unseen at fit time:\n- z"):
        fitted.predict(FRAME.rename(columns={"a": "z"}), groups=groups)
    for method, who in ((fitted.partial_user, "x"), (fitted.update, groups)):
        with pytest.raises(ct.InputError, match="must be in the same order"):
            method(FRAME[["b", "a", "c"]], Y, who)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        fitted.predict(X, groups=groups)
    fitted.fit(X, Y, groups=groups)
    assert not hasattr(fitted, "feature_names_in_")


def test_other_libraries_frames() -> None:
    pyarrow = importlib.import_module("pyarrow")
    groups = labels("u", "v", "w")
    table = pyarrow.Table.from_pandas(FRAME)
    expected = model().fit(FRAME, Y, groups=groups)
    fitted = model().fit(table, Y, groups=pyarrow.array(groups))
    assert fitted.feature_names_in_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(fitted.weights_, expected.weights_)
    np.testing.assert_array_equal(
        fitted.predict(table, groups=pyarrow.chunked_array([groups])), expected.predict(FRAME, groups=groups)
    )


@pytest.mark.parametrize("dtype", ["Float64", "float32", "object", "float64[pyarrow]"])
def test_numbers_of_every_kind(dtype: str) -> None:
    groups = labels("u", "v", "w")
    fitted = model().fit(FRAME.astype(dtype), pd.Series(Y), groups=groups)
    np.testing.assert_allclose(fitted.weights_[:, 0, 0], [3.0, -3.0, 0.0], atol=0.1)


def test_the_group_column_inside_x() -> None:
    groups = labels("u", "v", "w")
    frame = FRAME.assign(user=groups)[["a", "user", "b", "c"]]
    fitted = model(group_column="user").fit(frame, Y)
    expected = model().fit(FRAME, Y, groups=groups)
    np.testing.assert_array_equal(fitted.weights_, expected.weights_)
    np.testing.assert_array_equal(fitted.predict(frame), expected.predict(FRAME, groups=groups))
    assert fitted.n_features_in_ == 4
    assert fitted.feature_names_in_.tolist() == ["a", "user", "b", "c"]
    assert fitted.features_ == ["a", "b", "c"]
    order = np.random.default_rng(1).permutation(24)
    assert cross_val_score(fitted, frame.iloc[order], Y[order]).min() > 0.95
    array = np.column_stack([np.repeat([7, 8, 9], 8), X])
    by_position = model(group_column=0).fit(array, Y)
    np.testing.assert_allclose(by_position.weights_, expected.weights_)
    with pytest.raises(ct.InputError, match="group_column must be the position"):
        model(group_column="user").fit(array, Y)


def test_groups_are_never_lost_in_cross_validation() -> None:
    """Without routing a search that drops the groups is refused; with it they arrive."""
    order = np.random.default_rng(0).permutation(24)
    x, y, groups = X[order], Y[order], np.array(labels("u", "v", "w"))[order]
    with pytest.raises(ValueError, match="groups must be given to fit"):
        cross_val_score(model(), x, y, groups=groups, cv=GroupKFold(3), error_score="raise")
    with sklearn.config_context(enable_metadata_routing=True):
        scores = cross_val_score(model(), x, y, params={"groups": groups}, cv=3)
        assert scores.min() > 0.99
        search = GridSearchCV(model(), {"rank": [1, "auto"]}, cv=3).fit(x, y, groups=groups)
        assert search.best_score_ > 0.99
        assert search.best_estimator_.predict(x, groups=groups).shape == (24,)
        routed = model().set_fit_request(groups=True, sample_weight=True).set_predict_request(groups=True)
        pipe = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=True), routed.set_score_request(groups=True)
        )
        pipe.fit(x, y, groups=groups, sample_weight=np.ones(24))
        assert pipe.score(x, y, groups=groups) > 0.99
        with pytest.raises(ValueError, match="groups must be given to fit"):
            make_pipeline(StandardScaler(), model().set_fit_request(groups=False)).fit(x, y)


def test_inside_a_pipeline_with_frames() -> None:
    frame = FRAME.assign(user=labels("u", "v", "w"))
    columns = ColumnTransformer(
        [("scale", StandardScaler(), ["a", "b", "c"])], remainder="passthrough", verbose_feature_names_out=False
    ).set_output(transform="pandas")
    pipe = make_pipeline(columns, model(group_column="user")).fit(frame, Y)
    assert pipe.score(frame, Y) > 0.99
    assert "CoLoRARegressor" in pipe._repr_html_()


def test_copies_know_the_same() -> None:
    groups = labels("u", "v", "w")
    fitted = model().fit(X, Y, groups=groups)
    for other in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(other.predict(X, groups=groups), fitted.predict(X, groups=groups))


@pytest.mark.parametrize(
    "y", [np.full(24, 3.0), Y, np.stack([Y, np.full(24, 2.0)], 1)], ids=["constant", "varied", "both"]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_those_of_scikit_learn(y: np.ndarray, weighted: bool) -> None:
    groups = labels("u", "v", "w")
    fitted = model().fit(X, np.stack([Y, Y], 1) if y.ndim == 2 else Y, groups=groups)
    weights = np.arange(1.0, 25.0) if weighted else None
    expected = r2_score(y, fitted.predict(X, groups=groups), sample_weight=weights)
    assert fitted.score(X, y, groups=groups, sample_weight=weights) == pytest.approx(expected)
    constant = model().fit(X, np.full(24, 3.0), groups=groups)
    assert constant.score(X, np.full(24, 3.0), groups=groups) == 1.0
    assert constant.score(X, np.full(24, 4.0), groups=groups) == 0.0
    with pytest.warns(UndefinedMetricWarning):
        assert np.isnan(fitted.score(X[:1], y[:1], groups=groups[:1]))


def test_users_never_seen_are_the_populations_and_said_to_be() -> None:
    groups = labels("u", "v", "w")
    fitted = model().fit(X, Y, groups=groups)
    with pytest.warns(UnknownUserWarning, match="2 rows belong to users that were not seen, such as 'x'"):
        out = fitted.predict(X[:3], groups=["x", "u", "y"])
    population = X[:3] @ fitted.population_coef_[:, 0] + fitted.population_intercept_[0]
    np.testing.assert_allclose(out[[0, 2]], population[[0, 2]])
    assert fitted.knows(["x", "u"]).tolist() == [False, True]
    with pytest.raises(ct.InputError, match="unknown user 'x'"):
        fitted.set_params(unknown_users="refuse").predict(X[:1], groups=["x"])


@pytest.mark.parametrize("estimator", ["hierarchical", "gauss_newton", "altmin"])
def test_users_of_one_row_do_not_stop_the_others(estimator: str) -> None:
    groups = [*labels("u", "v", "w"), "one", "two", "two"]
    x = np.concatenate([X, X[:3]])
    fitted = model(rank="auto", estimator=estimator).fit(x, np.concatenate([Y, Y[:3]]), groups=groups)
    np.testing.assert_allclose(fitted.weights_[:3, 0, 0], [3.0, -3.0, 0.0], atol=0.3)


def test_it_works_without_scikit_learn() -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import numpy as np, colora_theory as ct\n"
        "rng = np.random.default_rng(0); x = rng.standard_normal((40, 2)); g = np.repeat([0, 1], 20)\n"
        "m = ct.CoLoRARegressor(rank=1).fit(x, x[:, 0] * (1 + g), groups=g)\n"
        "assert m.score(x, x[:, 0] * (1 + g), groups=g) > 0.99 and m.get_params()['rank'] == 1\n"
        "assert 'rank=1' in repr(m.set_params(noise='common'))\n"
        "try: ct.CoLoRARegressor().predict(x)\n"
        "except ct.InputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "not fitted" in done.stdout


def test_polars_frames() -> None:
    polars = importlib.import_module("polars")
    groups = labels("u", "v", "w")
    frame = polars.DataFrame({name: FRAME[name].to_numpy() for name in FRAME.columns})
    expected = model().fit(FRAME, Y, groups=groups)
    fitted = model().fit(frame, polars.Series("y", Y), groups=polars.Series(groups))
    assert fitted.feature_names_in_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(fitted.weights_, expected.weights_)
    inside = model(group_column="who").fit(frame.with_columns(who=polars.Series(groups)), Y)
    np.testing.assert_array_equal(inside.weights_, expected.weights_)


def test_two_users_need_to_be_named_and_one_does_not() -> None:
    two = model().fit(X[:16], Y[:16], groups=["u"] * 8 + ["v"] * 8)
    with pytest.raises(ct.InputError, match="the model knows 2 users"):
        two.predict(X[:3])
    one = model().fit(X[:8], Y[:8], groups=["u"] * 8)
    np.testing.assert_array_equal(one.predict(X[:3]), one.predict(X[:3], groups=["u"] * 3))


def test_routing_passes_groups_to_every_method_by_default() -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        routing = get_routing_for_object(model())
    for method in ("fit", "predict", "score"):
        assert getattr(routing, method).requests["groups"] is True


@pytest.mark.parametrize("groups", [pd.DataFrame({"who": list("uvw")}), np.array([["u"], ["v"], ["w"]])])
def test_tables_of_labels_are_refused(groups: object) -> None:
    with pytest.raises(ct.InputError, match=r"shape \(rows,\), one label per row, got shape \(3, 1\)"):
        model().fit(X[:3], Y[:3], groups=groups)


def test_shots_of_every_user_held_out_are_learned_from() -> None:
    """Exactly `shots` rows of a user held out are trained on, as many folds as users allowed, one more refused."""
    which = np.repeat([0, 1, 2], [4, 6, 5])
    for shots in (0, 1, 3):
        held = []
        for train, test in ct.UserShotsSplit(3, shots=shots).split(np.zeros((15, 1)), groups=which):
            (user,) = set(which[test])
            held.append(user)
            assert sorted(np.concatenate([train, test]).tolist()) == list(range(15))
            assert int((which[train] == user).sum()) == shots
        assert sorted(held) == [0, 1, 2]
    with pytest.raises(ct.InputError, match="n_splits must be at most the number of users 3, got 4"):
        next(ct.UserShotsSplit(4).split(np.zeros((15, 1)), groups=which))


def test_positions_of_the_group_column_count_from_both_ends() -> None:
    array = np.column_stack([np.repeat([7, 8, 9], 8), X])
    first = model(group_column=0).fit(array, Y)
    np.testing.assert_array_equal(model(group_column=-4).fit(array, Y).weights_, first.weights_)
    for wrong in (-5, 4):
        with pytest.raises(ct.InputError, match="from 0 to 3"):
            model(group_column=wrong).fit(array, Y)


def test_decimals_are_numbers_and_other_objects_are_not() -> None:
    frame = FRAME.astype(object)
    frame["a"] = [Decimal(repr(float(value))) for value in FRAME["a"]]
    groups = labels("u", "v", "w")
    np.testing.assert_array_equal(
        model().fit(frame, Y, groups=groups).weights_, model().fit(FRAME, Y, groups=groups).weights_
    )
    frame["a"] = [object()] * 24
    with pytest.raises(ct.InputError, match="must be an array of numbers, got <object"):
        model().fit(frame, Y, groups=groups)
