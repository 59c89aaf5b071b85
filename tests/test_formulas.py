"""Formulas in studies and figures: a closed grammar, coupled fields, scaled axes, and nothing executed."""

from __future__ import annotations

import contextlib
import math
import string
import sys
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest

import colora_theory as ct
from colora_theory.errors import InputError
from colora_theory.figures.again import compare, with_figure
from colora_theory.figures.measures import measured
from colora_theory.studies.expressions import Expression, derived
from colora_theory.studies.grid import axis

NAMES = ("num_users", "num_samples", "dof")
OF = {"num_users": 5.0, "num_samples": 20.0, "dof": 40.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3 * dof / num_users", 24.0),
        ("num_users * num_samples / dof", 2.5),
        ("2 ** 3 ** 2", 512.0),
        ("-num_users + (1 + 2) * 4", 7.0),
        ("max(num_users, 7, 2) + min(1, 2)", 8.0),
        ("sqrt(16) + log(exp(2)) + ceil(1.2) + floor(1.8) + round(2.5)", 11.0),
        ("1e3 - 1_000", 0.0),
    ],
)
def test_formulas_are_arithmetic(text, value):
    assert Expression.parse(text, NAMES).value(OF) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('true')", "at character 1"),
        ("num_users.real", "only numbers, names"),
        ("num_user + 1", "at character 1 'num_user' is unknown; did you mean 'num_users'"),
        ("1 + num_usrs", "at character 5 'num_usrs' is unknown"),
        ("(lambda: 1)()", "only numbers, names"),
        ("[1, 2]", "only numbers, names"),
        ("1 if 2 else 3", "only numbers, names"),
        ("num_users < 3", "only numbers, names"),
        ("'a' * 3", "must be a number"),
        ("True + 1", "must be a number"),
        ("1 +", "it cannot be read at character"),
        ("", "it cannot be read"),
        ("sqrt()", "sqrt takes 1 to 1 numbers"),
        ("sqrt(x=1)", "sqrt takes"),
        ("1 // 2", "only numbers, names"),
        ("9 ** 9 ** 9 ** 9", "gives no number|not finite"),
        ("1 / (num_users - 5)", "gives no number for num_users = 5.0: .*division"),
        ("log(0 - 1)", "gives no number"),
        ("(0 - 1) ** 0.5", "gives no number"),
        ("(" * 90 + "1" + ")" * 90, "cannot be read|gives|nested|only")
        if False
        else ("1" + "+1" * 160, "at most 300"),
        ("-" * 60 + "1", "nested too deeply"),
    ],
)
def test_everything_else_is_refused_and_the_place_is_named(text, message):
    with pytest.raises(InputError, match=message):
        Expression.parse(text, NAMES).value(OF)


#: What the interpreter tells of while a formula is read: code run, modules imported, files opened, …
FORBIDDEN = (
    "exec",
    "import",
    "open",
    "os.",
    "subprocess.",
    "socket.",
    "ctypes.",
    "marshal.",
    "object.__getattr__",
)
_seen: list[str] = []
_watching = [False]


def _told(event: str, _: object) -> None:
    if _watching[0] and event.startswith(FORBIDDEN):
        _seen.append(event)


sys.addaudithook(_told)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Fails when anything but reading a text happens inside."""
    _seen.clear()
    _watching[0] = True
    try:
        yield
    finally:
        _watching[0] = False
    assert not _seen


def test_running_code_would_be_noticed() -> None:
    for code in ("eval('1 + 1')", "__import__('json')", "open('/dev/null').close()"):
        with pytest.raises(AssertionError), watched():
            eval(code)


def mutated(times: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    signs = [
        *list(string.printable),
        "num_users",
        "dof",
        "sqrt(",
        "**",
        "__",
        "lambda ",
        "import os",
        "{",
        "é",
        "\x00",
    ]
    for _ in range(times):
        text = list("3 * dof / num_users + sqrt(num_samples)")
        for _ in range(int(rng.integers(1, 8))):
            place = int(rng.integers(len(text) + 1))
            if rng.random() < 0.5 and text:
                text[min(place, len(text) - 1)] = str(rng.choice(signs))
            else:
                text.insert(place, str(rng.choice(signs)))
        with watched(), contextlib.suppress(InputError):  # and nothing else
            assert math.isfinite(Expression.parse("".join(text), NAMES).value(OF))


def test_mutated_formulas():
    mutated(2000, seed=1)


@pytest.mark.slow
def test_many_mutated_formulas():
    mutated(20_000, seed=2)


BASE = {
    "schema": 1,
    "name": "scaled",
    "seed": 3,
    "problem": {"num_samples": "3 * dof / num_users", "dim_in": "2 * num_users", "rank": 2, "noise_std": 0.1},
    "grid": {"num_users": [5, 10]},
    "estimator": [{"name": "altmin"}, {"name": "full_finetuning"}],
    "metrics": {"use": ["mean_user_error", "parameter_error"]},
    "run": {"trials": 3},
}


def study(**changes) -> ct.Study:
    return ct.Study.from_dict({**BASE, **changes})


def test_fields_follow_from_each_other():
    cells = study().cells
    for cell, users in zip(cells, (5, 10), strict=True):
        problem = cell.problem
        assert problem.dim_in == 2 * users
        assert problem.degrees_of_freedom == 2 * (2 * users - 2) + 2 * users
        assert problem.num_samples == math.ceil(3 * problem.degrees_of_freedom / users)
    # a cell is its problem: the same numbers written out are the same cell, with the same seeds
    plain = {**BASE["problem"], "num_samples": cells[0].problem.num_samples, "dim_in": 10}
    assert study(problem=plain, grid={"num_users": [5]}).cells[0].words == cells[0].words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem": {"num_samples": "dim_in", "dim_in": "num_samples", "rank": 1}}, "need each other"),
        ({"problem": {"num_samples": "dof", "dim_in": 5, "rank": "dof"}}, "need each other"),
        ({"problem": {"num_samples": "0 * num_users", "dim_in": 0, "rank": 1}}, "dim_in must be"),
        ({"problem": {"num_samples": "rank + nonsense", "dim_in": 4, "rank": 1}}, "'nonsense' is unknown"),
        ({"grid": {"num_users": {"log": [5, 50]}}}, "must be .low, high, count."),
        ({"grid": {"num_users": {"log": [0, 50, 3]}}}, "positive ends"),
        ({"grid": {"num_users": {"cubic": [1, 50, 3]}}}, "must be a list"),
        ({"zip": [{"noise_std": [0.1, 0.2], "rank": [1]}]}, "lists of one length"),
        ({"zip": [{"num_users": [5, 6]}]}, "varied already"),
        ({"zip": [{"nonsense": [5, 6]}]}, "unknown key 'zip.1..nonsense'"),
    ],
)
def test_wrong_grids_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        study(**changes)


def test_ranges_and_zipped_axes():
    assert axis("num_users", {"log": [10, 1000, 3]}) == [10, 100, 1000]
    assert axis("noise_std", {"linear": [0, 1, 5]}) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert axis("noise_std", {"linear": [2, 10, 3]}) == [2.0, 6.0, 10.0]
    assert axis("num_users", {"log": [1, 4, 9]}) == [1, 2, 3, 4]  # whole numbers, each once
    problem = {"num_samples": 20, "noise_std": 0.1}
    cells = study(problem=problem, grid={"num_users": [6, 8]}, zip=[{"dim_in": [10, 20], "rank": [1, 2]}]).cells
    assert [(c.problem.num_users, c.problem.dim_in, c.problem.rank) for c in cells] == [
        (6, 10, 1),
        (6, 20, 2),
        (8, 10, 1),
        (8, 20, 2),
    ]


def test_derived_quantities_are_those_of_the_problem():
    for fields in (
        {"num_users": 7, "dim_in": 9, "dim_out": 4, "rank": (2, 3), "noise_std": 0.5},
        {"num_users": 7, "dim_in": 9, "rank": 2, "noise_std": 0.25, "signal_norm": 2.0},
    ):
        problem, found = ct.Problem(num_samples=10, **fields), derived(fields)
        assert found["dof"] == problem.degrees_of_freedom
        assert (found["rank_in"], found["rank_out"]) == (problem.rank_in, problem.rank_out)
        assert found["snr"] == problem.signal_norm / problem.noise_std


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ct.Results:
    wanted = study(
        problem={"noise_std": 0.1},
        grid={"num_users": [6, 12], "num_samples": [30, 60]},
        zip=[{"dim_in": [8, 12], "rank": [1, 2]}],
        guarantee=[{"name": "cramer_rao", "estimator": "altmin"}],
    )
    return ct.run(wanted, tmp_path_factory.mktemp("scaled") / "run", backend="inline")


def test_curves_collapse_in_scaled_quantities(results):
    """Error over σ² dof/(n k) against n k/dof: theory's own units, one line for every (d, r)."""
    picture = ct.draw(
        results,
        x="num_users * num_samples / dof",
        y="parameter_error * num_samples / (noise_std ** 2 * dof)",
        estimators=["altmin"],
        slopes=[-1],
        y_limits=[0.1, 10],
    )
    (axes,) = picture.axes
    lines = {bars.get_label(): bars.lines[0] for bars in axes.containers}
    assert len(lines) == 2  # num_users and num_samples run along the axis; d and r make lines
    frame = results.summary()
    for line in lines.values():
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True):
            fits = []
            for cell in results.study.cells:
                p = cell.problem
                mean = frame[(frame.cell == cell.id) & (frame.estimator == "altmin")]
                mean = float(mean[mean.metric == "parameter_error"]["mean"].iloc[0])
                scaled = mean * p.num_samples / (p.noise_std**2 * p.degrees_of_freedom)
                fits.append((p.num_users * p.num_samples / p.degrees_of_freedom, scaled))
            assert any(a == pytest.approx(x) and b == pytest.approx(y) for a, b in fits)
            assert 0.3 < y < 3
    assert axes.get_ylim() == (0.1, 10)
    plt.close(picture)


def test_ratios_to_a_bound_and_to_a_method(results):
    figure = ct.Study.from_dict(
        {
            **results.study.resolved(),
            "figure": [{"kind": "curve", "x": "num_samples", "y": "parameter_error / cramer_rao"}],
        }
    ).figures[0]
    table, factors = measured(results, figure, "parameter_error / cramer_rao")
    claims = results.guarantee_values("cramer_rao").groupby("cell")["claim"].mean()
    for cell, factor in factors.items():
        assert factor == pytest.approx(1.0 / claims[cell])
    assert table[table.estimator == "altmin"]["mean"].between(0.3, 3).all()
    relative = figure.model_copy(update={"y": "mean_user_error", "baseline": "full_finetuning"})
    table, _ = measured(results, relative, "mean_user_error")
    assert set(table.estimator) == {"altmin"}
    frame = results.summary()
    for row in table.itertuples():
        both = frame[(frame.cell == row.cell) & (frame.metric == "mean_user_error")].set_index("estimator")["mean"]
        assert row.mean == pytest.approx(both["altmin"] / both["full_finetuning"])
        assert 0 < row.low < row.mean < row.high


def test_curves_of_other_quantities_are_not_compared(results):
    """Two studies whose first figures are curves of different y: one picture would have two meanings."""

    def of(y):
        shown = ct.Results.open(results.file)
        shown.__dict__["study"] = with_figure(results.study, {"kind": "curve", "x": "num_samples", "y": y})
        return shown

    assert compare([of("mean_user_error"), of("mean_user_error")]).axes
    with pytest.raises(InputError, match="must be curves of the same x and y"):
        compare([of("mean_user_error"), of("parameter_error / cramer_rao")])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"x": "num_users * nonsense", "y": "mean_user_error"}, "'nonsense' is unknown"),
        ({"x": "num_users", "y": "mean_user_error ** 2"}, "must be a positive factor times"),
        ({"x": "num_users", "y": "mean_user_error + num_users"}, "must be a positive factor times"),
        ({"x": "num_users", "y": "mean_user_error * parameter_error"}, "exactly one metric"),
        ({"x": "num_users", "y": "2 * num_users"}, "exactly one metric"),
        ({"x": "num_users", "y": "mean_user_error", "baseline": "nobody"}, "baseline: unknown name"),
    ],
)
def test_wrong_figures_are_refused(results, keys, message):
    with pytest.raises(InputError, match=message):
        ct.draw(results, **keys)


def test_heatmaps_take_scaled_axes(results):
    picture = ct.draw(
        results,
        "heatmap",
        x="num_users",
        y="num_samples / dim_in",
        value="mean_user_error",
        estimators=["altmin"],
        col="rank",
    )
    plt.close(picture)


def test_several_studies_in_one_picture(results, tmp_path):

    curve = {"kind": "curve", "x": "num_samples", "y": "mean_user_error"}
    runs = []
    for seed in (1, 2):
        table = with_figure(results.study, curve).resolved() | {"seed": seed, "name": f"study{seed}"}
        runs.append(ct.run(ct.Study.from_dict(table), tmp_path / str(seed), backend="inline"))
    picture = compare(runs)
    labels = [bars.get_label() for bars in picture.axes[0].containers]
    assert any(text.startswith("study1: ") for text in labels)
    assert any(text.startswith("study2: ") for text in labels)
    plt.close(picture)
    with pytest.raises(InputError, match="at least two runs"):
        compare(runs[:1])
    with pytest.raises(InputError, match="curves of the same x and y"):
        compare([results, runs[0]])
