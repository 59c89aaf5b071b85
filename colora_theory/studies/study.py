"""Study: a TOML file turned into cells (problem × estimators × trials). Everything is checked before any work."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from colora_theory import estimators, guarantees, sources
from colora_theory.errors import InputError, expect, known
from colora_theory.guarantees import Guarantee
from colora_theory.model import metrics
from colora_theory.model.problem import Problem
from colora_theory.studies import figure_kinds
from colora_theory.studies.cells import Cell, EstimatorSpec, cells
from colora_theory.studies.claims import check_claims, check_published, located
from colora_theory.studies.overrides import check_plain, overridden, parse_overrides, parsed, read_text
from colora_theory.studies.published import with_points

if TYPE_CHECKING:
    from colora_theory.sources import Source
    from colora_theory.studies.run_options import RunTable
    from colora_theory.studies.schema import (
        BreakEvenTable,
        ComparisonTable,
        FigureTable,
        GuaranteeTable,
        StudyTable,
    )


@dataclass(frozen=True, eq=False)
class Study:
    """A validated study.

    Attributes
    ----------
    cells : the grid's points in file order. estimators, metrics, guarantees, figures, run : what the file says
        (guarantees: name, metric, estimator, delta, alpha; figures: kind, x, y, …; run: trials, batch, …).
    comparisons, break_evens : claims about its methods. alone, posterior : indices of the estimators that
        held_out_ratio and predicted_error refer to, or None.
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
    comparisons: tuple[ComparisonTable, ...]
    break_evens: tuple[BreakEvenTable, ...]
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
            folder = Path(path).parent
            raw = located(with_points(parsed(text), folder), folder)
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

    @property
    def source(self) -> Source | None:
        """The source of its real data, as the first cell has it; None where truth and data are drawn."""
        setting = self.cells[0].setting
        return None if isinstance(setting, Problem) else setting

    @property
    def alone(self) -> int | None:
        return self._index(self.table.metrics.alone)

    @property
    def posterior(self) -> int | None:
        return self._index(self.table.metrics.posterior)

    def _index(self, label: str | None) -> int | None:
        return None if label is None else [spec.label for spec in self.estimators].index(label)

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
        if self.source is not None:
            options = {**table["data"], **dict.fromkeys(self.source.places)}
            flat |= {f"data.{k}": v for k, v in options.items() if v is not None}
            flat |= {f"metrics.{k}": table["metrics"].get(k) for k in ("alone", "posterior")}
        plain: dict[str, Any] = json.loads(json.dumps(flat))
        return plain


def guarantee_of(spec: GuaranteeTable) -> Guarantee:
    """Return the registered guarantee, speaking about the metric the study asks for."""
    return guarantees.get(spec.name, **({"metric": spec.metric} if spec.metric else {}))


def _build(table: StudyTable, source_text: str, *, quick: bool, stored: bool = False) -> Study:
    specs = _estimators(table, stored)
    grid = cells(table)
    used = table.metrics.use
    _check_metrics(table)
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
        comparisons=tuple(table.comparison),
        break_evens=tuple(table.break_even),
        figures=tuple(table.figure),
        run=table.run,
        learned=table.learned,
        table=table,
        source_text=source_text,
        quick=quick,
    )
    _check_guarantees(study, stored)
    check_published(study)
    check_claims(study)
    _check_figures(study, stored)
    for spec in specs:
        _construct(spec, grid)
    return study


def _construct(spec: EstimatorSpec, grid: tuple[Cell, ...]) -> None:
    """Refuse parameters that an estimator cannot have in some cell, of which it depends on the rank alone."""
    rank, built = spec.params.get("rank", "auto"), set()
    for cell in grid:
        own = cell.setting.rank if isinstance(cell.setting, Problem) else None
        try:
            if own is not None and not isinstance(rank, str) and (type(rank) is not int or rank != own):
                cell.problem.replace(rank=rank)  # refuses what no shared model can have
            if own not in built and (own is None or not spec.cls.side_information):
                spec.build(cell.setting, None)
            built.add(own)
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


def _metric_names(table: StudyTable) -> tuple[str, ...]:
    """Metrics that the study may ask for."""
    if table.data is None:
        return metrics.NAMES
    return (*metrics.HELD_OUT, *sources.get(table.data.source).notes, *metrics.OF_THE_RUN)


def _check_metrics(table: StudyTable) -> None:
    """Refuse metrics that are unknown, listed twice, or need what the study does not have."""
    used, allowed = table.metrics.use, _metric_names(table)
    for index, name in enumerate(used):
        where = f"metrics.use[{index + 1}]"
        if table.data is not None and name in metrics.NAMES and name not in allowed:
            raise InputError(
                f"{where}: {name!r} compares with a truth, and the real data of [data] have none; "
                f"use {', '.join(metrics.HELD_OUT)}."
            )
        if table.data is None and name in metrics.HELD_OUT:
            raise InputError(f"{where}: {name!r} needs rows held out of real data; add a [data] table.")
        known(where, name, allowed)
        if used.index(name) != index:
            raise InputError(f"metrics.use lists {name!r} twice; once is enough.")
    labels = [entry.label or entry.name for entry in table.estimator]
    for key, metric in (("alone", "held_out_ratio"), ("posterior", "predicted_error")):
        label = getattr(table.metrics, key)
        if metric in used and label is None:
            raise InputError(f"{metric} needs metrics.{key}, the label of an estimator of this study; set it.")
        if label is not None:
            known(f"metrics.{key}", label, labels)
            if metric not in used:
                raise InputError(f"metrics.{key} serves {metric} only; add it to metrics.use, or leave {key} out.")


def _check_guarantees(study: Study, stored: bool) -> None:
    labels = [spec.label for spec in study.estimators]
    for index, spec in enumerate(study.guarantees):
        where = f"guarantee[{index + 1}]"
        known(f"{where}.name", spec.name, guarantees.names())
        if study.source is not None:
            raise InputError(
                f"{where}: {spec.name!r} speaks about a problem with a truth, and the real data of [data] have "
                "none; remove it, and state claims about methods as [[comparison]]."
            )
        if spec.estimator is not None:
            known(f"{where}.estimator", spec.estimator, labels)
        if spec.metric is not None:
            known(f"{where}.metric", spec.metric, study.metrics)
            own = guarantees.get(spec.name)
            alike = own.kind == "rate" and {own.metric, spec.metric} <= metrics.SUBSPACE_DISTANCES
            if not (stored or alike or spec.metric == own.metric):
                raise InputError(
                    f"{where}.metric: {spec.name!r} speaks about {own.metric!r}, and {spec.metric!r} is another "
                    "quantity; leave metric out. (A rate may choose between the distances of subspaces.)"
                )
        metric = guarantee_of(spec).metric
        if metric in metrics.NAMES and metric not in study.metrics:
            raise InputError(f"{where}: {spec.name!r} speaks about {metric!r}; add it to metrics.use.")


def _known_or_formula(where: str, name: Any, allowed: Iterable[str]) -> None:
    """A bare word must be known; anything else is a formula, which the kind of figure reads."""
    if not isinstance(name, str) or name.isidentifier() or not name.strip():
        known(where, name, allowed)


def _check_figures(study: Study, stored: bool) -> None:
    setting = type(study.cells[0].setting)
    fields = {f.name for f in dataclasses.fields(setting)}
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
            if study.source is not None:
                raise InputError(
                    f"{where}.overlay: {name!r} needs a truth, and real data have none; leave it out."
                )
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
