"""Real data as the source of a study: splits, refusals, the same numbers again, and those of another library."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w
from click.testing import CliRunner
from sklearn.linear_model import Ridge as SklearnRidge

import colora_theory as ct
from colora_theory.cli import main
from colora_theory.engine.reproduce import reproduce
from colora_theory.engine.run import run
from colora_theory.estimators.predicted_error import predicted_errors
from colora_theory.model.metrics import held_out_errors
from colora_theory.regression.files import read_table

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "experiments" / "words" / "words.npz"


def write_table(path: Path, users: int = 12, rows: int = 25) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.standard_normal((users * rows, 3)), columns=["a", "b", "c"])
    frame["id"] = np.repeat([f"u{i}" for i in range(users)], rows)
    slopes = np.repeat(2.0 + 0.5 * rng.standard_normal(users), rows)
    frame["y"] = 5.0 + slopes * frame["a"] - frame["b"] + 0.5 * rng.standard_normal(len(frame))
    frame.sample(frac=1.0, random_state=1).to_csv(path, index=False)
    return frame


def study_of(path: Path, **changes: object) -> dict:
    base = {
        "schema": 1,
        "name": "own",
        "claim": "Pooling helps with few rows.",
        "seed": 7,
        "data": {"source": "grouped_table", "path": str(path), "target": "y", "user": "id"},
        "grid": {"num_samples": [3, 6], "num_users": [4, 12]},
        "estimator": [
            {"name": "ridge", "label": "alone"},
            {"name": "pooled_ridge", "label": "pooled"},
            {"name": "hierarchical", "params": {"rank": 1}},
        ],
        "metrics": {
            "use": ["held_out_error", "held_out_ratio", "predicted_error"],
            "alone": "alone",
            "posterior": "hierarchical",
        },
        "run": {"trials": 12, "quick": {"trials": 2, "grid": {"num_samples": [3]}}},
    }
    return {**base, **changes}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_table(tmp_path / "t.csv")
    return tmp_path / "t.csv"


# --- splits ------------------------------------------------------------------------------------------------


def test_a_split_deals_every_row_once(table: Path) -> None:
    """Shots go to the training rows, all others are held out; nothing is in both, and nothing is lost."""
    options = {"path": str(table), "target": "y", "user": "id", "num_samples": 4, "standardise": "none"}
    source = ct.sources.get("grouped_table").of(options)
    source.check()
    split = source.split(np.random.default_rng(0))
    assert split.train.counts.tolist() == [4] * 12
    assert split.held_out.counts.tolist() == [21] * 12
    frame = pd.read_csv(table)
    for i, name in enumerate(sorted(frame["id"].unique())):
        mine = frame[frame["id"] == name]
        dealt = [*split.train.responses[i, :4, 0], *split.held_out.responses[i, :21, 0]]
        np.testing.assert_array_equal(np.sort(dealt), np.sort(mine["y"]))
        rows = np.concatenate([split.train.covariates[i, :4], split.held_out.covariates[i, :21]])
        found = {tuple(row) for row in np.column_stack([rows, dealt])}
        assert found == set(map(tuple, mine[["a", "b", "c", "y"]].to_numpy()))


def test_units_come_from_the_training_rows_alone(table: Path) -> None:
    source = ct.sources.get("grouped_table").of({"path": str(table), "target": "y", "user": "id", "held_out": 0.4})
    split = source.split(np.random.default_rng(1))
    assert split.train.counts.tolist() == [15] * 12
    x = split.train.covariates.reshape(-1, 4)
    np.testing.assert_allclose(x.mean(0), [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(x.std(0), [1, 1, 1, 0], atol=1e-12)
    np.testing.assert_allclose([split.train.responses.mean(), split.train.responses.std()], [0, 1], atol=1e-12)
    assert abs(split.held_out.responses.mean()) > 1e-6
    some = ct.sources.get("grouped_table").of({"path": str(table), "target": "y", "user": "id", "num_users": 5})
    assert some.split(np.random.default_rng(1)).train.num_users == 5


def test_parquet_is_the_same_table(table: Path, tmp_path: Path) -> None:
    read_table(table, "id", target="y")[0].to_parquet(tmp_path / "t.parquet")
    one, two = (
        ct.sources.get("grouped_table")
        .of({"path": str(path), "target": "y", "user": "id", "num_samples": 5})
        .split(np.random.default_rng(2))
        for path in (table, tmp_path / "t.parquet")
    )
    np.testing.assert_array_equal(one.train.covariates, two.train.covariates)
    np.testing.assert_array_equal(one.held_out.responses, two.held_out.responses)


def test_words_are_learned_from_or_held_out() -> None:
    """Users of one lexicon share no word, and no word that any user learns from is held out."""
    options = {"mix": "vader + afinn + length", "num_users": 7, "num_samples": 30, "table": str(TABLE)}
    source = ct.sources.get("words").of(options)
    source.check()
    assert source.lexicons == ("vader", "vader", "afinn", "length", "vader", "afinn", "length")
    split = source.split(np.random.default_rng(0))
    names = [{row.tobytes() for row in user[:30]} for user in split.train.covariates]
    assert not names[0] & names[1] | names[0] & names[4] | names[1] & names[4]
    held_out = {row.tobytes() for row in split.held_out.covariates[0, : split.held_out.counts[0]]}
    assert not held_out & set().union(*names)
    assert split.held_out.counts[1:].tolist() == [0] * 6
    assert split.held_out.counts[0] > 6000
    few = ct.sources.get("words").of({**options, "held_out": 50}).split(np.random.default_rng(0))
    assert few.held_out.counts[0] == 50
    assert few.notes == split.notes


def test_similarity_is_that_of_weights_on_all_words() -> None:
    def cosine(mix: str) -> float:
        source = ct.sources.get("words").of({"mix": mix, "num_users": 16, "num_samples": 9, "table": str(TABLE)})
        return source.split(np.random.default_rng(0)).notes["task_cosine"]

    assert cosine("vader") == pytest.approx(1.0, abs=1e-12)
    assert cosine("afinn + textblob") > 0.95
    assert cosine("afinn + length") > cosine("afinn + length + length") > cosine("length + first_letter")
    assert abs(cosine("length + first_letter")) < 0.1


# --- another library ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", ["vader", "length + gutenberg + first_letter"])
@pytest.mark.parametrize("num_samples", [20, 80])
def test_errors_are_those_of_scikit_learn(tmp_path: Path, mix: str, num_samples: int) -> None:
    """Ridge alone and pooled, refitted by scikit-learn on the splits of a run, to 1e-8; a GCV of its own."""
    raw = study_of(
        tmp_path,
        data={"source": "words", "mix": mix, "num_users": 6, "table": str(TABLE), "held_out": 500},
        grid={"num_samples": [num_samples]},
        run={"trials": 3},
    )
    del raw["estimator"][2], raw["metrics"]["posterior"]
    raw["metrics"]["use"] = ["held_out_error", "held_out_ratio"]
    study = ct.Study.from_dict(raw)
    frame = run(study, tmp_path / "out", backend="inline").frame()
    (cell,) = study.cells
    for trial in range(3):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(7, spawn_key=(1, *cell.words, trial))))
        split = cell.setting.split(rng)
        x, y = split.train.covariates, split.train.responses[:, :, 0]
        test_x, test_y = split.held_out.covariates[0], split.held_out.responses[0, :, 0]
        errors = {}
        for label, parts in (("alone", list(zip(x, y, strict=True))), ("pooled", [(np.vstack(x), np.hstack(y))])):
            penalty = best_penalty(parts)
            model = SklearnRidge(alpha=penalty, fit_intercept=False, solver="svd").fit(*parts[0])
            errors[label] = float(((test_y - model.predict(test_x)) ** 2).mean())
        for label, error in errors.items():
            mine = frame[(frame.trial == trial) & (frame.estimator == label)].set_index("metric")["value"]
            assert mine["held_out_error"] == pytest.approx(error, rel=1e-8)
            assert mine["held_out_ratio"] == pytest.approx(error / errors["alone"], rel=1e-8)


def best_penalty(parts: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """The penalty of the documented grid with the least Σ n RSS/(n − df)², from hat matrices."""
    values = np.concatenate([np.linalg.svd(x, compute_uv=False) ** 2 for x, _ in parts])
    grid = [float(values.mean()) * 10.0**e for e in np.arange(-8.0, 4.25, 0.25)]

    def score(penalty: float) -> float:
        total = 0.0
        for x, y in parts:
            hat = x @ np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T)
            total += len(y) * float(((y - hat @ y) ** 2).sum()) / max(len(y) - np.trace(hat), 1e-9) ** 2
        return total

    return min(grid, key=score)


# --- studies -----------------------------------------------------------------------------------------------


def test_the_same_numbers_again_and_for_any_number_of_workers(table: Path, tmp_path: Path) -> None:
    study = ct.Study.from_dict(study_of(table))
    one = run(study, tmp_path / "one", backend="inline")
    two = run(study, tmp_path / "two", n_jobs=2)
    assert one.counts() == (4 * 3 * 12, 0)
    pd.testing.assert_frame_equal(one.frame(), two.frame())
    again = run(study, tmp_path / "one", backend="inline")
    assert again.counts() == one.counts()
    more = ct.Study.from_dict(study_of(table), {"run.trials": 14})
    longer = run(more, tmp_path / "one", backend="inline").frame()
    pd.testing.assert_frame_equal(longer[longer.trial < 12].reset_index(drop=True), one.frame())
    moved = tmp_path / "moved" / "u.csv"
    moved.parent.mkdir()
    moved.write_bytes(table.read_bytes())
    there = run(ct.Study.from_dict(study_of(moved)), tmp_path / "three", backend="inline")
    pd.testing.assert_frame_equal(there.frame(), one.frame())  # a place is no part of what a cell is


def test_a_changed_table_is_not_mixed_with_the_old_one(table: Path, tmp_path: Path) -> None:
    study = ct.Study.from_dict(study_of(table))
    results = run(study, tmp_path / "out", backend="inline")
    assert results.manifest["data_sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
    cell = study.cells[0].id
    again = CliRunner().invoke(main, ["reproduce", str(tmp_path / "out"), "--cell", cell, "--trial", "3"])
    assert again.exit_code == 0, again.output
    write_table(table, rows=26)
    with pytest.raises(ct.InputError, match=r"holds results of another study: data\.sha256"):
        run(study, tmp_path / "out", backend="inline")
    with pytest.raises(ct.InputError, match="the data have the SHA-256"):
        reproduce(results, cell, 3)
    table.unlink()
    assert len(ct.Results.open(tmp_path / "out").frame())  # results are read without the data
    with pytest.raises(ct.InputError, match="cannot be read"):
        run(study, tmp_path / "out", backend="inline")


def test_a_study_file_finds_its_table_beside_it(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = study_of(Path("t.csv"))
    raw["run"]["quick"]["data"] = {"path": "t.csv"}
    (tmp_path / "own.toml").write_text(tomli_w.dumps(raw))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    done = CliRunner().invoke(main, ["run", "../own.toml", "--quick", "--backend", "inline", "--no-plot"])
    assert done.exit_code == 0, done.output
    planned = CliRunner().invoke(main, ["plan", "../own.toml", "--quick"])
    assert planned.exit_code == 0, planned.output


REFUSED = {
    "a metric of the truth": (
        {"metrics": {"use": ["parameter_error"]}},
        "'parameter_error' compares with a truth, and the real data of .data. have none; use held_out_error",
    ),
    "a theorem": (
        {"guarantee": [{"name": "cramer_rao"}]},
        "'cramer_rao' speaks about a problem with a truth, and the real data of .data. have none",
    ),
    "a theorem in a figure": (
        {"figure": [{"kind": "curve", "x": "num_samples", "y": "held_out_error", "overlay": ["cramer_rao"]}]},
        "'cramer_rao' needs a truth, and real data have none",
    ),
    "a distance along the sweeps": (
        {
            "estimator": [{"name": "altmin", "params": {"rank": 1}}],
            "metrics": {"use": ["held_out_error"]},
            "figure": [{"kind": "trajectory", "y": "subspace_distance"}],
        },
        "'subspace_distance' compares with a truth",
    ),
    "an oracle": (
        {"estimator": [{"name": "oracle_subspace"}], "metrics": {"use": ["held_out_error"]}},
        "it is told input_subspace, output_subspace of the truth, and real data have none",
    ),
    "no rank": (
        {"estimator": [{"name": "altmin"}], "metrics": {"use": ["held_out_error"]}},
        "rank must be set, because real data have no true one",
    ),
    "problem and data": ({"problem": {"dim_in": 3}}, "exclude each other"),
    "an unknown source": ({"data": {"source": "grouped_tabel"}}, "did you mean 'grouped_table'"),
    "an unknown option": (
        {"data": {"source": "grouped_table", "path": "t.csv", "target": "y", "user": "id", "fatures": ["a"]}},
        "has no option 'fatures'; did you mean 'features'",
    ),
    "a missing option": ({"data": {"source": "grouped_table", "path": "t.csv"}}, "needs the option 'target'"),
    "features that are no list": (
        {"data": {"source": "grouped_table", "path": "t", "target": "y", "user": "id", "features": "a"}},
        "features must be a list of columns, got 'a'",
    ),
    "a share of one": (
        {"data": {"source": "grouped_table", "path": "t", "target": "y", "user": "id", "held_out": 1.0}},
        "held_out must lie strictly between 0 and 1",
    ),
    "tuning alone unnamed": ({"metrics": {"use": ["held_out_ratio"]}}, "held_out_ratio needs metrics.alone"),
    "a posterior for nothing": (
        {"metrics": {"use": ["held_out_error"], "posterior": "hierarchical"}},
        "serves predicted_error only",
    ),
    "a fixed and varied option": (
        {"grid": {"held_out": [0.1]}, "data": {"source": "words", "mix": "vader", "held_out": 3}},
        "stands in .data. and is varied in the grid",
    ),
    "an unknown lexicon": (
        {"data": {"source": "words", "mix": "vadr"}},
        "mix must be one of .* did you mean 'vader'",
    ),
    "compared with itself": (
        {
            "comparison": [
                {"name": "c", "estimator": "alone", "of": "alone", "metric": "held_out_error", "at_most": 1}
            ]
        },
        "'alone' is compared with itself",
    ),
    "at most and at least": (
        {
            "comparison": [
                {"name": "c", "estimator": "alone", "of": "pooled", "metric": "held_out_error"},
            ]
        },
        "must set exactly one of at_most and at_least",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_real_data_cannot_answer_is_refused_before_the_run(table: Path, what: str) -> None:
    changes, message = REFUSED[what]
    raw = study_of(table, **changes)
    raw["run"] = {"trials": 12}
    with pytest.raises(ct.InputError, match=message):
        ct.Study.from_dict(raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": {"num_samples": [25]}}, "has 0 users with at least 26 rows, 1 are asked for"),
        ({"grid": {"num_users": [13]}}, "has 12 users with at least 2 rows, 13 are asked for"),
        (
            {"data": {"source": "grouped_table", "path": "gone.csv", "target": "y", "user": "id"}},
            "gone.csv cannot be",
        ),
    ],
)
def test_data_that_are_too_few_are_refused_before_the_run(
    table: Path, tmp_path: Path, change: dict, message: str
) -> None:
    study = ct.Study.from_dict(study_of(table, **change, run={"trials": 12}))
    with pytest.raises(ct.InputError, match=message):
        run(study, tmp_path / "out", backend="inline")
    assert not (tmp_path / "out").exists()


def test_held_out_metrics_need_real_data() -> None:
    raw = {
        "schema": 1,
        "name": "drawn",
        "seed": 1,
        "problem": {"num_users": 3, "num_samples": 5, "dim_in": 2, "rank": 1},
        "estimator": [{"name": "ridge"}],
        "metrics": {"use": ["held_out_error"]},
    }
    with pytest.raises(ct.InputError, match="needs rows held out of real data"):
        ct.Study.from_dict(raw)


# --- metrics -----------------------------------------------------------------------------------------------


def test_held_out_errors_are_means_over_the_rows_that_are_there() -> None:
    rng = np.random.default_rng(0)
    xs, weights = [rng.standard_normal((n, 3)) for n in (4, 0, 2)], rng.standard_normal((3, 3, 2))
    ys = [rng.standard_normal((len(x), 2)) for x in xs]
    shift = rng.standard_normal((3, 2))
    fit = ct.estimators.Fit(status="converged", dense=weights, intercepts=shift)
    got = held_out_errors(ct.Dataset.from_arrays(xs, ys), fit)
    assert np.isnan(got[1])
    for i in (0, 2):
        assert got[i] == pytest.approx(((ys[i] - xs[i] @ weights[i] - shift[i]) ** 2).mean())


def test_the_predicted_error_is_right_on_average_under_its_own_model() -> None:
    """Weights drawn from the prior N(0, I), noise known: over many draws predictions average to the errors."""
    k, n, d, sigma = 2000, 12, 6, 0.7
    rng = np.random.default_rng(4)
    truth, x = rng.standard_normal((k, d, 1)), rng.standard_normal((k, n, d))
    data = ct.Dataset.from_arrays(list(x), list(x @ truth + sigma * rng.standard_normal((k, n, 1))))
    posterior = ct.estimators.get("hierarchical")(rank=0).fit(data)
    for name in ("ridge", "full_finetuning", "pooled_ridge"):
        fit = ct.estimators.get(name)().fit(data)
        foretold = predicted_errors(fit, posterior, data)
        real = sigma**2 + ((fit.weights - truth) ** 2).sum((1, 2))
        assert foretold.mean() == pytest.approx(real.mean(), rel=0.06)
        assert np.corrcoef(foretold, real)[0, 1] > 0.1
    with pytest.raises(ct.InputError, match="a posterior with standard errors"):
        predicted_errors(fit, fit, data)


# --- the guide, and sources from elsewhere -----------------------------------------------------------------


def guide(language: str) -> str:
    text = (ROOT / "docs" / "real_data.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)[0]


def test_the_study_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "t.csv", users=30, rows=12).rename(columns={"id": "person", "y": "wage"}).to_csv(
        "wages.csv", index=False
    )
    Path("wages.toml").write_text(guide("toml").replace("[20, 200]", "[10, 30]"), encoding="utf-8")
    done = CliRunner().invoke(main, ["run", "wages.toml", "--set", "run.trials=8", "--no-plot"])
    assert done.exit_code == 0, done.output
    checked = CliRunner().invoke(main, ["check", "runs/wages"])
    assert "together_beats_alone [hierarchical ≤ 0.9 × alone, overall]" in checked.output
    page = CliRunner().invoke(main, ["report", "runs/wages", "-o", "report.html"])
    assert page.exit_code == 0, page.output


def test_a_stranger_adds_a_source_with_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guide's own source, given as a plugin, runs in workers and is reproduced."""
    monkeypatch.chdir(tmp_path)
    Path("sines.py").write_text(guide("python"), encoding="utf-8")
    raw = study_of(
        tmp_path, data={"source": "sines", "num_users": 5}, grid={"num_samples": [4], "phase": [0.1, 2.0]}
    )
    Path("s.toml").write_text(tomli_w.dumps({**raw, "run": {"trials": 4}}), encoding="utf-8")
    words = [sys.executable, "-m", "colora_theory.cli", "--plugin", "sines.py"]
    subprocess.run([*words, "run", "s.toml", "--jobs", "2", "--quiet", "--no-plot"], check=True)
    summary = subprocess.run([*words, "status", "runs/own", "--json"], check=True, capture_output=True, text=True)
    cell = re.search(r'"cell": "(\w+)"', summary.stdout)
    assert cell, summary.stdout[:300]
    again = [*words, "reproduce", "runs/own", "--cell", cell[1], "--trial", "2"]
    assert subprocess.run(again, capture_output=True, text=True).stdout.count(": identical") == 3
