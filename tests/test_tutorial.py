"""The tutorial's blocks run in order, as a reader would run them, and say what the tutorial says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import colora_theory as ct

ROOT = Path(__file__).parent.parent
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def test_from_a_theorem_to_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (study,) = re.findall(r"```toml\n(.*?)```", TUTORIAL, re.DOTALL)
    (tmp_path / "prediction_risk.toml").write_text(study, encoding="utf-8")
    scope = {"__name__": "__main__"}
    from colora_theory.guarantees import base

    before = dict(base._registry._items)
    try:
        for code in re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL):
            exec(code, scope)
        results = scope["results"]
        assert isinstance(results, ct.Results)
        verdicts = ct.check(results)
        assert verdicts[0].status == "holds"
        by_cell = {verdict.where: verdict.status for verdict in verdicts[1:]}
        assert {status for cell, status in by_cell.items() if "student_t" in cell} == {"not applicable"}
        assert "violated" not in by_cell.values()
        from colora_theory.figures.draw import draw

        assert all(path.exists() for path in draw(results, tmp_path / "figures", formats=("svg",)))
    finally:
        base._registry._items.clear()
        base._registry._items.update(before)
    out = capsys.readouterr().out
    assert "prediction_risk_identity [full_finetuning, overall]: holds" in out
    assert "violated" in out


def test_links_lead_somewhere() -> None:
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", TUTORIAL):
        assert (ROOT / "docs" / name).exists(), name
