"""The format of a study file: which keys exist, which values they take. Read only when a study is read.

Every violation becomes one InputError sentence that says where it is, what is allowed and what was given.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from colora_theory import sources
from colora_theory.errors import InputError, nearest
from colora_theory.model.problem import Problem
from colora_theory.studies.run_options import STRICT, Count, Positive, Probability, RunTable

PROBLEM_FIELDS: Final = tuple(f.name for f in dataclasses.fields(Problem))

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Text = Annotated[str, Field(max_length=10_000)]


class _Table(BaseModel):
    model_config = STRICT


class EstimatorTable(_Table):
    """`[[estimator]]`: a registered name, its parameters, and what to call it."""

    name: str
    params: dict[str, Any] = {}
    label: Annotated[str, Field(min_length=1, max_length=100)] | None = None


class DataTable(_Table):
    """`[data]`: real data instead of a drawn truth, with the options of the source; `[grid]` has those that vary.

    A relative path among the options is taken from the folder of the study file.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    source: str

    @property
    def options(self) -> dict[str, Any]:
        """What the table says besides the source."""
        return dict(self.model_extra or {})


class MetricsTable(_Table):
    """`[metrics]`: what is measured.

    With real data, `alone` is the estimator whose error held_out_ratio divides by, and `posterior` the one (with
    standard errors and a noise) that predicts errors for predicted_error.
    """

    use: Annotated[list[str], Field(min_length=1)]
    alone: str | None = None
    posterior: str | None = None


class ComparisonTable(_Table):
    """`[[comparison]]`: a claim about methods, that the mean metric of one is at most (or at least) so many times
    that of another, in every cell whose varied fields have the values of `where` (a list: any of them).

    With several methods in `of` the claim is about each of them: "at most c times the better of two" says so.
    """

    name: Name
    estimator: str
    of: str | Annotated[list[str], Field(min_length=1)]
    metric: str
    at_most: Positive | None = None
    at_least: Positive | None = None
    where: dict[str, Any] = {}
    alpha: Probability | None = None

    @model_validator(mode="after")
    def _one(self) -> ComparisonTable:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("must set exactly one of at_most and at_least")
        return self


class BreakEvenTable(_Table):
    """`[[break_even]]`: a claim that two methods are equally good where a prediction says so.

    Along the metric `along`, the mean `metric` of `estimator` crosses that of `of`; so does the mean `predicted`.
    The claim is that the two places differ by at most `within`, for every value of the varied field `each`.
    """

    name: Name
    estimator: str
    of: str
    metric: str
    predicted: str
    along: str
    each: str
    within: Positive
    alpha: Probability | None = None


class GuaranteeTable(_Table):
    """`[[guarantee]]`: which theorem is compared with which metric of which estimator, and how strictly.

    delta is the allowed rate of violations, alpha the level of the test.
    """

    name: str
    metric: str | None = None
    estimator: str | None = None
    delta: Probability | None = None
    alpha: Probability | None = None


class ExplainedTable(_Table):
    """`[[published.explained]]`: why numbers differ, and the estimator of the study whose run confirms it.

    Speaks about the points of `series` whose columns have the values `where` (a list: any of them). Points that
    differ from `series` and agree with the estimator `by` get this `verdict`; the `text` says why.
    """

    series: str
    where: dict[str, Any] = {}
    by: str
    verdict: Literal["differs", "not converged"] = "differs"
    text: Annotated[str, Field(min_length=20, max_length=10_000)]


class PublishedTable(_Table):
    """`[[published]]`: numbers of a paper that the study's numbers are held against, point by point.

    `file` is a CSV beside the study; its columns are fields of the problem (which cell), series (which estimator),
    metric, y, and std and reps (two samples) or trial (paired: one row a trial). `ddof` tells how std was
    computed, `rounding` half a unit of the last digit stored. `family`: points of the paper in all its studies.
    """

    paper: Annotated[str, Field(min_length=1, max_length=300)]
    source: Annotated[str, Field(min_length=1, max_length=300)]
    commit: Annotated[str, Field(max_length=100)] = ""
    licence: Annotated[str, Field(min_length=1, max_length=100)]
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*\.csv$", max_length=100)]
    points: dict[str, list[Any]] = {}  # the columns of the file, filled in when the study is read
    level: Probability = 0.05
    family: Count | None = None
    ddof: Literal[0, 1] = 1
    rounding: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    explained: list[ExplainedTable] = []


class FigureTable(_Table):
    """`[[figure]]`: one picture.

    x, hue, row and col are problem fields, "estimator", or formulas over fields; y and value are metrics, or
    formulas over one metric, fields and guarantees in which the metric stands to the first power.
    """

    kind: str  # one of figure_kinds.names()
    x: str | None = None
    y: str | None = None
    value: str | None = None  # what a heatmap colours
    hue: str | None = None  # colours: a varied field, or "estimator"
    row: str | None = None  # one row of panels for each value of a varied field, or for each estimator
    col: str | None = None
    estimators: list[str] | None = None  # labels to draw; all when absent
    lines: list[dict[str, Any]] = []  # {estimator, varied fields, label}: the lines to draw; all when absent
    overlay: list[str] = []  # guarantees drawn as curves
    levels: dict[str, float] = {}  # on a heatmap: the value at which a claim that is no threshold is drawn
    trials: Count = 5  # trials that a trajectory shows
    width: Literal["column", "page"] = "column"
    panels: list[str] = []  # what to call the panels of bars, in the order of the cells
    file: Name | None = None
    title: Text | None = None
    x_label: Text | None = None
    y_label: Text | None = None
    baseline: str | None = None  # an estimator: y is shown as its ratio to that method in the same cell
    slopes: list[float] = []  # guide lines of these log-log slopes
    labels: Literal["legend", "lines"] = "legend"  # name the lines in a legend, or at their ends
    # two estimators: where the first one's line gets above the second's
    break_even: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    beside: list[Name] = []  # studies whose runs lie beside this one's: their lines are drawn too
    x_limits: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    y_limits: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    log_x: bool | None = None
    log_y: bool | None = None


class ExcludeTable(_Table):
    """`[[exclude]]`: cells whose varied fields have these values (a list: any of them) are left out."""

    where: Annotated[dict[str, Any], Field(min_length=1)]


class StudyTable(_Table):
    """The whole file."""

    schema_version: Literal[1] = Field(alias="schema")
    name: Name
    title: Text = ""
    claim: Text = ""
    learned: Text = ""  # what the run taught, written after it; the claim stays as it was
    seed: Annotated[int, Field(ge=0, lt=2**1024)]
    problem: dict[str, Any] = {}
    data: DataTable | None = None
    grid: dict[str, Annotated[list[Any], Field(min_length=1)] | dict[str, list[Any]]] = {}
    zip: list[dict[str, Annotated[list[Any], Field(min_length=1)] | dict[str, list[Any]]]] = []
    exclude: list[ExcludeTable] = []
    estimator: Annotated[list[EstimatorTable], Field(min_length=1)]
    metrics: MetricsTable
    guarantee: list[GuaranteeTable] = []
    published: list[PublishedTable] = []
    comparison: list[ComparisonTable] = []
    break_even: list[BreakEvenTable] = []
    run: RunTable = RunTable()
    figure: list[FigureTable] = []

    @field_validator("schema_version", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if type(value) is int and value > 1:
            raise ValueError("is of a newer version of colora_theory; upgrade it")
        return value


def parse(raw: dict[str, Any]) -> StudyTable:
    """Return the validated table, or raise InputError naming the first thing wrong."""
    zipped = raw.get("zip")
    several = [(f"zip[{i}]", table) for i, table in enumerate(zipped, 1)] if isinstance(zipped, list) else []
    fields = _fields(raw)
    for section, entries in (("problem", raw.get("problem")), ("grid", raw.get("grid")), *several):
        for key in entries if isinstance(entries, dict) else ():
            if key not in fields:
                raise InputError(f"unknown key '{section}.{key}'; {nearest(str(key), fields)}")
    try:
        return StudyTable.model_validate(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=True)
        # A misspelt key is also a missing one; the misspelling is the cause.
        first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
        raise InputError(_sentence(dict(first))) from None


def _fields(raw: dict[str, Any]) -> tuple[str, ...]:
    """What may vary: fields of the problem, or options of the source where there is one."""
    data = raw.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("source"), str):
        return PROBLEM_FIELDS
    if raw.get("problem"):
        raise InputError("[problem] and [data] exclude each other: real data are not drawn; remove one of them.")
    return sources.get(data["source"]).options()


#: What each kind of violation allows, with the numbers that pydantic gives for it.
_ALLOWED: Final = {
    "literal_error": "must be {expected}",
    "string_type": "must be a valid string",
    "string_too_short": "must have at least {min_length} character",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match pattern '{pattern}'",
    "int_type": "must be a valid integer",
    "float_type": "must be a valid number",
    "bool_type": "must be a valid boolean",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be greater than or equal to {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be less than or equal to {le}",
    "too_short": "must have at least {min_length} item",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "value_error": "{error}",
}


def _sentence(problem: dict[str, Any]) -> str:
    loc = tuple(part for part in problem["loc"] if part != "[key]" and "[" not in str(part))
    where, given = dotted(loc), shown(problem.get("input"))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where!r}; {nearest(str(loc[-1]), _keys(loc[:-1]))}"
    if problem["type"] == "missing":
        return f"{where} is missing; add it."
    allowed = _ALLOWED.get(problem["type"], str(problem["msg"]).lower()).format(**problem.get("ctx", {}))
    if problem["type"] == "list_type" and loc[-1:] in {
        *(("estimator",), ("figure",), ("guarantee",), ("exclude",), ("published",))
    }:
        allowed += " of tables"
    return f"{where} {allowed}, got {given}."


def dotted(loc: tuple[Any, ...]) -> str:
    """Return a location as it reads in a message: `grid.num_users`, `estimator[2].params`."""
    out = ""
    for part in loc:
        out += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out or "the study"


def shown(value: Any) -> str:
    """Return a short repr for messages."""
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys(loc: tuple[Any, ...]) -> list[str]:
    """Return the keys allowed in the table at `loc`."""
    model: type[BaseModel] = StudyTable
    for part in loc:
        for name, field in model.model_fields.items():
            if part in (name, field.alias):
                model = _model_in(field.annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((m for m in map(_model_in, typing.get_args(annotation)) if m), None)
