"""Study: a TOML file turned into cells (problem × estimators × trials). Everything is checked before any work."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from colora_theory import estimators, guarantees
from colora_theory.errors import InputError, expect, known
from colora_theory.guarantees import Guarantee
from colora_theory.model import metrics
from colora_theory.model.problem import Problem
from colora_theory.studies import figure_kinds
from colora_theory.studies.cells import Cell, EstimatorSpec, cells
from colora_theory.studies.overrides import check_plain, overridden, parse_overrides, parsed, read_text
from colora_theory.studies.published import WHAT, points_of, with_points

if TYPE_CHECKING:
    from colora_theory.studies.run_options import RunTable
    from colora_theory.studies.schema import FigureTable, GuaranteeTable, StudyTable


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
            raw = with_points(parsed(text), Path(path).parent)
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
        stored: bool = False,
    ) -> Study:
        """Build a study from the nested tables of a study file; raise InputError if anything is wrong.

        `stored` : the tables come from a store, whose figures are checked when they are drawn, not before.
        """
        from colora_theory.studies.schema import parse

        expect("a study", raw, Mapping, "give the nested tables of a study file, or use Study.from_toml")
        sets = parse_overrides(overrides)
        check_plain(raw)
        table = parse(overridden(raw, sets))
        small = overridden(raw, {**table.run.quick_form(table.grid), **sets})  # --set beats quick beats the file
        if not quick:
            if not stored:
                _build(parse(small), "", quick=True)  # so that a wrong quick form is found now, not in CI
            return _build(table, source_text, quick=False, stored=stored)
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
        flat |= {f"grid.{k}": v for group in table["zip"] for k, v in group.items()}
        flat |= {f"estimator.{e.label}": {"name": e.name, "params": e.params} for e in self.estimators}
        claims = [guarantee_of(g) for g in self.guarantees]
        flat["guarantee (evaluated inside trials)"] = sorted({g.name for g in claims if g.per_trial})
        plain: dict[str, Any] = json.loads(json.dumps(flat))
        return plain


def guarantee_of(spec: GuaranteeTable) -> Guarantee:
    """Return the registered guarantee, speaking about the metric the study asks for."""
    return guarantees.get(spec.name, **({"metric": spec.metric} if spec.metric else {}))


def _build(table: StudyTable, source_text: str, *, quick: bool, stored: bool = False) -> Study:
    specs = _estimators(table, stored)
    grid = cells(table)
    used = table.metrics.use
    for index, name in enumerate(used):
        known(f"metrics.use[{index + 1}]", name, metrics.NAMES)
        if used.index(name) != index:
            raise InputError(f"metrics.use lists {name!r} twice; once is enough.")
    table.run.check(used, table.grid, quick=quick)
    study = Study(
        name=table.name,
        title=table.title,
        claim=table.claim,
        seed=table.seed,
        cells=grid,
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
    _check_published(study)
    _check_figures(study, stored)
    for spec in specs:
        for cell in grid:
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


#: What tables in CSV are read back as a missing value.
_MISSING: Final = ("", "#n/a", "<na>", "n/a", "na", "nan", "-nan", "none", "null")


def _check_label(where: str, label: str) -> None:
    """Refuse labels that forge lines, run as formulas in spreadsheets, or are read back as missing values."""
    if not label.isprintable() or label.strip().lower() in _MISSING or label[0] in "=+-@":
        raise InputError(
            f"{where} must be printable text that is no missing value and does not begin with = + - @, "
            f"got {label!r:.60}; choose another label."
        )


def _estimators(table: StudyTable, stored: bool) -> tuple[EstimatorSpec, ...]:
    specs: dict[str, EstimatorSpec] = {}
    for index, entry in enumerate(table.estimator):
        where = f"estimator[{index + 1}]"
        known(f"{where}.name", entry.name, estimators.names())
        cls = estimators.get(entry.name)
        for key in entry.params:
            known(f"{where}.params.{key}", key, set(cls.parameters()) - set(cls.side_information))
        label = entry.label or entry.name
        if not stored:
            _check_label(f"{where}.label", label)
        if label in specs:
            raise InputError(f"{where}: the label {label!r} is taken already; give it another label.")
        try:
            specs[label] = EstimatorSpec.of(cls, entry.params, label)
        except (TypeError, ValueError):
            raise InputError(
                f"{where}.params must hold finite numbers, text and lists, got {entry.params}."
            ) from None
    return tuple(specs.values())


def _check_guarantees(study: Study) -> None:
    labels = [spec.label for spec in study.estimators]
    for index, spec in enumerate(study.guarantees):
        where = f"guarantee[{index + 1}]"
        known(f"{where}.name", spec.name, guarantees.names())
        if spec.estimator is not None:
            known(f"{where}.estimator", spec.estimator, labels)
        if spec.metric is not None:
            known(f"{where}.metric", spec.metric, study.metrics)
        metric = guarantee_of(spec).metric
        if metric in metrics.NAMES and metric not in study.metrics:
            raise InputError(f"{where}: {spec.name!r} speaks about {metric!r}; add it to metrics.use.")


def _check_published(study: Study) -> None:
    labels = [spec.label for spec in study.estimators]
    for index, table in enumerate(study.table.published):
        where = f"published[{index + 1}]"
        if not table.points:
            raise InputError(f"{where} has no points; read the study by Study.from_toml, beside {table.file}.")
        points = points_of(table)
        for point in points:
            known(f"{where}: {table.file}: series", point.series, labels)
            known(f"{where}: {table.file}: metric", point.metric, study.metrics)
        if table.family is not None and table.family < len(points):
            raise InputError(f"{where}.family must be at least the {len(points)} points here, got {table.family}.")
        for number, entry in enumerate(table.explained):
            inside = f"{where}.explained[{number + 1}]"
            known(f"{inside}.series", entry.series, {point.series for point in points})
            known(f"{inside}.by", entry.by, labels)
            for name in entry.where:
                known(f"{inside}.where.{name}", name, [n for n in table.points if n not in WHAT])


def _known_or_formula(where: str, name: Any, allowed: Iterable[str]) -> None:
    """A bare word must be known; anything else is a formula, which the kind of figure reads."""
    if not isinstance(name, str) or name.isidentifier() or not name.strip():
        known(where, name, allowed)


def _check_figures(study: Study, stored: bool) -> None:
    fields = {f.name for f in dataclasses.fields(Problem)}
    about = {guarantee_of(spec).metric for spec in study.guarantees}
    names = {*fields, *study.metrics, *about, "estimator", "trial", "sweep", "objective", "claim", "observed"}
    labels = [spec.label for spec in study.estimators]
    varied = study.cells[0].varied
    files: set[str] = set()
    for index, figure in enumerate(study.figures):
        where = f"figure[{index + 1}]"
        known(f"{where}.kind", figure.kind, figure_kinds.names())
        recorded = figure_kinds.get(figure.kind).records
        for key in ("x", "y", "value"):
            if (name := getattr(figure, key)) is not None:
                _known_or_formula(f"{where}.{key}", name, {*names, *recorded})
        for key in ("hue", "row", "col"):
            if (name := getattr(figure, key)) is not None:
                _known_or_formula(f"{where}.{key}", name, {"estimator", *varied})
        for name in figure.estimators or ():
            known(f"{where}.estimators", name, labels)
        for name in figure.overlay:
            known(f"{where}.overlay", name, guarantees.names())
        for name in figure.levels:
            known(f"{where}.levels", name, figure.overlay)
        for line in figure.lines:
            for key in line:
                known(f"{where}.lines", key, {"estimator", "label", *varied})
            known(f"{where}.lines.estimator", line.get("estimator", labels[0]), labels)
        stem = figure.file or (study.name if not index else f"{study.name}_{index + 1}")
        if stem in files and not stored:
            raise InputError(f"{where}: another figure of this study is called {stem!r}; give it another file.")
        files.add(stem)
        if stored:
            continue
        try:
            figure_kinds.kind_of(study, figure).check()
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
