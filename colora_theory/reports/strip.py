"""A small picture of how tight a claim is over the cells of a study: one mark per cell on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from colora_theory.verdicts.verdict import Verdict

#: Size in pixels, and the factors from one at which the axis ends at least.
WIDTH, HEIGHT, LEAST = 150, 26, 2.0
COLOURS: Final = {"holds": "#17643a", "violated": "#a3130f", "inconclusive": "#7a5000"}


def strip(cells: Sequence[Verdict]) -> str:
    """An SVG element with a mark for every cell's tightness; the line is 1. Empty where no cell has one."""
    seen = [v for v in cells if math.isfinite(v.tightness) and v.tightness > 0]
    if not seen:
        return ""
    logs = [math.log10(v.tightness) for v in seen]
    low, high = min(*logs, -math.log10(LEAST)), max(*logs, math.log10(LEAST))

    def x(value: float) -> str:
        return f"{5 + (WIDTH - 10) * (value - low) / (high - low):.1f}"

    marks = "".join(
        f'<path d="M{x(value)} 5v12" stroke="{COLOURS.get(v.status, "#565656")}" stroke-width="2" '
        'stroke-opacity=".75"/>'
        for v, value in zip(seen, logs, strict=True)
    )
    ends = f"{10 ** min(logs):.3g}", f"{10 ** max(logs):.3g}"
    told = f"Tightness in {len(seen)} cells, from {ends[0]} to {ends[1]}; 1 is tight."
    text = 'font-size="8" fill="#565656"'
    return (
        f'<svg class="strip" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{told}"><title>{told}</title>'
        f'<path d="M5 18H{WIDTH - 5}" stroke="#d5d5d5"/><path d="M{x(0.0)} 2v16" stroke="#1a1a1a"/>{marks}'
        f'<text x="5" y="25" {text}>{ends[0]}</text>'
        f'<text x="{WIDTH - 5}" y="25" text-anchor="end" {text}>{ends[1]}</text></svg>'
    )
