"""Pictures of a fitted table: users' coefficients, shared directions, shrinkage, residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from colora_theory.errors import InputError
from colora_theory.figures.style import COLOURS, MARKERS, context, pyplot, safe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from colora_theory.regression.regressor import CoLoRARegressor

#: Most users that are drawn one by one.
_MOST = 40


def plot_users(model: CoLoRARegressor, feature: Any = None, *, style: str = "paper") -> Figure:
    """Every user's coefficient of one feature with its 95 % interval, in order, and the population's.

    `feature` is a name or position; None: the one in which users differ most. Of many users, evenly chosen ones.
    """
    about, coef = model.features_, model.weights_[:, :, 0]
    if feature is None:
        spread = coef.std(0) * model._fitted.units.scale
        feature = about[int(np.argmax(spread))]
    if feature not in about:
        raise InputError(f"feature must be one of {', '.join(map(str, about))}, got {feature!r}.")
    j = about.index(feature)
    order = np.argsort(coef[:, j], kind="stable")
    if len(order) > _MOST:
        order = order[np.unique(np.linspace(0, len(order) - 1, _MOST).round().astype(int))]
    errors = model.standard_errors(order)[:, j, 0]
    with context(style):
        figure, axes = pyplot().subplots(figsize=(3.6, 0.7 + 0.14 * len(order)), layout="constrained")
        places = np.arange(len(order))
        axes.errorbar(
            coef[order, j],
            places,
            xerr=1.96 * errors,
            fmt=MARKERS[0],
            color=COLOURS[0],
            ms=3,
            lw=0.8,
            label="user",
        )
        middle = float(np.asarray(model.population_coef_)[j, 0])
        axes.axvline(middle, color=COLOURS[1], lw=1, label="population")
        axes.set_yticks(places, [safe(str(model.users_[i]))[:24] for i in order])
        axes.set_xlabel(safe(f"coefficient of {feature}"))
        axes.set_ylim(-1, len(order))
        axes.legend(loc="lower right")
        axes.set_title("Users' coefficients, 95 % intervals")
    return figure


def plot_loadings(model: CoLoRARegressor, *, style: str = "paper") -> Figure:
    """Loadings of the shared directions on the features, in standard units."""
    found = model._fitted
    if found.population is None:
        raise InputError("loadings need estimator='hierarchical'.")
    loadings = found.population.components[0].hyper.u
    names = [*map(str, model.features_), *(["(intercept)"] if found.units.intercept else [])]
    with context(style):
        figure, axes = pyplot().subplots(figsize=(3.6, 0.9 + 0.18 * len(names)), layout="constrained")
        count = loadings.shape[1]
        places = np.arange(len(names))
        for j in range(count):
            axes.barh(
                places + 0.8 * (j + 0.5) / count - 0.4,
                loadings[:, j],
                height=0.8 / count,
                color=COLOURS[j % len(COLOURS)],
                label=f"direction {j + 1}",
            )
        axes.set_yticks(places, [safe(name)[:24] for name in names])
        axes.invert_yaxis()
        axes.axvline(0.0, color="black", lw=0.6)
        axes.set_xlabel("loading (standard units)")
        axes.set_title("Directions in which users differ")
        if count:
            axes.legend()
        else:
            axes.text(0.5, 0.5, "users share no direction", transform=axes.transAxes, ha="center")
    return figure


def plot_shrinkage(model: CoLoRARegressor, *, style: str = "paper") -> Figure:
    """How much of every user is the population's, against the number of its rows."""
    found = model._fitted
    if found.population is None or found.rows is None:
        raise InputError("shrinkage needs estimator='hierarchical'.")
    rows = found.rows
    shrinkage = 1.0 - found.population.effective(rows, found.noise) / (rows.d * rows.p)
    with context(style):
        figure, axes = pyplot().subplots(figsize=(3.6, 2.6), layout="constrained")
        axes.scatter(np.maximum(rows.counts, 0.5), shrinkage, s=12, color=COLOURS[0], alpha=0.7)
        axes.set_xscale("log")
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("rows of the user")
        axes.set_ylabel("shrinkage")
        axes.set_title("1: the population's coefficients, 0: its own rows'")
    return figure


def plot_residuals(model: CoLoRARegressor, *, style: str = "paper") -> Figure:
    """Residuals of the rows that were fitted, against their predictions (at most 2 000 rows)."""
    residuals = model._fitted.residuals
    if residuals is None:
        raise InputError("residuals are known after fit.")
    with context(style):
        figure, axes = pyplot().subplots(figsize=(3.6, 2.6), layout="constrained")
        axes.scatter(residuals.sample[:, 0], residuals.sample[:, 1], s=6, color=COLOURS[0], alpha=0.5)
        axes.axhline(0.0, color="black", lw=0.6)
        axes.set_xlabel("prediction")
        axes.set_ylabel("residual")
        axes.set_title("Residuals")
    return figure
