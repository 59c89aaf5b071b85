"""Measured numbers in texts agree with the stored results: a changed digit in either fails here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import quoted
from quoted import NUMBER, Quote

from colora_theory.reports import gallery

QUOTES = quoted.quotes()
NAMES = [f"{quote.where}: {quote.phrase}" for quote in QUOTES]


@pytest.mark.parametrize("quote", QUOTES, ids=NAMES)
def test_it_stands_once_in_its_text_and_agrees(quote: Quote) -> None:
    assert quoted.text_of(quote.where).count(quote.phrase) == 1
    assert quote.fault() == ""


def wrong(phrase: str) -> Iterator[str]:
    """The phrase with one digit of one number changed, every digit in turn; without digits, one number word."""
    found = list(NUMBER.finditer(phrase))
    for number in found:
        for place in range(number.start(), number.end()):
            if phrase[place].isdigit():
                yield phrase[:place] + str((int(phrase[place]) + 3) % 10) + phrase[place + 1 :]
    if not found:
        for number in re.finditer(r"[A-Za-z]+", phrase):
            if number.group().lower() in quoted.WORDS:
                other = "nine" if quoted.WORDS[number.group().lower()] != 9 else "seven"
                yield phrase[: number.start()] + other + phrase[number.end() :]


@pytest.mark.parametrize("quote", QUOTES, ids=NAMES)
def test_any_other_digit_in_the_text_is_refused(quote: Quote) -> None:
    others = list(wrong(quote.phrase))
    assert others
    for other in others:
        assert quote.fault(other), other


def changed(stem: str, seed: int) -> pd.DataFrame:
    """A figure's table with every stored number another: each multiplied or divided by a factor of its own."""
    table = quoted.table(stem).copy()
    rng = np.random.default_rng([seed, *stem.encode()])
    for column in {"mean", "value", "claim", "observed", "repeats", "task_cosine"} & set(table.columns):
        table[column] = table[column] * 10.0 ** (
            rng.uniform(0.2, 5.0, len(table)) * rng.choice([-1, 1], len(table))
        )
    return table


#: Counts and settings that stand in manifests and study files, not in a table of numbers.
COUNTS = re.compile(
    r"told|reason\(|certificates\(|problem\(|Problem\(|mutations\(|calls\(|\['n'\]|\['sweep'\]|len\(|nunique"
    r"|30 - 20|sorted|(?:min|max)\(rows"
)


@pytest.mark.parametrize("quote", [q for q in QUOTES if not COUNTS.search(q.expression)])
def test_any_other_number_in_the_data_is_refused(quote: Quote) -> None:
    """Of ten random changes one is, at the least; a text on a threshold ("from 300 samples on") survives some."""

    def refused(seed: int) -> bool:
        try:
            return bool(quote.fault(look=partial(changed, seed=seed)))
        except (KeyError, ValueError, IndexError):  # what the text speaks of is no longer there
            return True

    assert any(refused(seed) for seed in range(10))


def test_outcomes_that_changed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = quoted.outcome

    def other(study: str) -> dict[str, Any]:
        found = stored(study)
        verdicts = [{**v, "broken_in": 7, "reason": re.sub(r"\d", "8", v["reason"])} for v in found["verdicts"]]
        papers = [
            {
                **paper,
                "series": [
                    {k: v + 1 if isinstance(v, int) else v for k, v in row.items()} for row in paper["series"]
                ],
            }
            for paper in found.get("published", [])
        ]
        return {**found, "verdicts": verdicts, "published": papers}

    monkeypatch.setattr(quoted, "outcome", other)
    asked = [q for q in QUOTES if re.search(r"told|reason\(", q.expression)]
    assert len(asked) > 10
    assert [q.phrase for q in asked if not q.fault()] == []


@pytest.mark.parametrize("where", [*quoted.studies(), "README.md"])
def test_no_number_of_a_text_is_left_out(where: str) -> None:
    """What a study says it taught, and the front page: every number is tied to its source, or said not to be."""
    text = quoted.text_of(where)
    entries = quoted.tables().get(where, {})
    for phrase in sorted(
        [*(p for p in entries if p != "not measured"), *entries.get("not measured", [])], key=len
    ):
        assert phrase in text, f"{where} no longer says {phrase!r}; take it from quoted_numbers.toml."
    for phrase in sorted(
        [*(p for p in entries if p != "not measured"), *entries.get("not measured", [])], key=len
    )[::-1]:
        text = text.replace(phrase, "…")
    left = NUMBER.findall(text)
    assert not left, f"{where}: {', '.join(left)} stand in no line of quoted_numbers.toml."


def test_a_table_of_the_front_page_follows_its_data(tmp_path: Path) -> None:
    """Tables between marks are written from manifests and CSV files, and compared whole by test_experiments.py."""
    study, file = quoted.studies()["methods"], quoted.FIGURES / "methods.csv"
    page = (quoted.ROOT / "README.md").read_text(encoding="utf-8")
    assert gallery.methods_table(file, study) in page
    other = quoted.table("methods").copy()
    other["mean"] = other["mean"].where(other.index != 37, 1.1 * other["mean"])
    other.to_csv(tmp_path / "methods.csv", index=False)
    assert gallery.methods_table(tmp_path / "methods.csv", study) not in page


def test_every_part_of_the_table_speaks_of_a_text() -> None:
    for where, entries in quoted.tables().items():
        assert quoted.text_of(where), where
        assert entries, where


def test_numbers_are_read_as_texts_write_them() -> None:
    assert NUMBER.findall("0.31 and .70, 1 000 of 2.5 %; 1e-8 (d=3) at 4–5, x2, sha-256, v1.2.3.") == [
        *("0.31", ".70", "1 000", "2.5", "1e-8", "3", "4", "5")
    ]
    assert quoted.as_number("1 000") == (1000.0, 0)
    assert quoted.as_number(".70") == (0.7, 2)
    assert quoted.as_number("9e-11") == (9e-11, 11)
