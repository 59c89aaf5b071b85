"""What scikit-learn expects of a regressor, whether or not it is installed."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from colora_theory.errors import InputError, nearest
from colora_theory.model.linalg import Array

if TYPE_CHECKING:

    class BaseEstimator:
        """What is used of scikit-learn's class."""

        def get_params(self, deep: bool = True) -> dict[str, Any]: ...
        def set_params(self, **params: Any) -> Any: ...

else:
    try:
        from sklearn.base import BaseEstimator
    except ImportError:

        class BaseEstimator:
            """Stands in for scikit-learn's class where that is not installed."""

            def get_params(self, deep: bool = True) -> dict[str, Any]:
                """Return the parameters by name."""
                names = list(inspect.signature(type(self).__init__).parameters)[1:]
                return {name: getattr(self, name) for name in names}

            def set_params(self, **params: Any) -> Any:
                """Set parameters by name."""
                for name, value in params.items():
                    setattr(self, name, value)
                return self

            def __repr__(self) -> str:
                return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_params().items())})"


class Regressor(BaseEstimator):
    """A regressor by scikit-learn's conventions, with and without it.

    Metadata routing knows `groups` and `sample_weight`; groups are asked for by default.
    """

    _estimator_type = "regressor"

    def set_params(self, **params: Any) -> Any:
        """Set parameters by name; raises InputError for unknown ones."""
        known = list(inspect.signature(type(self).__init__).parameters)[1:]
        for name in params:
            if name not in known:
                raise InputError(f"unknown parameter {name!r}; {nearest(name, known)}")
        return super().set_params(**params)

    def __sklearn_tags__(self) -> Any:
        """Describe the estimator to scikit-learn, which is imported only by those who ask."""
        from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=True, single_output=True, multi_output=True),
            regressor_tags=RegressorTags(),
            input_tags=InputTags(),
        )


def check_names(fitted: NDArray[np.object_] | None, given: NDArray[np.object_] | None, who: str) -> None:
    """Compare names of columns with those of the fit, in scikit-learn's words."""
    if fitted is None and given is None:
        return
    if given is None:
        warnings.warn(
            f"X does not have valid feature names, but {who} was fitted with feature names", stacklevel=4
        )
        return
    if fitted is None:
        warnings.warn(f"X has feature names, but {who} was fitted without feature names", stacklevel=4)
        return
    if len(fitted) == len(given) and (fitted == given).all():
        return
    message = "The feature names should match those that were passed during fit.\n"
    unseen, missing = sorted(set(given) - set(fitted)), sorted(set(fitted) - set(given))
    for title, names in (("unseen at fit time", unseen), ("seen at fit time, yet now missing", missing)):
        if names:
            listed = [f"- {name}\n" for name in names[:5]] + (["- ...\n"] if len(names) > 5 else [])
            message += f"Feature names {title}:\n{''.join(listed)}"
    if not unseen and not missing:
        message += "Feature names must be in the same order as they were in fit.\n"
    raise InputError(message)


def r2_score(y: Array, predicted: Array, weights: Array | None = None) -> float:
    """Coefficient of determination as scikit-learn defines it, mean over outputs.

    Constant responses: 1 when predicted exactly, else 0. Fewer than two rows: NaN with a warning.
    """
    if len(y) < 2:
        category: type[Warning] = UserWarning
        with contextlib.suppress(ImportError):
            from sklearn.exceptions import UndefinedMetricWarning as category  # type: ignore[no-redef]
        warnings.warn("R^2 score is not well-defined with less than two samples.", category, stacklevel=3)
        return float("nan")
    y, predicted = y.reshape(len(y), -1), predicted.reshape(len(y), -1)
    each = np.ones(len(y)) if weights is None else weights
    residual = each @ (y - predicted) ** 2
    total = each @ (y - np.average(y, axis=0, weights=each)) ** 2
    varied = total != 0.0
    scores = np.where(residual == 0.0, 1.0, 0.0)
    scores[varied] = 1.0 - residual[varied] / total[varied]
    return float(scores.mean())


def not_fitted(who: str) -> Exception:
    """scikit-learn's NotFittedError where it is installed, a plain InputError elsewhere."""
    text = f"This {who} instance is not fitted yet; call fit first."
    try:
        from sklearn.exceptions import NotFittedError
    except ImportError:
        return InputError(text)
    error: Exception = NotFittedError(text)
    return error
