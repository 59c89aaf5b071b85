"""Certified error of a fitted table: an upper confidence limit from rows that the fit has not seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from colora_theory.errors import InputError
from colora_theory.guarantees.held_out import HeldOutCertificate, certify
from colora_theory.model.dataset import Dataset
from colora_theory.regression.tables import response_of


class Certified:
    """Gives a regressor `certify`; reads its predictions only."""

    def certify(
        self, X: Any, y: Any, groups: Any = None, *, eta: float = 0.01, noise_std: float | None = None
    ) -> HeldOutCertificate:
        """Return an upper confidence limit of the weights' summed excess risk, from rows that were not fitted.

        Parameters are those of `colora_theory.certify`; `limit` is infinite unless every user has a row. Assumes
        Gaussian features and noise; means that the features or the errors have only make the limit cautious.
        Raises InputError for rows of users that the fit does not know, and for responses of another shape.
        """
        model: Any = self
        predicted = model.predict(X, groups)
        table, which = model._read(X, groups)
        target = response_of(y, len(predicted))
        if target.shape != predicted.shape:
            raise InputError(f"y must have shape {predicted.shape} like the predictions, got {target.shape}.")
        if (which >= len(model.users_)).any():
            raise InputError("certify takes rows of users that were fitted; leave the others out.")
        left = (target - predicted).reshape(len(predicted), -1)
        users = len(model.users_)
        rows = [np.flatnonzero(which == i) for i in range(users)]
        held_out = Dataset.from_arrays([table.x[r] for r in rows], [left[r] for r in rows])
        # what the residuals say of the error is what they would say of it as the weight of a fit that is zero
        nothing = SimpleNamespace(weights=np.zeros((users, table.x.shape[1], left.shape[1])))
        return certify(nothing, held_out, eta, noise_std)
