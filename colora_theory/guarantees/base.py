"""What a guarantee is: a theorem that can be asked whether it applies, what it claims, and where it comes from."""

from __future__ import annotations

import dataclasses
import inspect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from colora_theory.errors import InputError, expect, nearest
from colora_theory.model.problem import Problem
from colora_theory.registry import Registry

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth

#: What a claim is worth: identity (exact in expectation), certificate (holds for every realised data set),
#: bound (holds with a stated probability or in expectation, constants explicit), rate (published up to an
#: unspecified constant), prediction (sharp but unproved for this structure).
KINDS: Final = ("identity", "certificate", "bound", "rate", "prediction")
#: How observation and claim compare: observed ≤ claim (upper), ≥ (lower), = (equality), a threshold in a
#: problem field (threshold), or a log-log exponent (slope).
SIDES: Final = ("upper", "lower", "equality", "threshold")

#: An infinite claim of a single trial: stores keep finite numbers only, and a vacuous claim is not a missing one.
ENDLESS: Final = 1e300
#: What readers are told of a kind of claim that this package states.
_STANDING: Final = {"rate": "published up to a constant", "prediction": "prediction"}
_AT_MOST_ONE: Final = ("subspace_distance", "output_subspace_distance", "success")


@dataclass(frozen=True)
class Hypothesis:
    """One condition of a theorem, checked on one problem."""

    name: str
    holds: bool
    message: str

    def __bool__(self) -> bool:
        return self.holds


class Guarantee:
    """Base of all guarantees. The docstring of a subclass *is* the theorem.

    A subclass sets the class attributes and implements `conditions` and one or both of

    - `formula(problem)`: the claim as a function of the problem alone;
    - `realised(problem, truth, data, fit)`: the claim for one realised trial (`per_trial = True`).
      `fit` is an estimate to be judged; no guarantee chooses an estimator. One about a method's own data may ask
      for its fits of parts of them (`fit.again`).

    Attributes
    ----------
    name : plain words joined by underscores.
    kind, side : one of KINDS and SIDES.
    metric : the metric the claim speaks about ("parameter_error", …).
    estimators : names of the estimators the claim speaks about; empty for "any estimator".
    side_information : parts of the truth that an estimator may be told for the claim to be about it; None: any.
    source : paper, arXiv id and theorem, or the section of docs/theory.md that proves it.
    tag : how well a published statement was verified ("V", "V2", "R 85"); empty for what is proved here.
    conservative : what is lost in the claim; empty for an exact one.
    expectation : True when the claim is about the mean over trials, False when about single trials.
    failure_probability : for a bound on single trials, the probability η with which it may fail.
    per_trial : True when the claim needs the realised data (evaluated inside the trial).
    against : for a threshold or a slope, the problem field it is about ("num_samples").
    tolerance : relative slack that the statement itself allows (a limit observed at finite depth, say).
    recording : parameters that make an estimator record what the claim is held against; `testing` fills them in,
        a study file names them.

    A guarantee about something else than a metric defines `observed(problem, truth, data, fit) -> float`, the
    number to be compared with the claim of the same trial.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    side: ClassVar[str]
    source: ClassVar[str]
    metric: str = "parameter_error"
    estimators: tuple[str, ...] = ()
    tag: ClassVar[str] = ""
    conservative: ClassVar[str] = ""
    expectation: ClassVar[bool] = True
    failure_probability: float = 0.0
    per_trial: ClassVar[bool] = False
    side_information: ClassVar[tuple[str, ...] | None] = None
    against: ClassVar[str] = ""
    tolerance: ClassVar[float] = 0.0
    recording: ClassVar[dict[str, Any]] = {}

    @property
    def statement(self) -> str:
        """The theorem, from the docstring."""
        return inspect.cleandoc(type(self).__doc__ or "")

    @property
    def standing(self) -> str:
        """What readers are told: proved, published up to a constant, prediction, or stated by its author.

        "proved" is said of this package's own theorems only, whose proofs and sources it holds.
        """
        if self.kind in _STANDING:
            return _STANDING[self.kind]
        own = type(self).__module__.startswith("colora_theory.")
        return "proved" if own else "stated by its author"

    @property
    def title(self) -> str:
        """The theorem's first line."""
        return self.statement.partition("\n")[0]

    def told_too_much(self, estimator: Any) -> str:
        """Why the claim is not about `estimator` (a class or an object): the side information it has; or "".

        What a lower bound says of "any estimator" it says of those that see no more than the bound allows for.
        """
        extra = set(estimator.side_information) - set(self.side_information or ())
        if self.side_information is None or not extra:
            return ""
        return (
            f"{estimator.name} is told {', '.join(sorted(extra))} of the truth: the claim is about the data alone"
        )

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        """Return the theorem's conditions, each checked on `problem`."""
        raise NotImplementedError(f"{type(self).__name__} does not implement conditions.")

    def formula(self, problem: Problem) -> float:
        """Return the claim for `problem`, whose hypotheses are known to hold."""
        raise InputError(
            f"guarantee {self.name!r} speaks about a realised data set; pass truth=, data= (and fit=)."
        )

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        """Return the claim for one realised trial."""
        return self.formula(problem)

    def path(self, problem: Problem, truth: Truth, data: Dataset, fit: Any, metric: str) -> Any:
        """Return what the claim says about `metric` along a recorded `fit`, shape (sweeps + 1,), the start first.

        None where it says nothing about the course of such a fit.
        """
        return None

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        """Return what a check of the claim needs beyond the hypotheses of the claim itself."""
        return []

    def trivial(self, problem: Problem) -> float:
        """Return the value at which the claim says nothing (upper: at least this, lower: at most this); or NaN."""
        if self.side == "lower":
            return 0.0
        if self.metric in _AT_MOST_ONE:
            return 1.0
        return float("inf")

    def hypotheses(self, problem: Problem) -> list[Hypothesis]:
        """Return every hypothesis with its verdict on `problem`."""
        return self.conditions(problem)

    def applies(self, problem: Problem) -> bool:
        """Whether all hypotheses hold for `problem`."""
        return all(bool(h) for h in self.hypotheses(problem))

    def value(
        self,
        problem: Problem,
        *,
        truth: Truth | None = None,
        data: Dataset | None = None,
        fit: Any = None,
        **fields: Any,
    ) -> Any:
        """Return the claimed number.

        With `truth` and `data`: the claim for that realised trial (±ENDLESS where it is infinite). With arrays for
        problem fields, for example
        `value(problem, num_users=np.arange(5, 200))`: an array of their broadcast shape. Where a hypothesis
        fails the value is NaN: outside its hypotheses a theorem claims nothing.
        """
        expect("problem", problem, Problem, "build one with ct.Problem(num_users=..., ...)")
        if fields:
            return self._grid(problem, fields)
        if not self.applies(problem):
            return float("nan")
        if truth is not None and data is not None:
            if not hasattr(truth, "cores") or not hasattr(data, "covariates"):
                given = f"{type(truth).__name__} and {type(data).__name__}"
                raise InputError(f"truth and data must be a Truth and a Dataset, got {given}.")
            if fit is not None and not all(hasattr(fit, part) for part in ("weights", "status", "history")):
                raise InputError(f"fit must be what an estimator's fit returned, got {type(fit).__name__}.")
            number = float(self.realised(problem, truth, data, fit))
            return math.copysign(ENDLESS, number) if math.isinf(number) else number
        return float(self.formula(problem))

    def _grid(self, problem: Problem, fields: dict[str, Any]) -> NDArray[np.float64]:
        known = [f.name for f in dataclasses.fields(problem)]
        for name in fields:
            if name not in known:
                raise InputError(f"unknown problem field {name!r}; {nearest(name, known)}")
        arrays = np.broadcast_arrays(*(np.asarray(values) for values in fields.values()))
        out = np.empty(arrays[0].shape)
        for index in np.ndindex(out.shape):
            changes = {name: array[index].item() for name, array in zip(fields, arrays, strict=True)}
            try:
                out[index] = self.value(problem.replace(**changes))
            except InputError:  # an impossible problem, such as a rank above dim_in: nothing is claimed there
                out[index] = np.nan
        return out


def least(check: Any, low: int, high: int = 10**12) -> int:
    """Return the least integer in [low, high] at which the monotone `check` holds; raise InputError if none.

    >>> least(lambda n: n * n >= 50, 1)
    8
    """
    if not check(high):
        raise InputError(f"no value up to {high} satisfies the condition.")
    while low < high:
        middle = (low + high) // 2
        if check(middle):
            high = middle
        else:
            low = middle + 1
    return low


_registry: Registry[Guarantee] = Registry("colora_theory.guarantees", "guarantee")
names = _registry.names
all_guarantees = _registry.all

G = TypeVar("G", bound=type[Guarantee])


def register(cls: G) -> G:
    """Class decorator: make a guarantee available under its `name`."""
    _registry.register(cls.name, cls())
    return cls


def get(name: str, **settings: Any) -> Guarantee:
    """Return the guarantee `name`; `settings` replace its class-level settings (metric, failure_probability)."""
    guarantee = _registry.get(name)
    if not settings:
        return guarantee
    allowed = {"metric", "estimators", "failure_probability"}
    for key in settings:
        if key not in allowed:
            raise InputError(f"guarantee {name!r} has no setting {key!r}; {nearest(key, allowed)}")
    chance = settings.get("failure_probability", 0.5)
    if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0.0 < chance < 1.0:
        raise InputError(f"failure_probability must lie strictly between 0 and 1, got {chance!r}.")
    fresh = type(guarantee)()
    for key, value in settings.items():
        setattr(fresh, key, value)
    return fresh
