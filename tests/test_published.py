"""Published numbers: read, matched, judged point by point, drawn and told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats
from statsmodels.stats.multitest import multipletests

import colora_theory as ct
from colora_theory.cli import main
from colora_theory.figures.draw import draw, stored, svg, tables_of
from colora_theory.reports import gallery, html
from colora_theory.reports.published import as_markdown, found_in
from colora_theory.studies.published import columns_of
from colora_theory.verdicts.published import MeanTest, compare_published, tally, two_samples

N, D, NOISE = 24, 6, 0.5
HEAD = "num_samples,series,metric,y,std,reps\n"
STUDY = """
schema = 1
name = "held_against"
title = "Tuning alone"
claim = "Numbers of a paper about least squares, which are the exact risks themselves."
seed = 20

[problem]
num_users = 4
dim_in = 6
rank = 2
noise_std = 0.5

[grid]
num_samples = [24, 48]

[[estimator]]
name = "full_finetuning"
label = "alone"
[[estimator]]
name = "ridge"
label = "heavy ridge"
params = { penalty = 1e6 }

[metrics]
use = ["mean_user_error", "parameter_error"]

[[published]]
paper = "Nobody 2020"
source = "https://example.org"
commit = "0123456789abcdef"
licence = "MIT"
file = "numbers.csv"
"""
END = """
[run]
trials = 60

[[figure]]
kind = "published"
x = "num_samples"
y = "mean_user_error"
"""


def risk(n: int) -> float:
    """Exact mean squared error of a user's least squares with Gaussian covariates."""
    return NOISE**2 * D / (n - D - 1)


def rows(factor: float = 1.0, label: str = "alone", ns: tuple[int, ...] = (24, 48)) -> str:
    """Published means that are `factor` times the truth, each over 400 repetitions."""
    return "".join(f"{n},{label},mean_user_error,{factor * risk(n)},{0.5 * risk(n)},400\n" for n in ns)


def written(folder: Path, text: str, more: str = "", head: str = HEAD, study: str = STUDY) -> Path:
    (folder / "numbers.csv").write_text("# a comment\n" + head + text, encoding="utf-8")
    file = folder / "held_against.toml"
    file.write_text(study + more + END, encoding="utf-8")
    return file


def judged(folder: Path, text: str, more: str = "", **kwargs: str) -> list:
    study = ct.Study.from_toml(written(folder, text, more, **kwargs))
    return compare_published(ct.run(study, folder / "run", backend="inline"))


def with_key(line: str) -> str:
    """The study with one more key of its published table."""
    return STUDY.replace('file = "numbers.csv"', f'file = "numbers.csv"\n{line}')


EXPLAINED = """
[[published.explained]]
series = "alone"
where = { num_samples = [24, 36] }
by = "heavy ridge"
verdict = "not converged"
text = "Their numbers are those of a ridge penalty that shrinks everything to nothing."
"""


def test_true_numbers_agree_and_a_planted_difference_is_caught(tmp_path: Path) -> None:
    (true,) = {c.status for c in judged(tmp_path, rows())}
    assert true == "agrees"
    (false,) = {c.status for c in judged(tmp_path, rows(1.3))}
    assert false == "differs"
    mixed = judged(tmp_path, rows(1.3, ns=(24,)) + rows(ns=(48,)))
    assert [c.status for c in mixed] == ["differs", "agrees"]
    assert tally(mixed) == "1 agrees, 1 differs (1 unexplained)"
    assert mixed[0].open
    low, high = mixed[0].test.interval
    assert low < -0.3 * risk(24) < high < 0  # the interval holds the planted difference, and not zero
    assert low < mixed[0].test.difference < high


def test_only_a_run_that_agrees_explains_a_difference(tmp_path: Path) -> None:
    nothing = 1.0  # error of a weight of zero: the signal's mean square
    shrunk = "".join(f"{n},alone,mean_user_error,{nothing},0.35,400\n" for n in (24, 48))
    first, second = judged(tmp_path, shrunk, EXPLAINED)
    assert (first.status, first.explained) == ("not converged", True)
    assert "ridge penalty" in str(first)
    assert (second.status, second.explained) == ("differs", False)  # the explanation speaks about n = 24 only
    assert second.reason == "no explanation in the study"
    first, _ = judged(tmp_path, rows(1.3), EXPLAINED)  # the ridge's numbers are not 1.3 times the risk either
    assert (first.status, first.explained) == ("differs", False)
    assert "the run that should explain it does not: 'heavy ridge'" in first.reason


def test_numbers_that_samples_do_not_determine(tmp_path: Path) -> None:
    """n = r: every subspace interpolates, so that a published angle that differs is no contradiction."""
    study = (
        STUDY.replace("[24, 48]", "[2, 24]")
        .replace('name = "full_finetuning"', 'name = "altmin"')
        .replace('["mean_user_error", "parameter_error"]', '["mean_user_error", "subspace_distance"]')
    )
    text = "".join(f"{n},alone,subspace_distance,0.5,0.01,400\n" for n in (2, 24))
    few, many = judged(tmp_path, text, study=study)
    assert few.status == "not identifiable"
    assert "equations" in few.reason
    assert many.status == "differs"  # 24 samples do determine it


def test_pairs_are_judged_trial_by_trial(tmp_path: Path) -> None:
    head = "num_samples,series,metric,y,trial\n"
    own = ct.run(ct.Study.from_toml(written(tmp_path, rows())), tmp_path / "own", backend="inline")
    frame = own.frame()
    mine = frame[(frame["estimator"] == "alone") & (frame["metric"] == "mean_user_error")]

    def text(change: Callable[[float, int], float]) -> str:
        cells = zip(mine["num_samples"], mine["trial"], mine["value"], strict=True)
        return "".join(f"{n},alone,mean_user_error,{change(v, t)!r},{t}\n" for n, t, v in cells if t < 20)

    same = judged(tmp_path, text(lambda v, t: v), head=head)
    assert [c.status for c in same] == ["agrees", "agrees"]
    assert same[0].test.trials == 20
    # a hundredth more in every pair: far below what two samples could show
    more = judged(tmp_path, text(lambda v, t: 1.01 * v), head=head)
    assert [c.status for c in more] == ["differs", "differs"]
    sign = judged(tmp_path, text(lambda v, t: v * (1 + 0.01 * (-1) ** t)), head=head)
    assert [c.status for c in sign] == ["agrees", "agrees"]
    coarse = judged(tmp_path, text(lambda v, t: round(v, 2)), head=head, study=with_key("rounding = 6e-3"))
    assert [c.status for c in coarse] == ["agrees", "agrees"]
    few = judged(tmp_path, "".join(text(lambda v, t: 2 * v).splitlines(keepends=True)[:5]), head=head)
    assert few[0].status == "inconclusive"


LAWS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "bounded and skewed to the left": lambda rng, n: 1.0 - rng.beta(0.5, 20.0, size=n),
    "lognormal": lambda rng, n: np.exp(0.5 * rng.standard_normal(n)),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("mine", "theirs"), [(40, 30), (10, 30), (60, 10)])
def test_two_samples_hold_their_level(law: str, mine: int, theirs: int) -> None:
    """Binomial test of the false alarms at the level 1e-2, itself at the level 1e-7."""
    rng, level, repeats = np.random.default_rng(mine), 0.01, 1500
    alarms = 0
    for _ in range(repeats):
        ours, other = LAWS[law](rng, mine), LAWS[law](rng, theirs)
        base = MeanTest(difference=float(ours.mean() - other.mean()))
        alarms += two_samples(base, ours, float(other.std(ddof=1)), theirs, level, 0.0).p_value <= level
    assert stats.binom.sf(alarms - 1, repeats, level) > 1e-7


def test_p_value_and_interval_tell_the_same() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        ours = rng.exponential(size=20)
        base = MeanTest(difference=float(ours.mean() - rng.exponential(size=15).mean()))
        found = two_samples(base, ours, 1.0, 15, 0.2, 0.0)
        outside = not found.interval[0] <= 0.0 <= found.interval[1]
        assert outside == (found.p_value <= 0.2)


def test_constants_are_compared_as_such() -> None:
    same = two_samples(MeanTest(difference=0.0), np.ones(9), 0.0, 5, 0.05, 1e-9)
    other = two_samples(MeanTest(difference=0.1), np.ones(9), 0.0, 5, 0.05, 1e-9)
    assert (same.p_value, other.p_value) == (1.0, 0.0)


def test_points_of_a_paper_are_one_family(tmp_path: Path) -> None:
    """Holm's adjustment agrees with statsmodels, the points of other studies counted as never rejected."""
    found = judged(tmp_path, rows(1.12), study=with_key("family = 12"))
    raw = [c.test.p_value for c in found] + [1.0] * 10
    np.testing.assert_allclose([c.adjusted for c in found], multipletests(raw, method="holm")[1][:2])
    assert {c.family for c in found} == {12}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("num_samples,series,metric,y\n24,alone,mean_user_error,1\n", "std and reps, or trial"),
        ("num_samples,series,metric,y,std\n24,alone,mean_user_error,1,1\n", "std and reps, or trial"),
        ("num_samplse,series,metric,y,trial\n24,alone,mean_user_error,1,0\n", "did you mean 'num_samples'"),
        ("num_samples,series,y,trial\n24,alone,1,0\n", "no column 'metric'"),
        ("num_samples,series,metric,y,trial\n24,alone,mean_user_error,1\n", "row 2 has 4 entries, the head 5"),
        ("num_samples,series,metric,y,trial\n", "holds no points"),
    ],
)
def test_wrong_files_are_refused(text: str, said: str) -> None:
    with pytest.raises(ct.InputError, match=said):
        columns_of(text, "numbers.csv")


@pytest.mark.parametrize(
    ("text", "study", "said"),
    [
        (rows(label="nobody"), STUDY, "unknown name 'nobody'"),
        (rows().replace("mean_user", "max_user"), STUDY, "unknown name 'max_user_error'"),
        (rows() + rows(), STUDY, "gives 2 numbers for 'alone' at num_samples = 24"),
        (rows() + "24,heavy ridge,mean_user_error,nan,1,4\n", STUDY, "row 4 must hold finite numbers"),
        (rows(), STUDY.replace('file = "numbers.csv"', 'file = "none.csv"'), "cannot read"),
        (rows(), STUDY.replace('file = "numbers.csv"', 'file = "../numbers.csv"'), "published.file"),
        (
            rows(),
            STUDY.replace('file = "numbers.csv"', 'file = "numbers.csv"\nfamily = 1'),
            "at least the 2 points",
        ),
        (rows(), STUDY + EXPLAINED.replace('"heavy ridge"', '"ridge"'), "explained.1..by: unknown name 'ridge'"),
        (rows(), STUDY + EXPLAINED.replace("num_samples", "dim_in"), "explained.1..where.dim_in"),
        (rows(), STUDY.replace('licence = "MIT"', ""), "licence is missing"),
    ],
)
def test_wrong_studies_are_refused_before_any_work(tmp_path: Path, text: str, study: str, said: str) -> None:
    with pytest.raises(ct.InputError, match=said) as error:
        ct.Study.from_toml(written(tmp_path, text, study=study))
    assert "\n" not in str(error.value)


def test_a_figure_of_published_numbers_needs_some(tmp_path: Path) -> None:
    plain = STUDY[: STUDY.index("[[published]]")]
    with pytest.raises(ct.InputError, match="needs a published table"):
        ct.Study.from_toml(written(tmp_path, rows(), study=plain))


def test_a_store_keeps_the_numbers_without_the_file(tmp_path: Path) -> None:
    first = judged(tmp_path, rows(1.3))
    (tmp_path / "numbers.csv").unlink()
    again = compare_published(ct.Results.open(tmp_path / "run"))
    assert list(map(repr, first)) == list(map(repr, again))  # some numbers are NaN, which equals nothing


def test_it_is_shown_by_check_report_figure_and_gallery(tmp_path: Path) -> None:
    results = ct.run(
        ct.Study.from_toml(written(tmp_path, rows(1.3, ns=(24,)) + rows(ns=(48,)))),
        tmp_path / "run",
        backend="inline",
    )
    told = CliRunner().invoke(main, ["check", str(tmp_path / "run")])
    assert told.exit_code == 1
    assert "Nobody 2020 [alone, mean_user_error, num_samples = 24]: differs" in told.output
    assert "published points: 1 agrees, 1 differs (1 unexplained)" in told.output
    as_json = json.loads(CliRunner().invoke(main, ["check", "--json", str(tmp_path / "run")]).output)
    assert [entry["status"] for entry in as_json] == ["differs", "agrees"]
    html.write([results], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Published numbers" in page
    assert "no explanation in the study" in page
    draw(results, tmp_path / "figures", formats=("svg",))
    (figure,) = results.study.figures
    tables = tables_of(results, figure)
    assert tables["published"]["verdict"].tolist() == ["differs", "agrees"]
    np.testing.assert_allclose(tables["published"]["mean"], [1.3 * risk(24), risk(48)])
    kept = stored(tmp_path / "figures" / "held_against.csv", results.study, figure)
    assert svg(results.study, figure, kept) == (tmp_path / "figures" / "held_against.svg").read_text(
        encoding="utf-8"
    )
    lines = "\n".join(as_markdown(found_in(compare_published(results))))
    assert "| alone | mean_user_error | 1 | 1 |" in lines
    assert "Unexplained." in lines


def test_studies_in_folders_are_found(tmp_path: Path) -> None:
    experiments, figures = tmp_path / "experiments", tmp_path / "figures"
    inner = experiments / "published" / "nobody"
    inner.mkdir(parents=True)
    written(inner, rows())
    done = gallery.reproduce_all(experiments, tmp_path / "runs", figures, quick=True, tell=lambda text: None)
    assert [results.study.name for results in done] == ["held_against"]
    page = gallery.page(experiments, figures)
    assert "[held_against.toml](published/nobody/held_against.toml)" in page
    assert "Numbers of Nobody 2020: [example.org](https://example.org), commit 0123456789ab, licence MIT." in page
    again = ct.Study.from_toml(tmp_path / "runs" / "held_against" / "study.toml")  # stands alone
    assert again.table.published == done[0].study.table.published


def test_the_paper_of_the_docs_is_added_with_one_toml_and_one_csv(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "published.md").read_text(encoding="utf-8")
    first, study, explained = (part.partition("```")[0] for part in re.split("```(?:csv|toml)\n", text)[1:])
    (tmp_path / "somebody_2020.csv").write_text(first, encoding="utf-8")
    (tmp_path / "somebody_2020.toml").write_text(study.replace("trials = 50", "trials = 9"), encoding="utf-8")
    results = ct.run(ct.Study.from_toml(tmp_path / "somebody_2020.toml"), tmp_path / "run", backend="inline")
    assert [c.point.y for c in compare_published(results)] == [0.912, 0.497]
    steps = '[[estimator]]\nname = "gradient_multitask"\nlabel = "least squares, 100 gradient steps"\n'
    steps += 'params = { centre = "alone", steps = 100 }\n'
    more = study.replace("[run]", explained + "[run]").replace("[metrics]", steps + "[metrics]")
    (tmp_path / "somebody_2020.toml").write_text(more, encoding="utf-8")
    assert ct.Study.from_toml(tmp_path / "somebody_2020.toml").table.published[0].explained
