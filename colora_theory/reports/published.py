"""What came of published numbers, for pages: counts by paper and series, and every difference with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from colora_theory.verdicts.published import STATUSES, PointVerdict, tally

#: Points of a page's table beyond which only those that do not agree are listed.
MOST_POINTS = 400


def found_in(comparisons: Sequence[PointVerdict]) -> list[dict[str, Any]]:
    """One entry a paper: paper, points, level, family, tally, series (verdicts by series) and differences."""
    out = []
    for paper in dict.fromkeys(c.paper for c in comparisons):
        mine = [c for c in comparisons if c.paper == paper]
        kinds: dict[tuple[str, str], list[PointVerdict]] = {}
        for c in mine:
            kinds.setdefault((c.point.series, c.point.metric), []).append(c)
        out.append(
            {
                "paper": paper,
                "points": len(mine),
                "level": mine[0].level,
                "family": mine[0].family,
                "tally": tally(mine),
                "unexplained": sum(c.open for c in mine),
                "series": [{"series": s, "metric": m, **_counts(these)} for (s, m), these in kinds.items()],
                "differences": _differences(mine),
            }
        )
    return out


def _counts(comparisons: Sequence[PointVerdict]) -> dict[str, int]:
    return {status: n for status in STATUSES if (n := sum(c.status == status for c in comparisons))}


def _differences(comparisons: Sequence[PointVerdict]) -> list[dict[str, Any]]:
    """Points that do not agree, those of one series, verdict and explanation together."""
    groups: dict[tuple[str, str, str], list[PointVerdict]] = {}
    for c in comparisons:
        if c.status not in ("agrees", "not run", "inconclusive"):
            text = c.explanation or ("Counting: fewer equations than unknowns." if c.explained else "")
            groups.setdefault((c.point.series, c.status, text or "Unexplained."), []).append(c)
    return [
        {
            "series": series,
            "status": status,
            "explanation": text,
            "points": [_plain(c) for c in mine],
        }
        for (series, status, text), mine in groups.items()
    ]


def _plain(c: PointVerdict) -> dict[str, Any]:
    where = {"where": dict(c.point.where), "metric": c.point.metric}
    return {**where, "published": c.point.y, "ours": c.test.ours}


def as_markdown(found: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of Markdown about the papers of `found_in`."""
    out: list[str] = []
    for entry in found:
        out += [
            "",
            f"**{entry['paper']}**: {entry['points']} published points, {entry['tally']} (Holm over "
            f"{entry['family']} points of the paper, level {entry['level']:g}).",
            "",
            "| published series | metric | " + " | ".join(STATUSES) + " |",
            "|---|---|" + "---:|" * len(STATUSES),
        ]
        for row in entry["series"]:
            counts = " | ".join(str(row.get(status, 0) or "–") for status in STATUSES)
            out.append(f"| {row['series']} | {row['metric']} | {counts} |")
        for group in entry["differences"]:
            out += [
                "",
                f"- *{group['series']}*, {group['status']} ({len(group['points'])}): {group['explanation']}",
            ]
            shown = "; ".join(_short(point) for point in group["points"][:3])
            out[-1] += f" For example {shown}."
    return out


def _short(point: dict[str, Any]) -> str:
    place = ", ".join(f"{name} = {value}" for name, value in point["where"].items())
    return f"{point['metric']} at {place}: published {point['published']:.4g}, ours {point['ours']:.4g}"


def as_rows(comparisons: Sequence[PointVerdict]) -> list[list[str]]:
    """Rows of a page's table (HTML): series, metric, place, verdict, published, ours, adjusted p, reason."""
    listed = [c for c in comparisons if c.status != "agrees"] if len(comparisons) > MOST_POINTS else comparisons
    rows = []
    for c in listed:
        place = ", ".join(f"{name} = {value}" for name, value in c.point.where)
        why = " ".join(filter(None, [c.reason, c.explanation]))
        numbers = [f"{c.point.y:.4g}", f"{c.test.ours:.4g}" if c.test.trials else "–", f"{c.adjusted:.2g}"]
        rows.append([escape(text) for text in (c.point.series, c.point.metric, place, c.status, *numbers, why)])
    return rows
