"""The regressor for a person's own table: many users, each with coefficients of its own, learned together."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from colora_theory.errors import InputError
from colora_theory.model.checks import check_flag, check_integer, check_kind, check_real, check_word
from colora_theory.model.linalg import Array
from colora_theory.regression.certificate import Certified
from colora_theory.regression.fitted import Fitted, residuals_of
from colora_theory.regression.fitting import fit_population, fit_shared
from colora_theory.regression.labels import key_of, labels_of, numbered
from colora_theory.regression.naming import About, attributes, outputs_of
from colora_theory.regression.scikit import Regressor, check_names, not_fitted, r2_score
from colora_theory.regression.summary import Summary, alignment_of, summarised
from colora_theory.regression.tables import Table, response_of, table_of, weights_of

if TYPE_CHECKING:
    from collections.abc import Hashable

    from colora_theory.estimators.alignment import Alignment


class UnknownUserWarning(UserWarning):
    """Rows of users never seen are predicted with the population's coefficients."""


class CoLoRARegressor(Certified, Regressor):
    """Linear regression for many users at once: coefficients of their own, learned from each other.

    With the default estimator `hierarchical` (empirical Bayes) user i's coefficients are a draw from a population
    whose mean, whose shared directions (`rank` of them), whose deviations and whose noise are estimated from all
    users; every user gets the posterior mean. Columns are standardised inside, coefficients are in the units of
    the table.

    Parameters
    ----------
    rank : number of shared directions r, a pair (rank_in, rank_out), 0, or "auto": averaged over by probability
        (`hierarchical`), or cross-validated (others).
    estimator : "hierarchical", or another one that learns shared subspaces: "gauss_newton", "altmin", "altgdmin",
        "fedrep", "spectral". The others have no population and no standard errors.
    fit_intercept : whether every user has an intercept.
    group_column : the column of X (its name, or its position in an array) that says whose row it is; None: pass
        `groups` to every method.
    single_user : True: all rows are one user's, and no groups are given.
    unknown_users : "population" (users never seen are predicted by the population's coefficients, with an
        `UnknownUserWarning`) or "refuse".
    noise : "common" to all users, or "per_user".
    random_state : seed of whatever is random in the estimator, a non-negative integer.

    Attributes
    ----------
    users_ : the distinct labels, in order of their first row.
    coef_ : data frame, one row per user and one column per feature; with several outputs the columns are
        (output, feature). intercept_ : series by user, or data frame (users × outputs).
    weights_ : the same coefficients as an array, shape (num_users, dim_in, dim_out).
    population_coef_, population_intercept_ : shapes (dim_in, dim_out) and (dim_out,), of a user never seen.
    input_subspace_, output_subspace_, cores_ : shared and personal parts, coefficients less the population's.
    rank_ : (rank_in, rank_out) used, or the most probable. status_ : "converged", or what else the fit says.
    n_features_in_, feature_names_in_ : columns of X, the group column included; names where all are text.
    features_ : names or positions of the features.

    A fit that fails leaves the old state. Noise may be correlated between outputs: see `output_noise`.

    >>> rng = np.random.default_rng(0)
    >>> users = np.repeat(["ada", "bo", "cy", "di"], 30)
    >>> slope = {"ada": 1.0, "bo": -2.0, "cy": 0.5, "di": 3.0}
    >>> X = rng.standard_normal((120, 5))
    >>> y = np.array([slope[u] for u in users]) * X[:, 0]
    >>> model = CoLoRARegressor().fit(X, y, groups=users)
    >>> bool(np.allclose(model.predict(X, groups=users), y, atol=1e-2))
    True
    """

    # groups decide what is fitted: scikit-learn's metadata routing passes them on unless told otherwise
    __metadata_request__fit = {"groups": True}  # noqa: RUF012 (read by scikit-learn under this very name)
    __metadata_request__predict = {"groups": True}  # noqa: RUF012
    __metadata_request__score = {"groups": True}  # noqa: RUF012

    users_: list[Any]
    features_: list[Any]
    weights_: Array
    rank_: tuple[int, int]
    status_: str
    feature_names_in_: NDArray[np.object_]
    population_coef_: Array | None
    _fitted: Fitted
    _about: About

    def __init__(
        self,
        rank: int | tuple[int, int] | str = "auto",
        *,
        estimator: str = "hierarchical",
        fit_intercept: bool = True,
        group_column: Any = None,
        single_user: bool = False,
        unknown_users: str = "population",
        noise: str = "common",
        random_state: int = 0,
    ) -> None:
        self.rank = rank
        self.estimator = estimator
        self.fit_intercept = fit_intercept
        self.group_column = group_column
        self.single_user = single_user
        self.unknown_users = unknown_users
        self.noise = noise
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> CoLoRARegressor:
        """Fit the population and every user.

        Parameters
        ----------
        X : shape (rows, dim_in): an array or data frame of numbers. y : shape (rows,) or (rows, dim_out).
        groups : shape (rows,), the user of every row; labels of any hashable type.
        sample_weight : shape (rows,), ≥ 0: a row of weight 2 counts as two rows.

        Raises InputError for anything but finite numbers, for missing groups, and for numbers out of reach.
        """
        self._check_parameters()
        table = table_of(X, self.group_column)
        target = response_of(y, len(table.x))
        weights = weights_of(sample_weight, len(table.x))
        labels = self._labels(table, groups)
        if labels is None:
            raise InputError(
                "groups must be given to fit: pass groups=labels, or name the column with group_column=…; "
                "single_user=True fits all rows as one user's. (Cross-validation passes groups on only with "
                "sklearn.set_config(enable_metadata_routing=True) and params={'groups': labels}.)"
            )
        users, which = numbered(labels)
        flat = target[:, None] if target.ndim == 1 else target
        if self.estimator == "hierarchical":
            found = fit_population(table.x, flat, which, users, weights, self.rank, self.fit_intercept, self.noise)
        else:
            generator = np.random.default_rng(self.random_state)
            found = fit_shared(
                table.x, flat, which, users, weights, self.rank, self.fit_intercept, self.estimator, generator
            )
        about = About(
            names=table.names,
            features=table.features,
            columns=table.columns,
            outputs=None if target.ndim == 1 else outputs_of(y, flat.shape[1]),
        )
        found = replace(found, residuals=residuals_of(found, table.x, flat, which, weights))
        self._store(found, about)
        return self

    def predict(self, X: Any, groups: Any = None, return_std: bool = False) -> Array | tuple[Array, Array]:
        """Predictions, shape (rows,) or (rows, dim_out), each row by its user's coefficients.

        With `return_std` also the standard deviation of a new response, noise included (shape as the
        predictions). Users never seen: see `unknown_users`; `knows` tells which rows are theirs.
        """
        check_flag("return_std", return_std)
        found, about = self._state()
        table, which = self._read(X, groups)
        out = found.predictions(table.x, which)
        if not return_std:
            return out if about.outputs is not None else out[:, 0]
        deviation = found.deviations(table.x, which)
        return (out, deviation) if about.outputs is not None else (out[:, 0], deviation[:, 0])

    def predict_interval(self, X: Any, groups: Any = None, level: float = 0.95) -> pd.DataFrame:
        """Intervals that hold a new response with probability `level`: columns low, prediction and high.

        With several outputs the columns are (output, low), … Student's t where few rows tell the noise.
        """
        check_real("level", level, 1e-6, 1.0 - 1e-9)
        found, about = self._state()
        out, deviation = self.predict(X, groups, return_std=True)
        out, deviation = out.reshape(len(out), -1), deviation.reshape(len(out), -1)
        wide = float(stdtrit(found.freedom, 0.5 + 0.5 * level)) * deviation
        parts = [
            pd.DataFrame({"low": out[:, o] - wide[:, o], "prediction": out[:, o], "high": out[:, o] + wide[:, o]})
            for o in range(out.shape[1])
        ]
        frame = (
            parts[0] if about.outputs is None else pd.concat(dict(zip(about.outputs, parts, strict=True)), axis=1)
        )
        if isinstance(X, pd.DataFrame):
            frame.index = X.index
        return frame

    def knows(self, groups: Any) -> NDArray[np.bool_]:
        """Whether the model has seen the user of every row, shape (rows,)."""
        numbers = self._state()[0].numbers
        return np.array([key_of(label) in numbers for label in labels_of("groups", groups)], dtype=bool)

    def score(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> float:
        """Coefficient of determination R² of the predictions, mean over outputs; as scikit-learn's `r2_score`."""
        predicted = self.predict(X, groups)
        assert isinstance(predicted, np.ndarray)
        try:
            truth = response_of(y, len(predicted))
        except InputError as error:
            if "one row per row" not in str(error):
                raise
            truth = np.empty(0)
        if truth.shape != predicted.shape:
            raise InputError(f"y must have shape {predicted.shape} like the predictions, got {np.shape(y)}.")
        return r2_score(truth, predicted, weights_of(sample_weight, len(truth)))

    def partial_user(self, X_new: Any, y_new: Any, user: Hashable | None = None) -> Array:
        """Learn a **new** user from few rows: its posterior given the population, which stays as it is.

        Returns the user's coefficients, shape (dim_in, dim_out). With `user` the label is added to the model, so
        that `predict` knows it. One row is enough, and no row gives the population's coefficients.
        """
        found, about = self._state()
        if user is not None:
            (label,) = labels_of("user", [user], 1)
            if key_of(label) in found.numbers:
                raise InputError(
                    f"user {user!r} is known already; choose another label, or give its rows to update."
                )
        table, target = self._few(X_new, y_new, found)
        added = found.with_rows(table.x, target, np.zeros(len(target), dtype=np.int64), [user])
        if user is not None:
            self._store(added, about)
        return np.asarray(added.coef[len(found.users)])

    def update(self, X: Any, y: Any, groups: Any = None) -> CoLoRARegressor:
        """Add rows of users, known or new: their posteriors given the population, which stays as it is.

        Cheap: only these users are computed again. Fit again when many rows have come.
        """
        found, about = self._state()
        table, target = self._few(X, y, found)
        labels = self._labels(table, groups)
        if labels is None:
            raise InputError("groups must be given to update: the user of every row.")
        users, which = numbered(labels)
        self._store(found.with_rows(table.x, target, which, users), about)
        return self

    def standard_errors(self, numbers: Any = None) -> Array:
        """Posterior standard deviations of coefficients, shape (users, dim_in, dim_out).

        `numbers`: positions in `users_`; None: all users.
        """
        found, _ = self._state()
        every = np.arange(len(found.users))
        return found.standard_errors(every if numbers is None else every[np.asarray(numbers)])

    def summary(self) -> Summary:
        """What was learned, as text (`print(model.summary())`) and as data frames (`.variances`, `.users`)."""
        found, about = self._state()
        return summarised(found, about)

    @property
    def alignment_(self) -> Alignment:
        """A test per user that its coefficients lie in the model that the others share (see `alignment_test`)."""
        found, _ = self._state()
        return alignment_of(found)

    # --- inside --------------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        for name in ("fit_intercept", "single_user"):
            check_flag(name, getattr(self, name))
        check_kind("estimator", self.estimator, "str")
        check_word("unknown_users", self.unknown_users, ("population", "refuse"))
        check_word("noise", self.noise, ("common", "per_user"))
        check_integer("random_state", self.random_state, 0)
        if self.single_user and self.group_column is not None:
            raise InputError(f"single_user=True excludes group_column, got group_column={self.group_column!r}.")

    def _labels(self, table: Table, groups: Any) -> list[Any] | None:
        """The user of every row; None when nobody said."""
        if groups is not None and (table.groups is not None or self.single_user):
            other = "single_user=True" if self.single_user else f"group_column={self.group_column!r}"
            raise InputError(f"groups must not be given beside {other}; choose one of them.")
        if self.single_user:
            return [0] * len(table.x)
        if table.groups is not None:
            return labels_of(f"the column {self.group_column!r} of X", table.groups, len(table.x))
        return None if groups is None else labels_of("groups", groups, len(table.x))

    def _read(self, X: Any, groups: Any) -> tuple[Table, NDArray[np.int64]]:
        """A table to predict, and every row's number among the users (the last number: the population)."""
        found, _ = self._state()
        table = self._table(X)
        labels = self._labels(table, groups)
        if labels is None:
            if len(found.users) > 1:
                raise InputError(f"groups must be given: the model knows {len(found.users)} users.")
            return table, np.zeros(len(table.x), dtype=np.int64)
        which = np.array([found.numbers.get(key_of(label), -1) for label in labels], dtype=np.int64)
        if (which < 0).any():
            stranger = labels[int(np.argmin(which))]
            if self.unknown_users == "refuse" or not found.has_population:
                raise InputError(
                    f"unknown user {stranger!r} in groups; fit it too, or use partial_user for its few samples."
                )
            warnings.warn(
                f"{int((which < 0).sum())} rows belong to users that were not seen, such as {stranger!r}: "
                "predicted with the population's coefficients; partial_user learns from a few rows of theirs.",
                UnknownUserWarning,
                stacklevel=3,
            )
        return table, np.where(which < 0, len(found.users), which)

    def _table(self, X: Any) -> Table:
        _, about = self._state()
        table = table_of(X, self.group_column)
        check_names(about.names, table.names, type(self).__name__)
        if table.columns != about.columns:
            raise InputError(
                f"X has {table.columns} features, but {type(self).__name__} is expecting {about.columns} features "
                "as input"
            )
        return table

    def _few(self, X: Any, y: Any, found: Fitted) -> tuple[Table, Array]:
        try:
            table = self._table(X)
        except InputError as error:
            if "is expecting" not in str(error):
                raise
            raise InputError(f"new samples must have {found.coef.shape[1]} inputs: {error}.") from None
        target = response_of(y, len(table.x))
        flat = target[:, None] if target.ndim == 1 else target
        if flat.shape[1] != found.coef.shape[2]:
            raise InputError(f"new samples must have {found.coef.shape[2]} outputs, got {flat.shape[1]}.")
        return table, flat

    def _state(self) -> tuple[Fitted, About]:
        if not hasattr(self, "_fitted"):
            raise not_fitted(type(self).__name__)
        return self._fitted, self._about

    def _store(self, found: Fitted, about: About) -> None:
        """Set all attributes together: whatever failed, failed before."""
        new = attributes(found, about)
        for name in [each for each in vars(self) if each.endswith("_") and not each.startswith("_")]:
            delattr(self, name)  # names of features that this fit does not have
        vars(self).update(new)
