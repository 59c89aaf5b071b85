"""What a source is: options in, random splits of real data out, found by name."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np

from colora_theory.errors import InputError, nearest
from colora_theory.model.checks import check_integer
from colora_theory.model.dataset import Dataset
from colora_theory.registry import Registry


@dataclass(frozen=True, eq=False)
class Split:
    """One random split of real data.

    Attributes
    ----------
    train : what estimators see. held_out : rows of the same users that they do not see, in the same order; errors
        are means over the users that have some, so a source holds out rows of those whom a trial is about.
    notes : what the source knows of this split, by the names of `Source.notes`.
    """

    train: Dataset
    held_out: Dataset
    notes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Base of all sources: a frozen dataclass whose fields are its options, any of which a grid may vary.

    Subclasses set `name`, say in the docstring where the data come from and under which licence, and implement the
    three methods below. What is expensive is read once per process (`functools.cache`), and not before a run.

    Attributes
    ----------
    name : what `source` says in a study file. places : options that are paths; they are no part of what a cell is,
    and relative ones are taken from the folder of the study file.
    notes : metrics of its own, with one line saying what each is; every split gives their numbers.
    num_users, num_samples : users, and rows of each to learn from; 0 where the source says what else that means.
    """

    name: ClassVar[str]
    places: ClassVar[tuple[str, ...]] = ()
    notes: ClassVar[dict[str, str]] = {}

    num_users: int = 0
    num_samples: int = 0

    def __post_init__(self) -> None:
        for option in ("num_users", "num_samples"):
            check_integer(option, getattr(self, option), 0)

    @abstractmethod
    def check(self) -> None:
        """Read the data and refuse, before any trial, what the options cannot be met with; raises InputError."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the data: results of other data are not mixed with those of these."""

    @abstractmethod
    def split(self, rng: np.random.Generator) -> Split:
        """Draw one split; the same generator gives the same split bit for bit."""

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(f.name for f in dataclasses.fields(cls))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Source:
        """Construct, refusing unknown options with the nearest valid name and those that are missing."""
        for name in options:
            if name not in cls.options():
                raise InputError(f"source {cls.name!r} has no option {name!r}; {nearest(name, cls.options())}")
        for each in dataclasses.fields(cls):
            if each.default is dataclasses.MISSING and each.name not in options:
                raise InputError(f"source {cls.name!r} needs the option {each.name!r}; add it to [data].")
        return cls(**options)

    def content(self) -> dict[str, Any]:
        """Options that differ from their defaults, without places: what seeds are derived from."""
        changed = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in self.places and getattr(self, f.name) != f.default
        }
        return {"source": self.name, **changed}


def check_text(name: str, value: object) -> str:
    """Return `value` when it is a text that is not empty; raise InputError otherwise."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name} must be a text, got {value!r:.60}.")
    return value


_registry: Registry[type[Source]] = Registry("colora_theory.sources", "source")
names = _registry.names
get = _registry.get
all = _registry.all

S = TypeVar("S", bound=type[Source])


def register(cls: S) -> S:
    """Class decorator: make a source available under its `name`."""
    _registry.register(cls.name, cls)
    return cls
