"""What a fit records on its way: one typed record for all estimators, read by attribute or by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from colora_theory.model.linalg import Array


def rescaled(value: Any, powers: tuple[int, int], e: int, f: int) -> Any:
    """A number, array or list with these powers of the units 2^e and 2^f, multiplied back; None stays."""
    if isinstance(value, list):
        return [rescaled(each, powers, e, f) for each in value]
    return None if value is None else np.ldexp(value, powers[0] * e + powers[1] * f)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace(Mapping[str, Any]):
    """The record of a fit; what was not recorded is None, and absent when the trace is read as a mapping.

    Attributes
    ----------
    objective : after every core step, or after every half step when `half_step` names them.
    half_step : "cores", "input_subspace" or "output_subspace" for every entry of `objective`.
    change : sine between the subspaces of successive sweeps.
    input_subspaces, output_subspaces : after every sweep, the start first.
    fresh_samples : True when every half step had samples of its own, so that no step can be held against another.
    contestants : runs from other starts that competed.
    late_contraction : factors by which the residual shrinks in exact sweeps close to the limit.
    weight_changes : W_i − W_0 after every gradient step, shape (steps + 1, num_users, dim_in, dim_out).
    personal : personal parts D_i, shape (num_users, dim_in, dim_out). teacher : the teacher's W_i − W_0.
    penalty : the penalty that was used, in the units of `Estimator.penalty_units`.
    tuned : value of the parameter that cross-validation chose (see `Tuned`).
    log_posterior : what empirical Bayes maximises, after every step.
    log_likelihood : marginal log likelihood of all responses.
    rank : (rank_in, rank_out) that was chosen. rank_probabilities, rank_weights : of every rank_in.
    exactly_shared : probability that no user strays from the shared model.
    noise_std : of the responses, one number or one per user. deviation_std : of W_i off the shared part, by input.
    steepness : largest derivative at the end, per standard error of its parameter.
    """

    objective: Array | None = None
    half_step: list[str] | None = None
    change: Array | None = None
    input_subspaces: list[Array] | None = None
    output_subspaces: list[Array] | None = None
    fresh_samples: bool | None = None
    contestants: int | None = None
    late_contraction: Array | None = None
    weight_changes: list[Array] | None = None
    personal: Array | None = None
    teacher: Array | None = None
    penalty: float | None = None
    tuned: float | None = None
    log_posterior: Array | None = None
    log_likelihood: float | None = None
    rank: tuple[int, int] | None = None
    rank_probabilities: dict[int, float] | None = None
    rank_weights: dict[int, float] | None = None
    exactly_shared: float | None = None
    noise_std: Array | float | None = None
    deviation_std: Array | None = None
    steepness: float | None = None

    #: Units of what has some, as powers of those of covariates and responses.
    UNITS: ClassVar[dict[str, tuple[int, int]]] = {
        "objective": (0, 2),
        "weight_changes": (-1, 1),
        "personal": (-1, 1),
        "teacher": (-1, 1),
        "noise_std": (0, 1),
        "deviation_std": (-1, 1),
    }

    def in_units(self, e: int, f: int, penalty_units: tuple[int, int]) -> Trace:
        """Return the trace of data divided by 2^e and 2^f as one of the data themselves."""
        units = {**self.UNITS, "penalty": penalty_units}
        return dataclasses.replace(
            self, **{n: rescaled(self[n], powers, e, f) for n, powers in units.items() if n in self}
        )

    def __getitem__(self, name: str) -> Any:
        value = getattr(self, name) if name in self.__dataclass_fields__ else None
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.__dataclass_fields__ if getattr(self, name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)
