"""Words as samples: frozen text features, lexicons' scores as responses; users are as similar as their tasks."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from colora_theory.errors import InputError
from colora_theory.model.checks import check_integer, check_word
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array
from colora_theory.sources.base import Source, Split, check_text, register
from colora_theory.sources.lexicons import LEXICONS
from colora_theory.sources.word_table import WordTable, load


@register
@dataclass(frozen=True, kw_only=True)
class Words(Source):
    """One user scores words by the lexicon `target`; the others by those of `mix`, in turn.

    Covariates are the first 48 principal components of all-MiniLM-L6-v2's vectors of 8 806 words, whitened over
    them; responses are a lexicon's scores, less their mean over its words and over their standard deviation, so
    that errors are in units of a task's variance. Every user draws words without replacement from those that its
    lexicon has, users of one target's lexicon different ones; its words that no user learns from are held out.

    Lexicons (`LEXICONS` says more of each): vader, afinn and textblob are valences given by people, who worked
    independently of each other, though their lists of words overlap. senticnet was made by a program from other
    resources; disagreement and subjectivity come with vader and textblob and are not independent of them.
    frequency, gutenberg, length, vowels and first_letter are counted.

    Licences: the encoder Apache 2.0; vader MIT; textblob PDDL; afinn's scores ODbL 1.0; wordfreq's data CC BY-SA
    4.0; senticnet's package MIT. The table that comes with the study holds the features and the scores of vader,
    disagreement, textblob and subjectivity, of afinn (that column under the ODbL), and what was counted, but
    neither senticnet's nor wordfreq's.

    Parameters
    ----------
    target : lexicon of the first user, whose held-out words are what errors are measured on.
    mix : lexicons of the other users, joined by " + "; a name may stand several times.
    num_users, num_samples : users, at least two, and words of each.
    held_out : most words held out; 0: all that are left.
    table : file with features and scores; without one they are computed once and kept in the user's cache folder,
        which needs `pip install "colora_theory[words]"` and the encoder.
    """

    name: ClassVar[str] = "words"
    places: ClassVar[tuple[str, ...]] = ("table",)
    notes: ClassVar[dict[str, str]] = {
        "task_cosine": "Cosine of the target's weight with the mean of the other users', from all words.",
    }

    mix: str
    target: str = "vader"
    held_out: int = 0
    table: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("num_users", self.num_users, 2)
        check_integer("num_samples", self.num_samples, 1)
        check_integer("held_out", self.held_out, 0)
        check_word("target", self.target, LEXICONS)
        check_text("mix", self.mix)
        for name in self.lexicons:
            check_word("mix", name, LEXICONS)

    @property
    def lexicons(self) -> tuple[str, ...]:
        """The lexicon of every user, the target's first."""
        others = [name.strip() for name in self.mix.split("+")]
        return (self.target, *(others[i % len(others)] for i in range(self.num_users - 1)))

    def check(self) -> None:
        table = load(self.table)
        for name in dict.fromkeys(self.lexicons):
            if name not in table.scores:
                raise InputError(
                    f"{self.table} has no scores of {name!r}; leave table out, or choose another mix."
                )
            have = len(task(table, name)[0])
            need = self.num_samples * (self.lexicons.count(name) if name == self.target else 1)
            need += name == self.target
            if have < need:
                raise InputError(f"{name} has {have} words, {need} are needed; lower num_samples or num_users.")

    def fingerprint(self) -> str:
        return load(self.table).sha256

    def split(self, rng: np.random.Generator) -> Split:
        table = load(self.table)
        x, (candidates, y) = table.features, task(table, self.target)
        own = rng.permutation(candidates)
        train: list[tuple[NDArray[np.int64], Array]] = []
        for name in self.lexicons:
            if name == self.target:  # users with one task share no word
                rows, own = own[: self.num_samples], own[self.num_samples :]
            else:
                rows = rng.choice(task(table, name)[0], self.num_samples, replace=False)
            train.append((rows, task(table, name)[1][rows]))
        left = np.setdiff1d(own, np.concatenate([rows for rows, _ in train]))
        rest = left if not self.held_out else rng.permutation(left)[: self.held_out]
        nothing = x[:0], y[:0]
        return Split(
            Dataset.from_arrays([x[rows] for rows, _ in train], [scores for _, scores in train]),
            Dataset.from_arrays(*zip((x[rest], y[rest]), *[nothing] * (self.num_users - 1), strict=True)),
            {"task_cosine": self.cosine(table)},
        )

    def cosine(self, table: WordTable) -> float:
        """Cosine of the target's least-squares weight with the mean of the others', over all their words."""
        first, *others = (weight(table, name) for name in self.lexicons)
        mean = np.mean(others, axis=0)
        return float(first @ mean / np.linalg.norm(first) / np.linalg.norm(mean))


@functools.cache
def task(table: WordTable, name: str) -> tuple[NDArray[np.int64], Array]:
    """Rows of the words that a lexicon has, and the standard scores of all words, NaN where it has none."""
    scores = table.scores[name]
    have = np.flatnonzero(np.isfinite(scores))
    standard = (scores - scores[have].mean()) / scores[have].std()
    return have, standard


@functools.cache
def weight(table: WordTable, name: str) -> Array:
    """Least-squares weight of a lexicon's standard scores on all its words, with an intercept that is left out."""
    have, scores = task(table, name)
    design = np.column_stack([table.features[have], np.ones(len(have))])
    return np.asarray(np.linalg.lstsq(design, scores[have])[0][:-1])
