"""Hostile studies, damaged runs and odd places on the command line: one sentence, exit code 2, nothing touched."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from colora_theory.cli import main
from colora_theory.results.store import FILE

STUDY = """schema = 1
name = "tiny"
title = "t"
claim = "c"
seed = 1
[problem]
num_samples = 20
dim_in = 5
rank = 2
noise_std = 0.1
[grid]
num_users = [3, 4]
[[estimator]]
name = "full_finetuning"
[metrics]
use = ["parameter_error"]
[run]
trials = 3
"""


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(result, words: str) -> None:
    """One sentence on stderr, exit code 2, no traceback."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    message = result.stderr.strip().splitlines()
    assert words in message[-1], message
    assert "Traceback" not in result.stderr


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(STUDY)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("schema = 1", "schema = 2", "newer version of colora_theory; upgrade it"),
        ("schema = 1", "schema = -1", "schema"),
        ('name = "tiny"', 'name = "../evil"', "name must match"),
        ('name = "tiny"', 'name = ""', "name must match"),
        ('name = "tiny"', 'name = "."', "name must match"),
        ('name = "tiny"', 'name = "a\\u0000b"', "name must match"),
        ('name = "tiny"', f'name = "{"a" * 5000}"', "name must"),
        ("seed = 1", "seed = -1", "seed must be"),
        ("seed = 1", "seed = 1.5", "seed must be"),
        ("[grid]", "[gird]", "did you mean 'grid'"),
        ("rank = 2", "rank = 0", "rank must be an integer ≥ 1"),
        ("rank = 2", "rank = 99", "rank must be at most"),
        ("rank = 2", 'rank = "two"', "'two' is unknown; allowed"),
        ("noise_std = 0.1", "noise_std = nan", "noise_std must be a number"),
        ("noise_std = 0.1", "noise_std = inf", "noise_std must be a number"),
        ("noise_std = 0.1", "noise_std = 1e-200", "noise_std must be 0 or between 1e-150 and 1e150"),
        ("num_users = [3, 4]", "num_users = [0]", "num_users must be an integer ≥ 1"),
        ("num_users = [3, 4]", "num_users = []", "at least 1 item"),
        ("num_users = [3, 4]", "num_users = [3, 3]", "the grid holds one problem twice"),
        ("num_users = [3, 4]", "num_users = [1000000000]", "needs"),
        ("num_samples = 20", "num_samples = 20\nnum_users = 3", "num_users"),
        ('"full_finetuning"', '"full_finetunning"', "did you mean 'full_finetuning'"),
        ('"full_finetuning"', '"os.system"', "unknown name 'os.system'"),
        ("[metrics]", '[[estimator]]\nname = "full_finetuning"\n[metrics]', "label"),
        ("[metrics]", '[[estimator]]\nname = "ridge"\nlabel = "full_finetuning"\n[metrics]', "label"),
        ('"full_finetuning"', '"altmin"\nparams = {fresh_samples = "no"}', "fresh_samples must be true or false"),
        ('"full_finetuning"', '"altmin"\nparams = {tol = nan}', "must hold finite numbers"),
        ('["parameter_error"]', '["error"]', "error"),
        ('["parameter_error"]', "[]", "at least 1 item"),
        ("trials = 3", "trials = 0", "greater than or equal to 1"),
        ("trials = 3", "trials = true", "valid integer"),
        ("trials = 3", "trials = 3\ntimeout = nan", "timeout"),
        ("[run]", '[[guarantee]]\nname = "nope"\n[run]', "unknown name 'nope'"),
        ("[run]", '[[guarantee]]\nname = "local_least_squares_risk"\nalpha = 0\n[run]', "alpha"),
        ("[run]", '[[guarantee]]\nname = "local_least_squares_risk"\nestimator = "altmin"\n[run]', "altmin"),
        ("[run]", '[[figure]]\nkind = "pie"\nx = "num_users"\ny = "parameter_error"\n[run]', "kind"),
        ("[run]", '[[figure]]\nkind = "curve"\nx = "num_user"\ny = "parameter_error"\n[run]', "num_user"),
        ("[run]", "[[exclude]]\nwhere = {num_samples = 20}\n[run]", "exclude"),
    ],
)
def test_hostile_studies_are_refused_before_anything_is_written(
    here: Path, old: str, new: str, words: str
) -> None:
    Path("bad.toml").write_text(STUDY.replace(old, new))
    refused(invoke("run", "bad.toml", "--quiet"), words)
    assert sorted(os.listdir()) == ["bad.toml", "tiny.toml"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (STUDY.encode() + b'\nx = "\xff"', "is not UTF-8 text"),
        (b"#" * 2_000_000, "is larger than 1000000 bytes"),
        (b"x = " + b"[" * 5000 + b"]" * 5000, "is not valid TOML"),
        (b"", "schema is missing"),
        (b"\x00\x01\x02", "is not valid TOML"),
    ],
)
def test_files_that_are_no_studies(here: Path, content: bytes, words: str) -> None:
    Path("bad.toml").write_bytes(content)
    refused(invoke("run", "bad.toml"), words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "/dev/zero"], "larger than"),
        (["run", "."], "Is a directory"),
        (["run", "tiny.toml", "--out", "tiny.toml"], "tiny.toml"),
        (["run", "tiny.toml", "--out", "tiny.toml/x"], "tiny.toml/x"),
        (["run", "tiny.toml", "--out", "/dev/null"], "/dev/null"),
        (["run", "tiny.toml", "--out", "a" * 300], "name too long"),
        (["run", "tiny.toml", "--backend", "dask", "--scheduler", "junk"], "for example tcp://"),
        (["run", "tiny.toml", "--scheduler", "tcp://x:1"], "needs --backend dask"),
        (["run", "tiny.toml", "--shard", "5/3"], "≤"),
        (["run", "tiny.toml", "--set", "estimator.7.name=ridge"], "from 0 to 0"),
        (["run", "tiny.toml", "--set", "seed.x=3"], "seed"),
        (["merge", "tiny.toml", "--out", "m"], "tiny.toml"),
        (["init", "tiny.toml"], "tiny.toml"),
        (["reproduce-all", "."], "asks for no figure"),
        (["reproduce-all", ".", "--only", "nope"], "names of studies and of folders in ., got 'nope'"),
        (["reproduce-all", "nowhere"], "holds no study file"),
    ],
)
def test_odd_places_and_options_are_refused(here: Path, arguments: list[str], words: str) -> None:
    result = invoke(*arguments)
    refused(result, words) if words != "name too long" else refused(result, "too long")
    assert Path("tiny.toml").read_text() == STUDY


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.toml").write_text(STUDY)
    result = invoke("run", folder / "tiny.toml", "--out", folder / "run", "--quiet")
    assert result.exit_code == 0, result.output
    return folder / "run"


def newer_study(file: Path) -> None:
    connection = sqlite3.connect(file)
    study = json.loads(connection.execute("SELECT value FROM meta WHERE key = 'study'").fetchone()[0])
    study["schema"] = 2
    connection.execute("UPDATE meta SET value = ? WHERE key = 'study'", (json.dumps(study),))
    connection.commit()
    connection.close()


def sql(text: str):
    def change(file: Path) -> None:
        connection = sqlite3.connect(file)
        connection.executescript(text)
        connection.close()

    return change


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garble(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096:] = bytes(reversed(content[4096:]))
    file.write_bytes(bytes(content))


DAMAGES = {
    "truncated": (cut, "cannot be"),
    "garbled": (garble, ""),
    "empty": (lambda file: file.write_bytes(b""), "is no store"),
    "text": (lambda file: file.write_text("hello" * 100), "cannot be opened"),
    "foreign": (sql("PRAGMA application_id = 7"), "is no store"),
    "newer store": (sql("PRAGMA user_version = 99"), "has store version 99"),
    "no rows": (sql("DROP TABLE trial"), "has no table 'trial'"),
    "no description": (sql("DELETE FROM meta"), "it is damaged"),
    "broken description": (sql("UPDATE meta SET value = '{' WHERE key IN ('study', 'identity')"), "is not JSON"),
}


@pytest.mark.parametrize("command", ["status", "check", "export", "report", "run", "merge"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_runs_are_refused_and_left_as_they_are(
    finished: Path, tmp_path: Path, damage: str, command: str
) -> None:
    change, words = DAMAGES[damage]
    run = tmp_path / "rün 1"
    shutil.copytree(finished, run)
    change(run / FILE)
    before = (run / FILE).read_bytes()
    study = finished.parent / "tiny.toml"
    arguments = {
        "report": ["report", run, "-o", tmp_path / "page.html"],
        "run": ["run", study, "--out", run, "--quiet"],
        "merge": ["merge", run, "--out", tmp_path / "merged"],
    }.get(command, [command, run])
    refused(invoke(*arguments), words)
    assert (run / FILE).read_bytes() == before
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("command", ["check", "export", "report"])
def test_a_study_of_a_newer_schema_in_a_store(finished: Path, tmp_path: Path, command: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    newer_study(run / FILE)
    extra = ["-o", tmp_path / "page.html"] if command == "report" else []
    refused(invoke(command, run, *extra), "newer version of colora_theory; upgrade it")


def test_unicode_and_spaces_in_every_path(tmp_path: Path) -> None:
    folder = tmp_path / "ein Ordner β ✓"
    folder.mkdir()
    study = folder / "stüdie 1.toml"
    study.write_bytes(STUDY.replace("\n", "\r\n").encode())
    assert invoke("run", study, "--out", folder / "aus gabe", "--quiet").exit_code == 0
    for arguments in (
        ["status", folder / "aus gabe"],
        ["check", folder / "aus gabe"],
        ["export", folder / "aus gabe", "--out", folder / "täble 1.csv"],
        ["report", folder / "aus gabe", "-o", folder / "sëite 1.html"],
        ["merge", folder / "aus gabe", "--out", folder / "zusammen"],
    ):
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
    assert (folder / "täble 1.csv").exists()
    assert (folder / "sëite 1.html").exists()


def test_a_plugin_that_raises_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the plugin, whose author can mend it; the package's own methods are not blamed."""
    from importlib.metadata import EntryPoint

    from colora_theory import registry
    from colora_theory.errors import InputError
    from colora_theory.registry import Registry

    broken = EntryPoint("theirs", "no_such_module_of_theirs", "colora_theory.estimators")
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken] if group == broken.group else [])
    fresh: Registry[object] = Registry("colora_theory.estimators", "estimator")
    with pytest.raises(InputError, match=r"the plugin 'theirs' cannot be loaded.*ModuleNotFoundError") as error:
        fresh.names()
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="the plugin 'theirs'"):  # asked again, it says so again
        fresh.names()
