"""Whether results belong together: the same study, the same versions; and what lies beside a store to say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from colora_theory.errors import InputError
from colora_theory.results.store import connect, damage, meta
from colora_theory.results.text import write_text
from colora_theory.studies.published import text_of
from colora_theory.studies.study import Study

#: A change of these may change numbers, so a store is not resumed across it without being told.
VERSIONS: Final = ("colora_theory", "python", "numpy", "scipy")


def describe(study: Study, file: Path | None, now: dict[str, Any], accept_version: bool) -> dict[str, Any]:
    """Return what the store `file` (None: a new one) says of itself; refuse to mix studies or versions.

    now : the manifest of the present process.
    """
    about: dict[str, Any] = {
        "study": study.resolved(),
        "source": study.source_text,
        "identity": study.identity() | ({"data.sha256": now["data_sha256"]} if "data_sha256" in now else {}),
        "cells": [cell.id for cell in study.cells],
        "manifest": now,
        "quick": study.quick,
        "claims": [{"claim": study.claim, "started": now["started"]}],
    }
    if file is None:
        return about
    folder = file.parent
    connection = connect(file)
    with damage(file):
        try:
            old = {key: meta(connection, key) for key in ("identity", "cells", "manifest", "claims")}
        finally:
            connection.close()
    claims = old.pop("claims") or []
    if None in old.values():
        raise InputError(f"{folder} does not say which study it belongs to; it is damaged. Choose another --out.")
    changes = differences(old["identity"], about["identity"], grown=set(old["cells"]) <= set(about["cells"]))
    if changes:
        raise InputError(
            f"{folder} holds results of another study: {'; '.join(changes)}. "
            "Choose another --out, or undo the change."
        )
    before = old["manifest"]
    versions = version_changes(before, now)
    if versions and not accept_version:
        raise InputError(
            f"{folder} was begun with other versions: {', '.join(versions)}. Results may differ in the last "
            "digits or more; pass --accept-version to go on, or choose another --out."
        )
    if not claims or claims[-1]["claim"] != study.claim:  # what was claimed first stays on record
        claims = [*claims, {"claim": study.claim, "started": now["started"]}]
    about["claims"] = claims
    session = {key: now[key] for key in (*VERSIONS, "blas", "blas_kernels", "cpu", "commit", "dirty", "started")}
    about["manifest"] = {**before, "resumed": [*before.get("resumed", []), session]}
    return about


def version_changes(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Say which versions that may change numbers differ between two manifests."""
    return [f"{key} {first.get(key)} → {second.get(key)}" for key in VERSIONS if first.get(key) != second.get(key)]


def differences(old: dict[str, Any], new: dict[str, Any], *, grown: bool) -> list[str]:
    """Say what differs between two identities, in ways that would mix different results.

    A grid that only grew (`grown`: all its old cells are still there) and added estimators are no difference.
    """
    out = []
    for key in sorted({*old, *new}):
        if old.get(key) == new.get(key) or (grown and key.startswith(("grid.", "problem."))):
            continue
        if key.startswith("estimator.") and key not in old:
            continue
        out.append(f"{key}: {_shown(old, key)} → {_shown(new, key)}")
    return out if len(out) <= 4 else [*out[:3], f"and {len(out) - 3} more"]


def _shown(identity: dict[str, Any], key: str) -> str:
    return json.dumps(identity[key], ensure_ascii=False) if key in identity else "nothing"


def describe_folder(folder: Path, study: Study, about: dict[str, Any]) -> None:
    """Write the study and what produced its results beside the store."""
    if study.source_text:
        write_text(folder / "study.toml", study.source_text)
        for table in study.table.published:
            write_text(folder / table.file, text_of(table.points))
    write_text(folder / "study.json", json.dumps(study.resolved(), indent=2, ensure_ascii=False))
    write_text(folder / "manifest.json", json.dumps(about, indent=2, ensure_ascii=False))
