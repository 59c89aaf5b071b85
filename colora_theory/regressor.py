"""A scikit-learn style front door for own data: one table with a column that says whose row it is."""

from __future__ import annotations

import inspect
from collections.abc import Hashable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from colora_theory.errors import InputError
from colora_theory.estimators import get
from colora_theory.guarantees.held_out import HeldOutCertificate, certify
from colora_theory.model.dataset import Dataset, numbers
from colora_theory.model.linalg import Array, minimum_norm

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class CoLoRARegressor:
    """Collaborative low-rank regression: users share a subspace, each has a small core of its own.

    Parameters
    ----------
    rank : shared rank r, a pair (rank_in, rank_out), or "auto" (cross-validated).
    method : name of a shared-subspace estimator: "gauss_newton", "altmin", "altgdmin", "fedrep", "spectral".
    fit_intercept : whether every user has an intercept (covariates and responses are centred user by user).
    random_state : seed of whatever is random in the method, a non-negative integer.

    Attributes after fit
    --------------------
    users_ : the distinct group labels, in order of their first row.
    coef_ : weights, shape (num_users, dim_in, dim_out).
    intercept_ : shape (num_users, dim_out).
    input_subspace_, output_subspace_, cores_ : the shared and personal parts.
    rank_ : the rank used. n_features_in_ : dim_in.

    >>> rng = np.random.default_rng(0)
    >>> users = np.repeat(["ada", "bo", "cy", "di"], 30)
    >>> slope = {"ada": 1.0, "bo": -2.0, "cy": 0.5, "di": 3.0}
    >>> X = rng.standard_normal((120, 5))
    >>> y = np.array([slope[u] for u in users]) * X[:, 0]
    >>> model = CoLoRARegressor(rank=1).fit(X, y, groups=users)
    >>> bool(np.allclose(model.predict(X, groups=users), y))
    True
    """

    _estimator_type = "regressor"

    def __init__(
        self,
        rank: int | tuple[int, int] | str = "auto",
        *,
        method: str = "gauss_newton",
        fit_intercept: bool = True,
        random_state: int = 0,
    ) -> None:
        self.rank = rank
        self.method = method
        self.fit_intercept = fit_intercept
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> CoLoRARegressor:
        """Set parameters by name."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise InputError(f"unknown parameter {name!r}; allowed: {', '.join(known)}.")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"CoLoRARegressor({', '.join(f'{k}={v!r}' for k, v in self.get_params().items())})"

    def __sklearn_tags__(self) -> Any:
        """Describe the estimator to scikit-learn, which is imported only by those who ask."""
        from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=True, single_output=True, multi_output=True),
            regressor_tags=RegressorTags(),
            input_tags=InputTags(),
        )

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> CoLoRARegressor:
        """Fit shared subspaces and every user's core.

        Parameters
        ----------
        X : shape (rows, dim_in). y : shape (rows,) or (rows, dim_out).
        groups : shape (rows,), the user of every row; None: all rows are one user's.
        """
        if y is None:
            raise InputError("fit requires y to be passed, but the target y is None.")
        x, target = self._check(X, y)
        labels = self._labels(groups, len(x))
        self.users_ = list(dict.fromkeys(labels))
        rows = [np.flatnonzero([label == user for label in labels]) for user in self.users_]
        flat = target[:, None] if target.ndim == 1 else target
        means_x = np.array([x[r].mean(0) if self.fit_intercept else np.zeros(x.shape[1]) for r in rows])
        means_y = np.array([flat[r].mean(0) if self.fit_intercept else np.zeros(flat.shape[1]) for r in rows])
        data = Dataset.from_arrays(
            [x[r] - m for r, m in zip(rows, means_x, strict=True)],
            [flat[r] - m for r, m in zip(rows, means_y, strict=True)],
        )
        seed = self.random_state
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise InputError(f"random_state must be a non-negative integer, got {seed!r}.")
        estimate = get(self.method).from_params(rank=self.rank).fit(data, np.random.default_rng(seed))
        if estimate.input_subspace is None or estimate.output_subspace is None or estimate.cores is None:
            raise InputError(
                f"method must be one that learns shared subspaces, such as altmin, got {self.method!r}."
            )
        self.input_subspace_, self.output_subspace_ = estimate.input_subspace, estimate.output_subspace
        self.cores_, self.coef_ = estimate.cores, estimate.weights
        self.rank_ = self.cores_.shape[1:]
        self.status_, self.n_features_in_, self._one_output = estimate.status, x.shape[1], target.ndim == 1
        self.intercept_ = means_y - np.einsum("kd,kdp->kp", means_x, self.coef_)
        return self

    def predict(self, X: ArrayLike, groups: ArrayLike | None = None) -> Array:
        """Return predictions, shape (rows,) or (rows, dim_out), each row by its user's weights."""
        if not hasattr(self, "coef_"):
            raise _not_fitted()
        x, _ = self._check(X)
        if x.shape[1] != self.n_features_in_:
            raise InputError(
                f"X has {x.shape[1]} features, but CoLoRARegressor is expecting {self.n_features_in_} features as "
                "input"
            )
        labels = self._labels(groups, len(x))
        if groups is None and len(self.users_) > 1:
            raise InputError(f"groups must be given: the model knows {len(self.users_)} users.")
        number = {user: i for i, user in enumerate(self.users_)}
        for label in labels:
            if groups is not None and label not in number:
                raise InputError(
                    f"unknown user {label!r} in groups; fit it too, or use partial_user for its few samples."
                )
        which = np.array([number[label] if groups is not None else 0 for label in labels], dtype=int)
        out = np.einsum("nd,ndp->np", x, self.coef_[which]) + self.intercept_[which]
        return out[:, 0] if self._one_output else out

    def partial_user(self, X_new: ArrayLike, y_new: ArrayLike, user: Hashable | None = None) -> Array:
        """Learn a **new** user from few samples: its core in the frozen subspaces, by least squares.

        Returns the new user's weights, shape (dim_in, dim_out). With `user` the label is added to the model, so
        that `predict` knows it. About rank_in samples suffice (rank_in + 1 with an intercept).
        """
        if not hasattr(self, "coef_"):
            raise _not_fitted()
        x, target = self._check(X_new, y_new)
        flat = target[:, None] if target.ndim == 1 else target
        if x.shape[1] != self.n_features_in_ or flat.shape[1] != self.coef_.shape[2]:
            raise InputError(
                f"new samples must have {self.n_features_in_} inputs and {self.coef_.shape[2]} outputs, "
                f"got {x.shape[1]} and {flat.shape[1]}."
            )
        if user in self.users_:
            raise InputError(
                f"user {user!r} is known already; choose another label, or fit again with its samples."
            )
        mean_x, mean_y = (
            (x.mean(0), flat.mean(0)) if self.fit_intercept else (np.zeros(x.shape[1]), np.zeros(flat.shape[1]))
        )
        features = (x - mean_x) @ self.input_subspace_
        targets = (flat - mean_y) @ self.output_subspace_
        core = minimum_norm(features[None], targets[None])[0]
        weights = np.matmul(self.input_subspace_ @ core, self.output_subspace_.T)
        if user is not None:
            self.users_ = [*self.users_, user]
            self.cores_ = np.concatenate([self.cores_, core])
            self.coef_ = np.concatenate([self.coef_, weights])
            self.intercept_ = np.concatenate([self.intercept_, (mean_y - mean_x @ weights[0])[None]])
        return np.asarray(weights[0])

    def score(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> float:
        """Coefficient of determination R² of the predictions (mean over outputs)."""
        truth, predicted = numbers("y", y), self.predict(X, groups)
        if truth.shape != predicted.shape:
            raise InputError(f"y must have shape {predicted.shape} like the predictions, got {truth.shape}.")
        residual = ((truth - predicted) ** 2).sum(0)
        total = ((truth - truth.mean(0)) ** 2).sum(0)
        return float(np.mean(1.0 - residual / np.where(total > 0, total, 1.0)))

    def certify(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        *,
        eta: float = 0.01,
        noise_std: float | None = None,
    ) -> HeldOutCertificate:
        """Return an upper confidence limit of the weights' summed excess risk, from rows that were not fitted.

        Parameters are those of `colora_theory.certify`; `limit` is infinite unless every user has a row. Assumes
        Gaussian features and noise; means that the features or the errors have only make the limit cautious.
        """
        predicted = self.predict(X, groups)
        x, target = self._check(X, y)
        if target.shape != predicted.shape:
            raise InputError(f"y must have shape {predicted.shape} like the predictions, got {target.shape}.")
        labels = np.array(
            [self.users_.index(each) if groups is not None else 0 for each in self._labels(groups, len(x))]
        )
        flat = target[:, None] if target.ndim == 1 else target
        rows = [np.flatnonzero(labels == i) for i in range(len(self.users_))]
        held_out = Dataset.from_arrays(
            [x[r] for r in rows], [flat[r] - self.intercept_[i] for i, r in enumerate(rows)]
        )
        return certify(SimpleNamespace(weights=self.coef_), held_out, eta, noise_std)

    @staticmethod
    def _labels(groups: ArrayLike | None, rows: int) -> list[Any]:
        if groups is None:
            return [0] * rows
        labels = np.asarray(groups)
        if labels.shape != (rows,):
            raise InputError(f"groups must have shape ({rows},), one label per row, got {labels.shape}.")
        found = list(labels.tolist())
        if any(label is None or label != label for label in found):
            raise InputError("groups must name a user in every row, got a missing label; remove those rows.")
        return found

    @staticmethod
    def _check(X: Any, y: Any = None) -> tuple[Array, Array]:
        """Validate a table and its responses, with scikit-learn's own words where it prescribes them."""
        if hasattr(X, "tocsr"):
            raise TypeError("X must be a dense array, got a sparse matrix; use X.toarray().")
        x = _floats("X", X)
        if x.ndim != 2:
            raise InputError(f"Expected 2D array, got {x.ndim}D array instead. Reshape your data.")
        if x.shape[0] == 0:
            raise InputError(f"Found array with 0 sample(s) (shape={x.shape}) while a minimum of 1 is required.")
        if x.shape[1] == 0:
            raise InputError(f"0 feature(s) (shape={x.shape}) while a minimum of 1 is required.")
        if not np.isfinite(x).all():
            raise InputError("X must be finite, got NaN or infinity (inf); remove or impute those rows.")
        if y is None:
            return x, np.empty(0)
        target = _floats("y", y)
        if target.ndim not in (1, 2) or len(target) != len(x):
            raise InputError(f"y must have one row per row of X ({len(x)}), got shape {target.shape}.")
        if not np.isfinite(target).all():
            raise InputError("y must be finite, got NaN or infinity (inf); remove those rows.")
        return x, target


def _floats(name: str, value: Any) -> Array:
    """`value` as floats, whatever their shape and whether finite or not."""
    if np.ma.is_masked(value):
        raise InputError(f"{name} must be complete, got masked entries; remove or impute those rows.")
    raw = np.asarray(value)
    if np.iscomplexobj(raw):
        raise InputError("Complex data not supported")
    if raw.dtype.kind not in "biufO":
        raise InputError(f"{name} must be an array of numbers, got one of {raw.dtype}.")
    try:
        return np.asarray(raw, dtype=float)
    except (ValueError, OverflowError):
        raise InputError(f"{name} must be an array of numbers, got {type(value).__name__}.") from None


def _not_fitted() -> Exception:
    """scikit-learn's NotFittedError where it is installed, a plain InputError elsewhere."""
    text = "This CoLoRARegressor instance is not fitted yet; call fit first."
    try:
        from sklearn.exceptions import NotFittedError
    except ImportError:
        return InputError(text)
    error: Exception = NotFittedError(text)
    return error
