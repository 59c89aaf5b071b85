"""What a posterior predicts of the held-out error of any fit, from the training rows alone."""

from __future__ import annotations

import numpy as np

from colora_theory.errors import InputError
from colora_theory.estimators.base import Fit
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array


def predicted_errors(fit: Fit, posterior: Fit, data: Dataset) -> Array:
    """Predicted mean squared error of every user on fresh rows, shape (num_users,).

    σ_i² + Σ_j q_j ((Ŵ_ij − m_ij)² + s_ij²), averaged over outputs, with posterior means m, standard deviations s
    and noise σ of `posterior`, fitted to the same `data`, and q_j the mean square of input j over all their rows:
    the posterior mean of the error where inputs are uncorrelated, as whitened ones are. Regression only.

    Raises InputError for a posterior without standard errors or noise (`hierarchical` has both).
    """
    errors, noise = posterior.standard_errors, posterior.history.get("noise_std")
    if errors is None or noise is None or data.design != "regression":
        raise InputError("predicted_error needs a regression, and a posterior with standard errors and a noise.")
    energy = np.einsum("kmd,kmd->d", data.covariates, data.covariates) / max(int(data.counts.sum()), 1)
    spread = (fit.weights - posterior.weights) ** 2 + errors**2
    excess = np.einsum("d,kdp->kp", energy, spread).mean(1)
    return np.asarray(np.broadcast_to(np.asarray(noise, float) ** 2, excess.shape) + excess)
