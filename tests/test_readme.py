"""The README's code does what the README says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from colora_theory.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code: str) -> None:
    names: dict[str, object] = {}
    exec(code, names)
    for name, value in names.items():
        if name.startswith("test_") and callable(value):
            value()


def test_the_way_from_a_claim_to_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (commands,) = [block for block in blocks("sh") if "init my.toml" in block]
    for line in commands.strip().splitlines():
        words = shlex.split(line, comments=True)[1:]
        if words[0] == "run":
            words += ["--set", "run.trials=9"]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, (line, result.output)


def test_every_file_the_readme_names_exists() -> None:
    for name in set(re.findall(r"\]\((?!http)([^)#]+)\)", README)):
        assert (ROOT / name).exists(), name
