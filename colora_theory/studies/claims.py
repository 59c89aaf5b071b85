"""What a study says of its methods and of its real data: claims checked before any trial, paths found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from colora_theory import sources
from colora_theory.errors import InputError, known
from colora_theory.studies.published import WHAT, points_of

if TYPE_CHECKING:
    from colora_theory.studies.study import Study


def check_claims(study: Study) -> None:
    """Refuse comparisons and break-even claims about unknown methods, metrics and fields, and two of one name."""
    labels, varied = [spec.label for spec in study.estimators], study.cells[0].varied
    taken: set[str] = {spec.name for spec in study.guarantees}
    for index, comparison in enumerate(study.comparisons):
        where = f"comparison[{index + 1}]"
        _name(where, comparison.name, taken)
        known(f"{where}.estimator", comparison.estimator, labels)
        for label in rivals(comparison):
            known(f"{where}.of", label, labels)
            if label == comparison.estimator:
                raise InputError(f"{where}: {label!r} is compared with itself; name another method in of.")
        known(f"{where}.metric", comparison.metric, study.metrics)
        for field in comparison.where:
            known(f"{where}.where.{field}", field, varied)
    for index, claim in enumerate(study.break_evens):
        where = f"break_even[{index + 1}]"
        _name(where, claim.name, taken)
        for key in ("estimator", "of"):
            known(f"{where}.{key}", getattr(claim, key), labels)
        for key in ("metric", "predicted", "along"):
            known(f"{where}.{key}", getattr(claim, key), study.metrics)
        known(f"{where}.each", claim.each, varied)


def check_published(study: Study) -> None:
    """Refuse published points and explanations that name nothing of the study."""
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


def rivals(comparison: Any) -> list[str]:
    """The methods that a comparison is with."""
    return [comparison.of] if isinstance(comparison.of, str) else list(comparison.of)


def _name(where: str, name: str, taken: set[str]) -> None:
    if name in taken:
        raise InputError(f"{where}: another claim of this study is called {name!r}; give it another name.")
    taken.add(name)


def located(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tables of a study file with the paths of its source taken from the file's folder."""
    data = raw.get("data")
    if not isinstance(data, dict) or data.get("source") not in sources.names():
        return raw
    places = sources.get(data["source"]).places

    def there(table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        return {k: str(folder / v) if k in places and isinstance(v, str) else v for k, v in table.items()}

    out = {**raw, "data": there(data)}
    run = raw.get("run")
    if isinstance(run, dict) and isinstance(run.get("quick"), dict) and "data" in run["quick"]:
        out["run"] = {**run, "quick": {**run["quick"], "data": there(run["quick"]["data"])}}
    return out
