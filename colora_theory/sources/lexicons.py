"""Scores of English words from the lexicons of Python packages: the labels of the source `words`.

What is known of each stands in its entry: who made it, under which licence, and what it is not independent of.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as xml
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final, TypeAlias

from colora_theory.errors import InputError

Scores: TypeAlias = dict[str, float]
#: The words that are asked for, to the scores of those that the lexicon has.
Reader: TypeAlias = Callable[[Iterable[str]], Scores]


@dataclass(frozen=True)
class Lexicon:
    """One score of words.

    Attributes
    ----------
    what : what is scored. package, licence : where the scores come from, and how they may be passed on.
    machine_made : whether scores were computed by a program from other resources instead of given by people.
    of : the lexicon whose scores or word list it shares in part; "" for one that stands on its own.
    shared : whether its scores may lie in the table that is passed on with this package.
    """

    what: str
    package: str
    licence: str
    read: Reader
    machine_made: bool = False
    of: str = ""
    shared: bool = True


def _text(package: str, path: str) -> str:
    """A text file of an installed package, which is not imported."""
    try:
        return Path(str(distribution(package).locate_file(path))).read_text(encoding="utf-8")
    except (PackageNotFoundError, FileNotFoundError):
        raise InputError(
            f"{path} of the package {package} is not installed; pip install 'colora_theory[words]'."
        ) from None


def _kept(scores: Scores, words: Iterable[str]) -> Scores:
    return {word: scores[word] for word in words if word in scores}


def vader_scores(column: int) -> Scores:
    """Mean (column 1) or standard deviation (column 2) of ten raters' scores of every entry."""
    lines = _text("vaderSentiment", "vaderSentiment/vader_lexicon.txt").splitlines()
    fields = [line.split("\t") for line in lines if line]
    return {field[0]: float(field[column]) for field in fields}


def afinn_scores() -> Scores:
    """Integers from −5 to 5."""
    lines = _text("afinn", "afinn/data/AFINN-en-165.txt").splitlines()
    return {word: float(score) for word, _, score in (line.rpartition("\t") for line in lines) if word}


def textblob_scores(attribute: str) -> Scores:
    """Mean over a word's senses of "polarity" or "subjectivity"."""
    senses: dict[str, list[float]] = defaultdict(list)
    for entry in xml.fromstring(_text("textblob", "textblob/en/en-sentiment.xml").encode()).iter("word"):
        senses[entry.attrib["form"]].append(float(entry.attrib[attribute]))
    return {word: sum(values) / len(values) for word, values in senses.items()}


def _senticnet(words: Iterable[str]) -> Scores:
    try:
        from senticnet.senticnet import SenticNet
    except ImportError:
        raise InputError("the package senticnet is not installed; pip install 'colora_theory[words]'.") from None
    entries = SenticNet().data
    return {word: float(entries[word][7]) for word in words if word in entries}


def _wordfreq(words: Iterable[str]) -> Scores:
    try:
        from wordfreq import zipf_frequency
    except ImportError:
        raise InputError("the package wordfreq is not installed; pip install 'colora_theory[words]'.") from None
    found = {word: zipf_frequency(word, "en") for word in words}
    return {word: score for word, score in found.items() if score > 0.0}


def _gutenberg(words: Iterable[str]) -> Scores:
    lines = _text("textblob", "textblob/en/en-spelling.txt").splitlines()
    counts = dict(line.split() for line in lines if line and not line.startswith(";"))
    return {word: math.log(int(counts[word])) for word in words if word in counts}


def _length(words: Iterable[str]) -> Scores:
    return {word: float(len(word)) for word in words}


def _vowels(words: Iterable[str]) -> Scores:
    return {word: sum(letter in "aeiouy" for letter in word) / len(word) for word in words}


def _first_letter(words: Iterable[str]) -> Scores:
    return {word: float(ord(word[0]) - ord("a")) for word in words}


LEXICONS: Final[dict[str, Lexicon]] = {
    "vader": Lexicon(
        "valence, mean of ten raters (Hutto & Gilbert 2014)",
        "vaderSentiment",
        "MIT",
        lambda words: _kept(vader_scores(1), words),
    ),
    "disagreement": Lexicon(
        "standard deviation of the ten raters of vader",
        "vaderSentiment",
        "MIT",
        lambda words: _kept(vader_scores(2), words),
        of="vader",
    ),
    "afinn": Lexicon(
        "valence, one rater (Nielsen 2011)",
        "afinn",
        "ODbL 1.0 (the scores)",
        lambda words: _kept(afinn_scores(), words),
    ),
    "textblob": Lexicon(
        "polarity, tagged by hand, some senses inferred (De Smedt & Daelemans 2012)",
        "textblob",
        "PDDL",
        lambda words: _kept(textblob_scores("polarity"), words),
    ),
    "subjectivity": Lexicon(
        "subjectivity, tagged by hand with textblob's polarity",
        "textblob",
        "PDDL",
        lambda words: _kept(textblob_scores("subjectivity"), words),
        of="textblob",
    ),
    "senticnet": Lexicon(
        "polarity, propagated by a program through a graph of concepts (Cambria et al. 2016)",
        "senticnet",
        "MIT (the package; the scores' own terms are not stated there)",
        _senticnet,
        machine_made=True,
        shared=False,
    ),
    "frequency": Lexicon(
        "logarithm of the word's frequency in seven kinds of text (Speer 2022)",
        "wordfreq",
        "CC BY-SA 4.0 (the data)",
        _wordfreq,
        machine_made=True,
        shared=False,
    ),
    "gutenberg": Lexicon(
        "logarithm of the word's count in books of Project Gutenberg (Norvig's big.txt)",
        "textblob",
        "MIT (the package; counts of texts in the public domain)",
        _gutenberg,
    ),
    "length": Lexicon("number of letters", "", "a fact", _length),
    "vowels": Lexicon("share of vowels among the letters", "", "a fact", _vowels),
    "first_letter": Lexicon("place of the first letter in the alphabet", "", "a fact", _first_letter),
}

#: Lexicons whose words, together, are the vocabulary.
VOCABULARY: Final = ("vader", "afinn", "textblob")


def vocabulary() -> list[str]:
    """Words of lower-case letters in any of the lexicons of valence, in alphabetical order."""
    found = {*vader_scores(1), *afinn_scores(), *textblob_scores("polarity")}
    return sorted(word for word in found if word.isascii() and word.isalpha() and word.islower() and len(word) > 1)
