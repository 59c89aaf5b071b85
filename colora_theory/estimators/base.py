"""What every estimator is: parameters in, a Fit out, found by name. No estimator ever sees a Truth."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from colora_theory.data import Dataset
from colora_theory.errors import InputError, nearest
from colora_theory.registry import Registry

Array: TypeAlias = NDArray[np.float64]

#: converged: the stop rule was met (or the solution is closed-form); stopped: max_sweeps came first;
#: singular: some least squares had no unique solution and the minimum-norm one was taken.
STATUSES: Final = ("converged", "stopped", "singular")


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """An estimate. Weights are full weights W_i, the known pretrained part included.

    Attributes
    ----------
    status : one of STATUSES, with `message` saying why when it is not "converged".
    input_subspace : shape (dim_in, rank_in), orthonormal columns; None when the method has no shared subspace.
    output_subspace : shape (dim_out, rank_out), orthonormal columns, or None.
    cores : shape (num_users, rank_in, rank_out), or None.
    intercepts : shape (num_users, dim_out), or None when the method fits none.
    sweeps : sweeps (iterations) taken; 0 for direct methods.
    history : what was recorded per half step, for example {"objective": array}; empty for direct methods.
    """

    status: str
    message: str = ""
    dense: Array | None = None
    input_subspace: Array | None = None
    output_subspace: Array | None = None
    cores: Array | None = None
    pretrained: Array | None = None
    intercepts: Array | None = None
    sweeps: int = 0
    history: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def weights(self) -> Array:
        """Full weights W_i, shape (num_users, dim_in, dim_out)."""
        if self.dense is not None:
            change = self.dense
        else:
            assert self.input_subspace is not None
            assert self.cores is not None
            assert self.output_subspace is not None
            change = np.matmul(self.input_subspace @ self.cores, self.output_subspace.T)
        return change if self.pretrained is None else change + self.pretrained


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """Base of all estimators: a frozen dataclass whose fields are its parameters.

    Subclasses set `name`, state their mathematics in the docstring (model, objective, algorithm, cost, source)
    and implement `fit`. `side_information` lists the parameters that a study fills from the truth (an oracle's
    subspace); everything else comes from the data alone.
    """

    name: ClassVar[str]
    side_information: ClassVar[tuple[str, ...]] = ()

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate all users' weights from `data`; `rng` drives whatever is random in the method."""
        raise NotImplementedError(f"{type(self).__name__} does not implement fit.")

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Names of the parameters the estimator takes."""
        return tuple(f.name for f in dataclasses.fields(cls))

    @classmethod
    def from_params(cls, **params: Any) -> Estimator:
        """Construct, refusing unknown parameters with the nearest valid name."""
        for name in params:
            if name not in cls.parameters():
                raise InputError(
                    f"estimator {cls.name!r} has no parameter {name!r}; {nearest(name, cls.parameters())}"
                )
        return cls(**params)

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0]


_registry: Registry[type[Estimator]] = Registry("colora_theory.estimators", "estimator")
names = _registry.names
get = _registry.get
all = _registry.all

E = TypeVar("E", bound=type[Estimator])


def register(cls: E) -> E:
    """Class decorator: make an estimator available under its `name`."""
    _registry.register(cls.name, cls)
    return cls
