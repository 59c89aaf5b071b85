"""What a fit is called: attributes with the names of users, features and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from colora_theory.regression.fitted import Fitted


@dataclass(frozen=True, eq=False)
class About:
    """Names of what was fitted: all columns, features, and outputs (None: y was one column)."""

    names: NDArray[np.object_] | None
    features: list[Any]
    columns: int
    outputs: list[Any] | None


def attributes(found: Fitted, about: About) -> dict[str, Any]:
    """All attributes of a fitted regressor (see `CoLoRARegressor`)."""
    k = len(found.users)
    index = pd.Index(found.users, dtype=object, name="user", tupleize_cols=False)
    features = pd.Index(about.features, dtype=object, name="feature")
    if about.outputs is None:
        coef: Any = pd.DataFrame(found.coef[:k, :, 0], index, features)
        intercept: Any = pd.Series(found.intercept[:k, 0], index, name="intercept")
    else:
        columns = pd.MultiIndex.from_product([about.outputs, about.features], names=["output", "feature"])
        coef = pd.DataFrame(found.coef[:k].swapaxes(1, 2).reshape(k, -1), index, columns)
        intercept = pd.DataFrame(found.intercept[:k], index, pd.Index(about.outputs, name="output"))
    new: dict[str, Any] = {
        "_fitted": found,
        "_about": about,
        "users_": found.users,
        "coef_": coef,
        "intercept_": intercept,
        "weights_": found.coef[:k],
        "population_coef_": found.coef[k] if found.has_population else None,
        "population_intercept_": found.intercept[k] if found.has_population else None,
        "input_subspace_": found.input_subspace,
        "output_subspace_": found.output_subspace,
        "cores_": found.cores,
        "rank_": found.rank,
        "status_": found.status,
        "n_features_in_": about.columns,
        "features_": about.features,
    }
    if about.names is not None:
        new["feature_names_in_"] = about.names
    return new


def outputs_of(y: Any, count: int) -> list[Any]:
    """Names, or else positions, of the columns of y."""
    return list(y.columns) if isinstance(y, pd.DataFrame) else list(range(count))
