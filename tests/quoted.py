"""Numbers in the texts, and the stored results that they come from: reads tests/quoted_numbers.toml."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mutation import run

import colora_theory as ct
from colora_theory.figures.draw import stems
from colora_theory.reports import gallery
from colora_theory.studies.study import Study

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "figures"
#: A number as texts write it: 1 000, 0.31, .70, 1e-8; not those inside names.
NUMBER = re.compile(r"(?<![\w./-])(?:\d{1,3}(?: \d{3})+(?!\d)|\d*\.?\d+)(?:e[-−]?\d+)?(?![\w]|\.\d)")
_COUNTED = (
    *(
        "no nothing",
        "one",
        "two twice half",
        "three third",
        "four quarter",
        "five fifth",
        "six sixth",
        "seven seventh",
        "eight",
    ),
    *("nine", "ten tenth", "eleven", "twelve"),
)
WORDS = {word: value for value, words in enumerate(_COUNTED) for word in words.split()}
WORDS |= {"twenty": 20, "twentieth": 20, "thirty": 30, "fifty": 50, "sixty": 60, "eighty": 80, "hundred": 100}


@dataclass(frozen=True)
class Quote:
    """A phrase of a text and the expression that gives its numbers."""

    where: str
    phrase: str
    expression: str

    def numbers(self, phrase: str | None = None) -> list[str]:
        """The numbers of the phrase in order; number words only when it has no digits."""
        text = self.phrase if phrase is None else phrase
        return NUMBER.findall(text) or [word for word in re.findall(r"[a-z]+", text.lower()) if word in WORDS]

    def values(self, look: Callable[[str], pd.DataFrame] | None = None) -> list[float]:
        """What the stored results say, one value for every number."""
        found = eval(self.expression, dict(Stored(self.where, look or table).names()))
        return [float(value) for value in np.atleast_1d(np.concatenate([np.ravel(f) for f in as_list(found)]))]

    def fault(self, phrase: str | None = None, look: Callable[[str], pd.DataFrame] | None = None) -> str:
        """What is wrong with the phrase (as the text has it, or another one), "" when nothing is."""
        written, values = self.numbers(phrase), self.values(look)
        if len(written) != len(values):
            return f"{self.where}: {self.phrase!r} has {len(written)} numbers, {self.expression} {len(values)}."
        for text, value in zip(written, values, strict=True):
            number, decimals = as_number(text)
            if not math.isclose(round(value, decimals), number, rel_tol=1e-9):
                return f"{self.where}: {self.phrase!r} says {text}, the stored results {value:.6g}."
        return ""


def as_list(found: Any) -> list[Any]:
    return list(found) if isinstance(found, list | tuple) else [found]


def as_number(text: str) -> tuple[float, int]:
    """The number that a text means, and how many decimals it gives."""
    if text in WORDS:
        return float(WORDS[text]), 0
    plain = text.replace(" ", "").replace("−", "-")
    digits, _, power = plain.partition("e")
    return float(plain), len(digits.partition(".")[2]) - int(power or 0)


@cache
def table(stem: str) -> pd.DataFrame:
    """The stored numbers of a figure."""
    return pd.read_csv(FIGURES / f"{stem}.csv", dtype={"cell": str})


@cache
def studies() -> dict[str, Study]:
    """The studies by name."""
    return {file.stem: Study.from_toml(file) for file in gallery.studies(ROOT / "experiments")}


@cache
def outcome(study: str) -> dict[str, Any]:
    """What became of a study, from the manifest beside its first figure."""
    manifest = FIGURES / f"{stems(studies()[study])[0]}.json"
    return dict(json.loads(manifest.read_text(encoding="utf-8"))["outcome"])


@dataclass(frozen=True)
class Stored:
    """What expressions may use. `study` is the study whose text it is, or whose numbers a page quotes."""

    study: str
    look: Callable[[str], pd.DataFrame] = field(default=table)

    def rows(
        self, line: str | None = None, figure: int = 1, of: str = "points", study: str = "", **where: Any
    ) -> Any:
        """Rows of a figure's table: of one line (or estimator), where columns have these values."""
        name = study or self.study
        found = self.look(stems(studies()[name])[figure - 1] if name in studies() else name)
        found = found[found["table"] == of]
        if line is not None:
            at = np.zeros(len(found), dtype=bool)
            for column in {"line", "estimator"} & set(found.columns):
                at |= (found[column] == line).to_numpy()
            found = found[at]
        for column, wanted in where.items():
            some = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
            number = pd.api.types.is_numeric_dtype(found[column])
            hits = [np.isclose(found[column], w) if number else found[column] == w for w in some]
            found = found[np.any(hits, axis=0)]
        if not len(found):
            raise KeyError(f"no row of {name} figure {figure}, table {of!r}, has {line!r}, {where}.")
        return found

    def mean(self, line: str | None = None, *, column: str = "mean", **where: Any) -> np.ndarray:
        """Their means, in the order of the table."""
        return self.rows(line, **where)[column].to_numpy(dtype=float)

    def claimed(self, guarantee: str, *, kind: str = "overlay", **where: Any) -> np.ndarray:
        """The values of an overlaid guarantee, in the order of the table."""
        found = self.rows(None, of=f"{kind}:{guarantee}", **where)
        return found["claim" if kind == "pairs" else "value" if kind == "overlay" else "mean"].to_numpy(
            dtype=float
        )

    def reason(self, guarantee: str, estimator: str | None = None) -> list[float]:
        """The numbers in the reason of a verdict."""
        for v in outcome(self.study)["verdicts"]:
            if v["guarantee"] == guarantee and estimator in (None, v["estimator"]):
                return [float(text) for text in re.findall(r"-?\d+\.?\d*", v["reason"])]
        raise KeyError(f"{self.study} has no verdict on {guarantee}.")

    def gap(self, series: list[str], figure: int = 1, **where: Any) -> float:
        """The largest difference between our means and the published ones of the same trials."""
        (entry,) = studies()[self.study].table.published
        ours = self.rows(figure=figure)
        theirs = pd.DataFrame(dict(entry.points))
        theirs = theirs[theirs["trial"] < ours["n"].max()]
        keys = ["series", "metric", *(c for c in theirs if c in ours and c != "metric")]
        means = theirs.groupby(keys, as_index=False)["y"].mean()
        both = ours.assign(series=ours["line"])[ours["line"].isin(series)].merge(means, on=keys)
        for name, value in where.items():
            both = both[both[name] == value]
        return float(np.max(np.abs(both["mean"] - both["y"])))

    def hindsight(self, line: str, others: list[str] | None = None, **where: Any) -> np.ndarray:
        """Means of a line over the least of `others` (all but hierarchical) in the same cell."""
        found = self.rows(**where)
        cells = list(dict.fromkeys(found["cell"]))
        lines = others or [name for name in dict.fromkeys(found["line"]) if name != "hierarchical"]
        least = [np.min([self.mean(name, cell=cell) for name in lines]) for cell in cells]
        return np.array([self.mean(line, cell=cell)[0] for cell in cells]) / least

    def names(self) -> Iterator[tuple[str, Any]]:
        """What an expression sees."""
        yield from {"np": np, "ct": ct, "up": up, "down": down, "slope": slope, "places": places}.items()
        yield from {"at_most": at_most, "even": even}.items()
        for name in ("rows", "mean", "claimed", "reason", "gap", "hindsight"):
            yield name, getattr(self, name)
        yield "problem", lambda **fields: cell_with(self.study, fields).problem
        yield "told", outcome(self.study) if self.study in studies() else {}
        yield from {"mutations": run.mutations, "calls": calls, "certificates": certificates}.items()


@cache
def certificates() -> pd.DataFrame:
    """Limits over what they bound, one row per size, as benchmarks/certificates.py sums its table up."""
    place = importlib.util.spec_from_file_location("certificates", ROOT / "benchmarks" / "certificates.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    found = pd.read_csv(ROOT / "benchmarks" / "certificates.csv")
    return pd.DataFrame(module.ratios(found[found.noise == 0.1]))


def calls(file: str, *names: str) -> list[int]:
    """How many cases the slow tests of a file ask for: the first number in the last call of every name."""
    text = (Path(__file__).parent / file).read_text(encoding="utf-8")
    return [int(re.findall(rf"{re.escape(name)}([\d_]+)", text)[-1].replace("_", "")) for name in names]


def cell_with(study: str, fields: dict[str, Any]) -> Any:
    """The first cell whose varied fields have these values."""
    for cell in studies()[study].cells:
        if all(cell.varied[name] == value for name, value in fields.items()):
            return cell
    raise KeyError(f"{study} has no cell with {fields}.")


def up(value: Any, decimals: int = 0) -> float:
    """The largest of some values, rounded up: for "below 1.02"."""
    return float(np.ceil(np.max(value) * 10**decimals) / 10**decimals)


def down(value: Any, decimals: int = 0) -> float:
    """The least of some values, rounded down: for "from .94 on"."""
    return float(np.floor(np.min(value) * 10**decimals) / 10**decimals)


def places(value: Any, figures: int = 1) -> np.ndarray:
    """Values rounded to so many significant figures: for "some 150"."""
    return np.array([float(f"{v:.{figures}g}") for v in np.ravel(value)])


def at_most(bound: float, value: Any) -> float:
    """The bound if no value is larger, else the largest value: for "met to 1e-8"."""
    return bound if np.max(value) <= bound else float(np.max(value))


def even(numbers: list[float], which: int) -> list[float]:
    """From the reason of a break-even verdict: the places where it is (0), or is predicted to be (1)."""
    return numbers[1 + which :: 6]


def slope(x: Any, y: Any) -> float:
    """The slope of y against x, both logarithmic."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def text_of(where: str) -> str:
    """A page, or what a study says it taught, on one line."""
    if where in studies():
        return " ".join(studies()[where].learned.split())
    if (
        where == "README.md"
    ):  # code blocks run in tests/test_readme.py, marked tables are compared whole with the results
        page = (ROOT / where).read_text(encoding="utf-8")
        page = re.sub(
            r"```.*?```|`[^`]*`|<!-- (\w+): written by.*?<!-- end of \1 -->|\]\([^)]*\)|<[^>]*>",
            "",
            page,
            flags=re.DOTALL,
        )
        return " ".join(page.split())
    if where.endswith(".py"):
        tree = ast.parse((ROOT / where).read_text(encoding="utf-8"))
        return " ".join((ast.get_docstring(tree) or "").split())
    return " ".join((ROOT / where).read_text(encoding="utf-8").split())


def tables() -> dict[str, Any]:
    """The whole table of quoted numbers."""
    return tomllib.loads((Path(__file__).parent / "quoted_numbers.toml").read_text(encoding="utf-8"))


def quotes() -> list[Quote]:
    """Every quote of the table."""
    return [
        Quote(where, phrase, expression)
        for where, entries in tables().items()
        for phrase, expression in entries.items()
        if phrase != "not measured"
    ]
