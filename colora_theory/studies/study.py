"""Study: a TOML file turned into cells (problem × estimators × trials). Everything is checked before any work."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from colora_theory import estimators, guarantees
from colora_theory.errors import InputError, expect, nearest
from colora_theory.guarantees import Guarantee
from colora_theory.model import metrics
from colora_theory.model.problem import Problem
from colora_theory.studies.overrides import overridden, parse_overrides, read_text

if TYPE_CHECKING:
    from colora_theory.estimators import Estimator
    from colora_theory.model.truth import Truth
    from colora_theory.studies.schema import FigureTable, GuaranteeTable, RunTable, StudyTable

MAX_CELLS: Final = 100_000


def words_of(content: Any) -> tuple[int, ...]:
    """Return the sha256 of the canonical JSON of `content` as eight 32-bit words."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    digest = hashlib.sha256(text.encode()).digest()
    return tuple(int.from_bytes(digest[i : i + 4], "big") for i in range(0, 32, 4))


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    id : first 12 hex digits of the sha256 of the problem's canonical content; words : all of it, for seeds.
    varied : the grid's fields and their values in this cell.
    """

    id: str
    words: tuple[int, ...]
    problem: Problem
    varied: dict[str, Any]

    @classmethod
    def of(cls, problem: Problem, varied: dict[str, Any]) -> Cell:
        """Return the cell of `problem`."""
        words = words_of(problem.content())
        return cls(f"{words[0]:08x}{words[1]:08x}"[:12], words, problem, varied)

    def __str__(self) -> str:
        return ", ".join(f"{name} = {value}" for name, value in self.varied.items()) or "the only cell"


@dataclass(frozen=True)
class EstimatorSpec:
    """An estimator of a study: a registered class, the parameters the study sets, and its label."""

    label: str
    name: str
    params: dict[str, Any]
    cls: type[Estimator] = field(repr=False)
    words: tuple[int, ...] = field(repr=False)

    @classmethod
    def of(cls, estimator: type[Estimator], params: Mapping[str, Any], label: str | None = None) -> EstimatorSpec:
        """Return the spec of an estimator class with these parameters; ValueError for what is no plain value."""
        plain = {key: _plain(value) for key, value in params.items()}
        words = words_of({"name": estimator.name, "params": plain})
        return cls(label or estimator.name, estimator.name, plain, estimator, words)

    def build(self, problem: Problem, truth: Truth | None) -> Estimator:
        """Return the estimator for a trial: rank from the problem unless set, side information from the truth."""
        params = dict(self.params)
        if "rank" in self.cls.parameters():
            params.setdefault("rank", problem.rank)
        for name in self.cls.side_information:
            params[name] = getattr(truth, name)
        return self.cls.from_params(**params)


@dataclass(frozen=True, eq=False)
class Study:
    """A validated study.

    Attributes
    ----------
    cells : the grid's points in file order. estimators, metrics, guarantees, figures, run : what the file says
        (guarantees: name, metric, estimator, delta, alpha; figures: kind, x, y, …; run: trials, batch, …).
    source_text : the file as it was read, before overrides. quick : whether the quick form was asked for.
    """

    name: str
    title: str
    claim: str
    seed: int
    cells: tuple[Cell, ...]
    estimators: tuple[EstimatorSpec, ...]
    metrics: tuple[str, ...]
    guarantees: tuple[GuaranteeTable, ...]
    figures: tuple[FigureTable, ...]
    run: RunTable
    learned: str
    table: StudyTable = field(repr=False)
    source_text: str = field(default="", repr=False)
    quick: bool = False

    @classmethod
    def from_toml(
        cls, path: str | Path, overrides: Mapping[str, Any] | Iterable[str] = (), *, quick: bool = False
    ) -> Study:
        """Read a study file; `overrides` are {"run.trials": 400} or ["run.trials=400"].

        Raises InputError, naming the file, for anything that is not a valid study.
        """
        expect("path", path, (str, Path), "give the path of a study file")
        text = read_text(Path(path))
        try:
            raw = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InputError(f"{path} is not valid TOML: {error}.") from None
        try:
            return cls.from_dict(raw, overrides, quick=quick, source_text=text)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def from_dict(
        cls,
        raw: Mapping[str, Any],
        overrides: Mapping[str, Any] | Iterable[str] = (),
        *,
        quick: bool = False,
        source_text: str = "",
    ) -> Study:
        """Build a study from the nested tables of a study file; raise InputError if anything is wrong."""
        from colora_theory.studies.schema import parse

        expect("a study", raw, Mapping, "give the nested tables of a study file, or use Study.from_toml")
        sets = parse_overrides(overrides)
        table = parse(overridden(raw, sets))
        small = overridden(raw, {**_quick_overrides(table), **sets})  # --set beats quick beats the file
        if not quick:
            _build(parse(small), "", quick=True)  # so that a wrong quick form is found now, not in CI
            return _build(table, source_text, quick=False)
        return _build(parse(small), source_text, quick=True)

    def resolved(self) -> dict[str, Any]:
        """Return the study with every default and override filled in, as from_dict reads it."""
        out: dict[str, Any] = self.table.model_dump(by_alias=True, exclude_none=True)
        return out

    def identity(self) -> dict[str, Any]:
        """Return what stored rows depend on, flat: a store is resumed only under the same identity."""
        table = self.resolved()
        flat = {"seed": self.seed, "metrics.use": list(self.metrics)}
        flat |= {f"problem.{k}": v for k, v in table["problem"].items()}
        flat |= {f"grid.{k}": v for k, v in table["grid"].items()}
        flat |= {f"estimator.{e.label}": {"name": e.name, "params": e.params} for e in self.estimators}
        claims = [guarantee_of(g) for g in self.guarantees]
        flat["guarantee (evaluated inside trials)"] = sorted({g.name for g in claims if g.per_trial})
        plain: dict[str, Any] = json.loads(json.dumps(flat))
        return plain


def guarantee_of(spec: GuaranteeTable) -> Guarantee:
    """Return the registered guarantee, speaking about the metric the study asks for."""
    return guarantees.get(spec.name, **({"metric": spec.metric} if spec.metric else {}))


def _quick_overrides(table: StudyTable) -> dict[str, Any]:
    quick = table.run.quick
    for name in quick.grid:
        if name not in table.grid:
            raise InputError(f"run.quick.grid.{name} is not in [grid]; {nearest(name, table.grid)}")
    sets: dict[str, Any] = {f"grid.{name}": values for name, values in quick.grid.items()}
    return {**sets, "run.trials": quick.trials, "run.target_mcse": {}}


def _build(table: StudyTable, source_text: str, *, quick: bool) -> Study:
    specs = _estimators(table)
    cells = _cells(table)
    used = table.metrics.use
    for index, name in enumerate(used):
        _known(f"metrics.use[{index + 1}]", name, metrics.NAMES)
        if used.index(name) != index:
            raise InputError(f"metrics.use lists {name!r} twice; once is enough.")
    for name in table.run.target_mcse:
        _known(f"run.target_mcse.{name}", name, used)
    if table.run.max_trials is not None and not table.run.target_mcse and not quick:
        raise InputError("run.max_trials needs run.target_mcse; set it, or use run.trials.")
    study = Study(
        name=table.name,
        title=table.title,
        claim=table.claim,
        seed=table.seed,
        cells=cells,
        estimators=specs,
        metrics=tuple(used),
        guarantees=tuple(table.guarantee),
        figures=tuple(table.figure),
        run=table.run,
        learned=table.learned,
        table=table,
        source_text=source_text,
        quick=quick,
    )
    _check_guarantees(study)
    _check_figures(study)
    for spec in specs:
        for cell in cells:
            _construct(spec, cell)
    return study


def _construct(spec: EstimatorSpec, cell: Cell) -> None:
    try:
        if not isinstance(spec.params.get("rank", "auto"), str):
            cell.problem.replace(rank=spec.params["rank"])  # refuses what no shared model can have
        if not spec.cls.side_information:
            spec.build(cell.problem, None)
    except (TypeError, ValueError) as error:
        raise InputError(f"estimator {spec.label!r} ({cell}): {error}") from None


def _known(where: str, name: str, allowed: Iterable[str]) -> None:
    if name not in allowed:
        raise InputError(f"{where}: unknown name {name!r}; {nearest(name, allowed)}")


def _estimators(table: StudyTable) -> tuple[EstimatorSpec, ...]:
    specs: dict[str, EstimatorSpec] = {}
    for index, entry in enumerate(table.estimator):
        where = f"estimator[{index + 1}]"
        _known(f"{where}.name", entry.name, estimators.names())
        cls = estimators.get(entry.name)
        for key in entry.params:
            _known(f"{where}.params.{key}", key, set(cls.parameters()) - set(cls.side_information))
        label = entry.label or entry.name
        if label in specs:
            raise InputError(f"{where}: the label {label!r} is taken already; give it another label.")
        try:
            specs[label] = EstimatorSpec.of(cls, entry.params, label)
        except (TypeError, ValueError):
            raise InputError(
                f"{where}.params must hold finite numbers, text and lists, got {entry.params}."
            ) from None
    return tuple(specs.values())


def _plain(value: Any) -> Any:
    """Lists of a TOML file become tuples, as the frozen dataclasses want them."""
    return tuple(_plain(v) for v in value) if isinstance(value, list) else value


def _cells(table: StudyTable) -> tuple[Cell, ...]:
    fixed = {name: _plain(value) for name, value in table.problem.items()}
    grid = {name: [_plain(v) for v in values] for name, values in table.grid.items()}
    for name in grid:
        if name in fixed:
            raise InputError(f"{name} stands in [problem] and in [grid]; remove one of them.")
    for index, exclude in enumerate(table.exclude):
        for name in exclude.where:
            _known(f"exclude[{index + 1}].where.{name}", name, grid)
    for f in dataclasses.fields(Problem):
        if f.default is dataclasses.MISSING and f.name not in fixed and f.name not in grid:
            raise InputError(f"problem.{f.name} is missing; set it in [problem] or vary it in [grid].")
    size = 1
    for values in grid.values():
        size *= len(values)
    if size > MAX_CELLS:
        raise InputError(f"the grid has {size} cells; at most {MAX_CELLS} are allowed. Split the study.")
    cells: dict[tuple[int, ...], Cell] = {}
    for point in itertools.product(*grid.values()):
        varied = dict(zip(grid, point, strict=True))
        if any(_excluded(varied, exclude.where) for exclude in table.exclude):
            continue
        cell = _cell(fixed, varied)
        if cell.words in cells:
            raise InputError(f"the grid holds one problem twice: {cell}, and {cells[cell.words]}; remove one.")
        cells[cell.words] = cell
    if not cells:
        raise InputError("the grid has no cells left: [[exclude]] removes all of them.")
    return tuple(cells.values())


def _cell(fixed: dict[str, Any], varied: dict[str, Any]) -> Cell:
    try:
        problem = Problem(**fixed, **varied)
    except InputError as error:
        raise InputError(
            f"grid ({', '.join(f'{k} = {v}' for k, v in varied.items())}): {error}"
            if varied
            else f"problem: {error}"
        ) from None
    return Cell.of(problem, varied)


def _excluded(varied: dict[str, Any], where: dict[str, Any]) -> bool:
    def matches(value: Any, rule: Any) -> bool:
        return value == _plain(rule) or (isinstance(rule, list) and any(value == _plain(r) for r in rule))

    return all(matches(varied[name], rule) for name, rule in where.items())


def _check_guarantees(study: Study) -> None:
    labels = [spec.label for spec in study.estimators]
    for index, spec in enumerate(study.guarantees):
        where = f"guarantee[{index + 1}]"
        _known(f"{where}.name", spec.name, guarantees.names())
        if spec.estimator is not None:
            _known(f"{where}.estimator", spec.estimator, labels)
        if spec.metric is not None:
            _known(f"{where}.metric", spec.metric, study.metrics)
        metric = guarantee_of(spec).metric
        if metric in metrics.NAMES and metric not in study.metrics:
            raise InputError(f"{where}: {spec.name!r} speaks about {metric!r}; add it to metrics.use.")


def _check_figures(study: Study) -> None:
    fields = {f.name for f in dataclasses.fields(Problem)}
    about = {guarantee_of(spec).metric for spec in study.guarantees}
    names = {*fields, *study.metrics, *about, "estimator", "trial", "sweep", "objective", "claim", "observed"}
    labels = [spec.label for spec in study.estimators]
    for index, figure in enumerate(study.figures):
        where = f"figure[{index + 1}]"
        for key in ("x", "y", "value", "hue"):
            if (name := getattr(figure, key)) is not None:
                _known(f"{where}.{key}", name, names)
        for name in figure.estimators or ():
            _known(f"{where}.estimators", name, labels)
        for name in figure.overlay:
            _known(f"{where}.overlay", name, guarantees.names())
        for name in figure.levels:
            _known(f"{where}.levels", name, figure.overlay)
        for line in figure.lines:
            for key in line:
                _known(f"{where}.lines", key, {"estimator", "label", *study.cells[0].varied})
            _known(f"{where}.lines.estimator", line.get("estimator", labels[0]), labels)
