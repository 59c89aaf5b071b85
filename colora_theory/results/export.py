"""Writes tables of results for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

from colora_theory.errors import InputError
from colora_theory.results.results import Results
from colora_theory.results.text import whole_file


def write(results: Results, kind: str, out: Path | None, stdout: TextIO) -> None:
    """Write the table `kind` (a method of Results) to `out`, .csv or .parquet, or as CSV to `stdout`.

    Numbers in CSV read back to the same bits. Raises InputError for another
    suffix or a file that cannot be written.
    """
    suffix = ".csv" if out is None else out.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise InputError(f"--out must end in .csv or .parquet, got {out}.")
    table = getattr(results, kind)()
    for name in results.study.cells[0].varied:
        if any(isinstance(cell.varied[name], tuple) for cell in results.study.cells):
            table[name] = [str(value) for value in table[name]]  # (3, 2): no column type of its own
    for name in table.columns:
        if table[name].dtype == object or str(table[name].dtype).startswith("str"):
            meant = {value: _no_formula(value) for value in table[name].unique()}
            if any(value is not shown for value, shown in meant.items()):
                table[name] = [meant[value] for value in table[name]]
    if out is None:
        table.to_csv(stdout, index=False)
        return
    try:
        with whole_file(out) as draft:
            if suffix == ".csv":
                table.to_csv(draft, index=False)
            else:
                table.to_parquet(draft, index=False)
    except ImportError:
        raise InputError("Parquet needs pyarrow; install colora_theory[parquet], or export to .csv.") from None


def _no_formula(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets an apostrophe in front, the usual mark of text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
