"""Drawing the figures of a run, as several commands do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from colora_theory.results.results import Results


def draw_figures(results: Results, folder: Path | None, style: str) -> list[Path]:
    if not results.study.figures:
        return []
    from colora_theory.figures.draw import draw

    drawn: list[Path] = draw(results, folder or results.path / "figures", style)
    return drawn
