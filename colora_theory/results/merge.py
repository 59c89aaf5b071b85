"""Puts the shards of a study into one store. Doing it twice changes nothing; another study's shard is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from colora_theory.errors import InputError
from colora_theory.results.identity import describe_folder, differences, version_changes
from colora_theory.results.results import Results
from colora_theory.results.store import connect, damage, meta, quoted, value_columns
from colora_theory.results.writer import Writer
from colora_theory.studies.study import Study

_BLOCK = 1000


def merge(sources: Sequence[str | Path], out: str | Path, *, accept_version: bool = False) -> Results:
    """Add the rows of all `sources` (run folders or store files) to the results in `out`, new or existing.

    Raises InputError, before anything is written, when the sources are not of one study and version (versions
    may differ with `accept_version`), and when two sources hold different results for one trial.
    """
    if not sources:
        raise InputError("merge needs at least one source; give the folders of the shards.")
    shards = [Results.open(path) for path in sources]
    out = Path(out)
    for shard in shards:
        if wrong := shard.verify():
            raise InputError(
                f"{shard.path} is damaged: the rows of {wrong[0][1]!r} in cell {wrong[0][0]} are not those that "
                f"were written ({len(wrong)} such groups); restore it from a copy, or run it again."
            )
    with damage(shards[0].file):
        abouts = [_about(shard.file) for shard in shards]
        for shard, about in zip(shards, abouts, strict=True):
            _compatible(abouts[0], about, f"{shard.path} and {shards[0].path}", accept_version)
        study = Study.from_dict(abouts[0]["study"], source_text=abouts[0]["source"], stored=True)

    def describe(file: Path | None) -> dict[str, Any]:
        with damage(file or shards[0].file):
            return joined(file)

    def joined(file: Path | None) -> dict[str, Any]:
        old = [] if file is None else [_about(file)]
        for about in old:
            _compatible(about, abouts[0], f"{shards[0].path} and {out}", accept_version)
        about = {**(old or abouts)[0]}
        about["manifest"] = {**about["manifest"], "shards": [a["manifest"] for a in abouts]}
        stopped = {k: n for a in [*old, *abouts] for k, n in (a["progress"] or {}).get("stopped", {}).items()}
        about["progress"] = {"stopped": stopped}
        del about["columns"]
        return about

    writer = Writer(out, study, shards[0].columns, describe, hold=True)
    try:
        for shard in shards:
            with damage(shard.file):
                _copy(shard, study, writer)
        writer.recount()
        writer.connection.execute("COMMIT")
        describe_folder(out, study, writer.about["manifest"])
    except BaseException:
        writer.abandon()
        raise
    finally:
        writer.close()
    return Results.open(out)


def _about(file: Path) -> dict[str, Any]:
    connection = connect(file)
    try:
        keys = ("study", "source", "identity", "cells", "manifest", "quick", "progress", "claims")
        with damage(file):
            return {key: meta(connection, key) for key in keys} | {"columns": value_columns(connection)}
    finally:
        connection.close()


def _compatible(first: dict[str, Any], second: dict[str, Any], who: str, accept_version: bool) -> None:
    changes = differences(first["identity"], second["identity"], grown=False)
    changes += [] if set(first["identity"]) == set(second["identity"]) else ["other estimators"]
    changes += [] if first["columns"] == second["columns"] else ["other stored numbers"]
    if changes:
        raise InputError(f"{who} are of different studies: {'; '.join(changes)}. Merge shards of one study.")
    versions = version_changes(first["manifest"], second["manifest"])
    if versions and not accept_version:
        raise InputError(
            f"{who} come from different versions: {', '.join(versions)}. --accept-version merges them."
        )


def _copy(shard: Results, study: Study, writer: Writer) -> None:
    cells = dict(zip((cell.id for cell in study.cells), writer.cells, strict=True))
    estimators = dict(zip((spec.label for spec in study.estimators), writer.estimators, strict=True))
    insert = "INSERT OR IGNORE INTO trial VALUES ({})".format(", ".join("?" * (5 + len(shard.columns))))
    for block in shard.blocks(_BLOCK):
        rows = [(cells[cell], estimators[label], *rest) for cell, label, *rest in block]
        before = writer.connection.total_changes
        writer.connection.executemany(insert, rows)
        if writer.connection.total_changes - before < len(rows):
            for row in rows:
                _same(row, shard, writer.connection)


def _same(row: tuple[Any, ...], shard: Results, connection: sqlite3.Connection) -> None:
    """Refuse a row that contradicts the one that is there; the time a fit took is no contradiction."""
    names = ["status", *(name for name in shard.columns if name != "seconds")]
    query = f"SELECT {', '.join(map(quoted, names))} FROM trial WHERE cell = ? AND estimator = ? AND trial = ?"
    there = connection.execute(query, row[:3]).fetchone()
    mine = dict(zip(["status", "message", *shard.columns], row[3:], strict=True))
    if there != tuple(mine[name] for name in names):
        raise InputError(
            f"trial {row[2]} in {shard.path} contradicts the result already there; they were computed "
            "differently (compare the manifests). Run one of them again."
        )
