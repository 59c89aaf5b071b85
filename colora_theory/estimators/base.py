"""What every estimator is: parameters in, a Fit out, found by name. No estimator ever sees a Truth."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from colora_theory.errors import InputError, expect, nearest
from colora_theory.estimators.input_units import input_units
from colora_theory.estimators.scaling import exponents, in_units, refuse_infinite
from colora_theory.estimators.span import missing_directions
from colora_theory.estimators.trace import Trace, rescaled
from colora_theory.model.checks import check_kind
from colora_theory.model.dataset import Dataset
from colora_theory.model.moments import Moments
from colora_theory.registry import Registry

Array: TypeAlias = NDArray[np.float64]

#: converged: the stop rule was met at a stationary point, which need not be the global minimum (or the solution is
#: closed-form); stopped: max_sweeps came first;
#: singular: some least squares had no unique solution and the minimum-norm one was taken;
#: diverged: the estimate is not finite.
STATUSES: Final = ("converged", "stopped", "singular", "diverged")


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """An estimate. Weights are full weights W_i, the known pretrained part included.

    Attributes
    ----------
    status : one of STATUSES, with `message` saying why when it is not "converged", or what is doubtful.
    input_subspace : shape (dim_in, rank_in), orthonormal columns; None when the method has no shared subspace.
    output_subspace : shape (dim_out, rank_out), orthonormal columns, or None.
    cores : shape (num_users, rank_in, rank_out), or None.
    intercepts : shape (num_users, dim_out), or None when the method fits none.
    sweeps : sweeps (iterations) taken; 0 for direct methods.
    history : what was recorded on the way (see `Trace`), read as `history.objective` or `history["objective"]`.
    uncertainty : computes `standard_errors`, or None.
    newcomer : weight of a new user who took no part, shape (dim_in, dim_out), or None (see `serve`).
    again : fits other data by the same method, again(data, rng); None for fits that no estimator made.
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
    history: Trace = field(default_factory=Trace)
    uncertainty: Callable[[], Array] | None = None
    newcomer: Array | None = None
    again: Callable[[Dataset, np.random.Generator | None], Fit] | None = None

    @cached_property
    def standard_errors(self) -> Array | None:
        """Standard errors of the weights' entries, shape (num_users, dim_in, dim_out), computed when asked for.

        Posterior standard deviations of Bayesian methods, large-sample ones of maximum likelihood; None where a
        method has no honest ones.
        """
        return None if self.uncertainty is None else self.uncertainty()

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

    @property
    def finite(self) -> bool:
        """Whether all numbers of the estimate are."""
        parts = (self.dense, self.input_subspace, self.output_subspace, self.cores, self.intercepts)
        return not any((~np.isfinite(part)).any() for part in parts if part is not None)

    def from_units(self, e: int, f: int, pretrained: Array | None, penalty_units: tuple[int, int]) -> Fit:
        """Return the fit of data divided by 2^e and 2^f (see `units`) as one of the data themselves."""

        with np.errstate(over="ignore"):  # what overflows is infinite, and the status says so
            errors = self.uncertainty
            return dataclasses.replace(
                self,
                dense=rescaled(self.dense, (-1, 1), e, f),
                cores=rescaled(self.cores, (-1, 1), e, f),
                intercepts=rescaled(self.intercepts, (0, 1), e, f),
                pretrained=pretrained,
                history=self.history.in_units(e, f, penalty_units),
                uncertainty=None if errors is None else functools.partial(_ldexp_of, errors, f - e),
            )


class StackedFit(NamedTuple):
    """Fits of t trials at once; only those that are `done` are fitted, the others are left to `Estimator.fit`.

    weights : shape (t, num_users, dim_in, dim_out). input_subspace : shape (t, dim_in, rank), or None.
    sweeps, done : shape (t,).
    """

    weights: Array
    input_subspace: Array | None
    sweeps: NDArray[np.int64]
    done: NDArray[np.bool_]


def _ldexp_of(uncertainty: Callable[[], Array], exponent: int) -> Array:
    """What `uncertainty` says, times a power of two."""
    return np.ldexp(uncertainty(), exponent)


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """Base of all estimators: a frozen dataclass whose fields are its parameters.

    Subclasses set `name`, state their mathematics in the docstring (model, objective, algorithm, cost, source)
    and implement `fit`. `side_information` lists the parameters that a study fills from the truth (an oracle's
    subspace); everything else comes from the data alone.
    A method that gets its subspaces instead of learning them sets `frozen_subspaces`; one whose model is invariant
    to invertible maps of the inputs sets `input_invariant`, and is fitted in units of its own (see `input_units`).

    Every `fit` sees data of order one (see `units`), whatever their units; `penalty_units` are the powers of
    covariates and responses that a parameter `penalty` has.
    """

    name: ClassVar[str]
    side_information: ClassVar[tuple[str, ...]] = ()
    frozen_subspaces: ClassVar[bool] = False
    input_invariant: ClassVar[bool] = False
    penalty_units: ClassVar[tuple[int, int]] = (2, 0)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "fit" in vars(cls):
            cls.fit = _guarded(cls.fit)  # type: ignore[assignment, method-assign]

    def __post_init__(self) -> None:
        """Refuse parameters of another kind than declared; subclasses go on to check their values."""
        for name, declared in _declared(type(self)):  # type: ignore[arg-type]
            object.__setattr__(self, name, check_kind(name, getattr(self, name), declared))

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate all users' weights from `data`; `rng` drives whatever is random in the method."""
        raise NotImplementedError(f"{type(self).__name__} does not implement fit.")

    def fit_stacked(self, data: Moments) -> StackedFit | None:
        """Fit many small trials at once, to the numbers that `fit` gives each; None: not with these parameters."""
        return None

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Names of the parameters the estimator takes."""
        return tuple(name for name, _ in _declared(cls))  # type: ignore[arg-type]

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


@functools.cache
def _declared(cls: type[Estimator]) -> tuple[tuple[str, str], ...]:
    """Names of the parameters, and what kinds of value they are declared to take."""
    fields = dataclasses.fields(cls)
    return tuple((f.name, f.type if isinstance(f.type, str) else getattr(f.type, "__name__", "")) for f in fields)


FitMethod: TypeAlias = Callable[[Any, Dataset, np.random.Generator | None], Fit]


def _guarded(fit: FitMethod) -> FitMethod:
    """Wrap a `fit`: what is given is checked, data are brought to order one, and the status has the last word on
    estimates that are not finite, and on subspaces that the covariates cannot determine.
    """

    @functools.wraps(fit)
    def guarded(self: Any, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        expect("data", data, Dataset, "see Dataset.from_arrays")
        expect("rng", rng, (np.random.Generator, type(None)), "use np.random.default_rng(seed)")
        # one user alone may be empty: methods that tune user by user leave it at the pretrained weight
        if data.num_users > 1 and not data.counts.any():
            raise InputError("at least one user must have a sample, got none; add rows.")
        try:
            got, inside = _fit_in_units(fit, self, data, rng)
        except np.linalg.LinAlgError as error:
            refuse_infinite(data)
            return Fit(
                status="diverged",
                message=f"a factorisation broke down ({error}); lower the penalty or the steps, or change units.",
                dense=np.full((data.num_users, data.dim_in, data.dim_out), np.nan),
            )
        if not got.finite:
            refuse_infinite(data)
            message = "the estimate is not finite; shorten the steps, or change the units of the data."
            return dataclasses.replace(got, status="diverged", message=message)
        got = dataclasses.replace(got, again=self.fit)
        learned = got.input_subspace is not None and not self.frozen_subspaces
        if learned and got.status != "singular" and (missing := missing_directions(inside)):
            message = f"the covariates of all users together leave {missing} direction(s) out."
            return dataclasses.replace(got, status="singular", message=message)
        return got

    return guarded


def _fit_in_units(
    fit: FitMethod, rule: Any, data: Dataset, rng: np.random.Generator | None
) -> tuple[Fit, Dataset]:
    """Fit in units in which the data are of order one and, where the model allows it, inputs look isotropic.

    Returns the fit and the data that it saw.
    """
    e, f = exponents(data)
    inside, scaled = (in_units(data, e, f), rule) if e or f else (data, rule)
    if (e or f) and getattr(rule, "penalty", None) is not None:
        a, b = rule.penalty_units
        with np.errstate(over="ignore"):  # a penalty beyond all numbers shrinks everything to zero
            scaled = dataclasses.replace(rule, penalty=float(np.ldexp(rule.penalty, -a * e - b * f)))
    units = input_units(inside) if rule.input_invariant else None
    if units is None:
        got = fit(scaled, inside, rng)
    else:
        pretrained, inside = inside.pretrained, units.data(inside)
        got = units.fit(fit(units.estimator(scaled), inside, rng), pretrained)
    return got.from_units(e, f, data.pretrained, rule.penalty_units) if e or f else got, inside


_registry: Registry[type[Estimator]] = Registry("colora_theory.estimators", "estimator")
names = _registry.names
get = _registry.get
all = _registry.all

E = TypeVar("E", bound=type[Estimator])


def register(cls: E) -> E:
    """Class decorator: make an estimator available under its `name`."""
    _registry.register(cls.name, cls)
    return cls
