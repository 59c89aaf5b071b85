"""Verdicts for other programs and papers: JSON that can be verified again, and a LaTeX table."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from colora_theory import guarantees
from colora_theory.assertion import Assertion
from colora_theory.engine.trial import Recipe, TrialGuarantee
from colora_theory.errors import InputError
from colora_theory.model import metrics
from colora_theory.model.problem import Problem
from colora_theory.results.results import Results
from colora_theory.results.text import write_text
from colora_theory.studies.cells import EstimatorSpec, as_tuples
from colora_theory.studies.study import guarantee_of
from colora_theory.verdicts.check import check, inapplicable, requirement_of
from colora_theory.verdicts.judge import CellTest, judge_family

VERSION: Final = 1
_NEEDED: Final = ("version", "guarantee", "problem", "estimator", "seed", "alpha", "status")


def claims_of(results: Results) -> list[dict[str, Any]]:
    """Every verdict of a study about one cell, with all that is needed to run it again."""
    study, out = results.study, []
    cells, specs = {c.id: c for c in study.cells}, {e.label: e for e in study.estimators}
    tables = {(t.name, t.estimator): t for t in study.guarantees}
    for verdict in check(results):
        if verdict.cell not in cells or verdict.kind == "comparison":  # about real data, which are not in the list
            continue
        spec = specs[verdict.estimator]
        table = tables.get((verdict.guarantee, verdict.estimator)) or tables[verdict.guarantee, None]
        guarantee = guarantee_of(table)
        conditions = [h.name for h in guarantee.hypotheses(cells[verdict.cell].problem)]
        out.append(
            {
                **verdict.as_dict(),
                "version": VERSION,
                "study": study.name,
                "claim": study.claim,
                "statement": guarantee.title,
                "hypotheses": conditions,
                "problem": cells[verdict.cell].problem.content(),
                "estimator": {"label": spec.label, "name": spec.name, "params": spec.params},
                "seed": study.seed,
                "delta": table.delta,
                "versions": {k: results.manifest.get(k) for k in ("colora_theory", "numpy", "scipy", "commit")},
            }
        )
    return out


def write_json(runs: Sequence[Results], out: Path) -> None:
    """Write the claims of several studies as one JSON list."""
    found = [claim for results in runs for claim in claims_of(results)]
    write_text(out, json.dumps(found, indent=1, ensure_ascii=False, default=str) + "\n")


def write_latex(runs: Sequence[Results], out: Path) -> None:
    """Write the overall verdicts of several studies as a LaTeX table (booktabs)."""
    rows = []
    for results in runs:
        for v in check(results):
            if v.cell:
                continue
            cells = [results.study.name, v.guarantee, v.standing, v.estimator, v.status, str(v.trials), _number(v)]
            rows.append(" & ".join(_escaped(text) for text in cells) + r" \\")
    head = "study & guarantee & standing & estimator & verdict & trials & tightness"
    seeds = ", ".join(f"{r.study.name}: seed {r.study.seed}" for r in runs)
    versions = ", ".join(f"{k} {runs[0].manifest.get(k)}" for k in ("colora_theory", "numpy", "scipy"))
    lines = [
        f"% {seeds}; {versions}",
        r"\begin{tabular}{llllrrr}",
        r"\toprule",
        head + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    write_text(out, "\n".join(lines) + "\n")


def _number(verdict: Any) -> str:
    return f"{verdict.tightness:.3g}" if math.isfinite(verdict.tightness) else "--"


def _escaped(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {"≤": r"$\le$", "≥": r"$\ge$", "×": r"$\times$"}
    return "".join(signs.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in text)


def verify(claim: dict[str, Any], *, seconds: float = 50.0) -> dict[str, Any]:
    """Run one claim of `write_json` again and judge it: {"status", "before", "trials", "stands", "reason"}.

    The trials are those of the study, from the first, as many as fit into `seconds`, ten at least (at most as
    many as before).
    A claim stands when it is not violated and was not, or is violated as before. Raises InputError for a claim
    that lacks something or names something unknown.
    """
    if missing := [key for key in _NEEDED if key not in claim]:
        raise InputError(f"the claim lacks {', '.join(missing)}; write it by colora-theory report --format json.")
    if claim["version"] != VERSION:
        raise InputError(
            f"the claim has version {claim['version']!r}; this colora_theory reads version {VERSION}."
        )
    from colora_theory import estimators

    problem = Problem(**{name: as_tuples(value) for name, value in claim["problem"].items()})
    guarantee = guarantees.get(claim["guarantee"])
    if why := inapplicable(guarantee, problem):
        same = claim["status"] == "not applicable"
        return {"status": "not applicable", "before": claim["status"], "trials": 0, "stands": same, "reason": why}
    spec = EstimatorSpec.of(estimators.get(claim["estimator"]["name"]), claim["estimator"]["params"])
    inside = (TrialGuarantee(guarantee, (0,)),) if guarantee.per_trial or hasattr(guarantee, "observed") else ()
    compared = (guarantee.metric,) if guarantee.metric in metrics.NAMES else ()
    fixed = None if guarantee.per_trial else guarantee.value(problem)
    required = requirement_of(guarantee, problem, claim.get("delta"))
    run = Assertion(guarantee.name, required, problem, Recipe(claim["seed"], (spec,), compared, inside), fixed)
    start, most = time.perf_counter(), max(8, int(claim.get("trials") or 100))
    while len(run.rows) < most and (not run.rows or time.perf_counter() - start < seconds):
        run.run(min(most, len(run.rows) + 10))
    (verdict,) = judge_family([CellTest(required, run.sample(), float(claim["alpha"]))])
    stands = (verdict.status == "violated") == (claim["status"] == "violated")
    return {
        "status": verdict.status,
        "before": claim["status"],
        "trials": verdict.trials,
        "stands": stands,
        "reason": verdict.reason,
    }
