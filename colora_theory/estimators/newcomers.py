"""New users: what a fit of others gives to somebody who comes with a few samples of their own."""

from __future__ import annotations

import dataclasses

from colora_theory.estimators.base import Fit
from colora_theory.estimators.frozen_subspace import fit_in_subspaces
from colora_theory.estimators.full_finetuning import FullFineTuning
from colora_theory.model.dataset import Dataset


def serve(fit: Fit, newcomer: Dataset) -> Fit:
    """The fit with the new user's weight: its core by least squares in the learned subspaces.

    Methods without shared subspaces tune the new user alone. Minimum norm where the samples are too few.
    """
    if fit.input_subspace is None or fit.output_subspace is None:
        own = FullFineTuning().fit(newcomer)
    else:
        own = fit_in_subspaces(newcomer, fit.input_subspace, fit.output_subspace)
    return dataclasses.replace(fit, newcomer=own.weights[0])
