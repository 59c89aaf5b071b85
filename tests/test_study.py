"""Study files: what is read, what is refused and how, and what a cell's identity is."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import engine_fakes
import pytest

from colora_theory.errors import InputError
from colora_theory.estimators import Estimator, base
from colora_theory.model import metrics
from colora_theory.studies import templates
from colora_theory.studies.cells import words_of
from colora_theory.studies.overrides import MAX_FILE_BYTES, parse_overrides, parsed
from colora_theory.studies.study import Study


@pytest.fixture(autouse=True)
def fakes():
    engine_fakes.register()
    yield
    engine_fakes.unregister()


def build(overrides=(), **changes):
    return Study.from_dict(engine_fakes.study(**changes), overrides)


def test_a_study_says_what_its_file_says():
    study = build(
        title="t",
        claim="c",
        exclude=[{"where": {"num_users": 3, "noise_std": [0.1, 0.2]}}],
        problem={"num_samples": [6, 8], "dim_in": 5, "rank": [2, 1]},
        grid={"num_users": [3, 5], "noise_std": [0.1, 0.2, 0.3]},
    )
    assert (study.name, study.title, study.claim, study.seed) == ("small", "t", "c", 7)
    assert [c.varied for c in study.cells] == [
        {"num_users": 3, "noise_std": 0.3},
        {"num_users": 5, "noise_std": 0.1},
        {"num_users": 5, "noise_std": 0.2},
        {"num_users": 5, "noise_std": 0.3},
    ]
    assert study.cells[0].problem.counts == (6, 8, 6)
    assert [e.label for e in study.estimators] == ["fake_noise", "full_finetuning"]
    assert study.run.trials == 12
    assert str(study.cells[0]) == "num_users = 3, noise_std = 0.3"


def test_resolved_study_builds_the_same_study():
    study = build(["run.trials=3", "grid.num_users=[4]", "problem.design=sensing"])
    again = Study.from_dict(study.resolved())
    assert again.resolved() == study.resolved()
    assert again.identity() == study.identity()
    assert again.cells == study.cells
    assert study.run.trials == 3
    assert study.cells[0].problem.design == "sensing"


def test_identity_of_a_cell_is_its_content():
    one = build(grid={"num_users": [3, 5]}, problem={"num_samples": 6, "dim_in": 5, "rank": 2, "noise_std": 0})
    two = build(
        grid={"noise_std": [0.0, 1], "num_users": [5]}, problem={"num_samples": 6, "dim_in": 5, "rank": [2, 1]}
    )
    assert one.cells[1].words == two.cells[0].words
    assert one.cells[1].id == two.cells[0].id
    assert len({c.id for c in [*one.cells, *two.cells]}) == 3


def test_forms_of_one_grid_share_its_cells_and_others_do_not():
    tables = engine_fakes.study(run={"trials": 12, "quick": {"trials": 2}})
    assert Study.from_dict(tables).cells is Study.from_dict(tables, quick=True).cells
    for axis in ([3, 5], [5, 3], [4]):
        for noise in (0.0, 0.1):
            study = build({"problem.noise_std": noise, "grid.num_users": axis})
            assert [(c.problem.num_users, c.problem.noise_std) for c in study.cells] == [(k, noise) for k in axis]
    with pytest.raises(InputError, match="num_users must be an integer"):  # equal to 1, and no number of users
        build({"grid.num_users": [True]}, problem={"num_samples": 6, "dim_in": 5, "rank": 1})


@dataclass(frozen=True, kw_only=True)
class UpToTwo(Estimator):
    """Takes ranks up to two."""

    name = "fake_up_to_two"
    rank: int

    def __post_init__(self):
        super().__post_init__()
        if self.rank > 2:
            raise ValueError("two at most")


def test_parameters_that_are_wrong_in_some_cells_only_are_found(monkeypatch):
    monkeypatch.setitem(base._registry._items, "fake_up_to_two", UpToTwo)
    fields = {"num_samples": 6, "dim_in": 5}

    def ranked(name, rank, **changes):
        method = {"name": name, "params": {} if rank is None else {"rank": rank}}
        return build(estimator=[method], **changes)

    over_ranks = {"problem": fields | {"num_users": 4}, "grid": {"rank": [1, 2, 3], "noise_std": [0.1, 0.2]}}
    over_users = {"problem": fields | {"rank": 1}, "grid": {"num_users": [4, 3, 2]}}
    assert len(ranked("altmin", None, **over_ranks).cells) == len(ranked("fake_up_to_two", 2, **over_ranks).cells)
    with pytest.raises(InputError, match=r"'fake_up_to_two' \(rank = 3, noise_std = 0.1\): two at most"):
        ranked("fake_up_to_two", None, **over_ranks)
    with pytest.raises(InputError, match=r"'altmin' \(num_users = 2\): rank must be at most .* = 2, got 3"):
        ranked("altmin", 3, **over_users)
    for wrong in (1.0, True):  # equal to the rank of the cells, and no rank
        with pytest.raises(InputError, match=r"'altmin' \(num_users = 4\): rank must be an integer"):
            ranked("altmin", wrong, **over_users)


def test_words_do_not_depend_on_the_order_of_keys_nor_on_the_version_of_python():
    assert words_of({"a": 1, "b": (2, 0.1)}) == words_of({"b": [2, 0.1], "a": 1})
    assert words_of({"a": 1})[0] == 0x015ABD7F


def test_quick_replaces_trials_and_grid_and_set_beats_quick():
    tables = engine_fakes.study(
        run={
            "trials": 50,
            "quick": {"trials": 2, "grid": {"num_users": [4]}},
            "max_trials": 90,
            "target_mcse": {"parameter_error": {"relative": 0.1}},
        }
    )
    quick = Study.from_dict(tables, quick=True)
    assert quick.quick
    assert [c.problem.num_users for c in quick.cells] == [4]
    assert quick.run.most_trials == 2
    assert Study.from_dict(tables, ["run.trials=9"], quick=True).run.most_trials == 9
    assert Study.from_dict(tables).run.most_trials == 90


def test_overrides_are_toml_values():
    assert parse_overrides(["a.b = [1, 2]", "c=true", "d=word", 'e="x y"', "f={g=1}"]) == {
        "a.b": [1, 2], "c": True, "d": "word", "e": "x y", "f": {"g": 1},
    }  # fmt: skip
    assert build(["estimator.0.params.scale=2.0"]).estimators[0].params == {"scale": 2.0}
    assert build(["estimator.1={name='fake_raises'}"]).estimators[1].name == "fake_raises"
    assert build({"run.trials": 3}).run.trials == 3


@pytest.mark.parametrize("text", ["run.trials", "=3", "run.trials=1 2", "run.trials=1\nb=2", "run.trials=", "a=;"])
def test_wrong_overrides_are_refused(text):
    with pytest.raises(InputError, match="--set"):
        parse_overrides([text])


@pytest.mark.parametrize(("parts", "message"), [(34, "a key has more than 32 parts"), (32, "unknown key")])
def test_keys_of_many_parts_are_refused_before_they_are_read(parts, message):
    """TOML readers take time and depth that grow with the parts of a key: thirty-two are allowed."""
    with pytest.raises(InputError, match=message):
        Study.from_dict(parsed(".".join(["a"] * parts) + " = 1"))


E = [{"name": "fake_noise"}]
WRONG = {
    "no schema": ({"schema": None}, "schema must be 1, got None"),
    "newer schema": ({"schema": 2}, "newer version of colora_theory"),
    "unknown key": ({"zzz": 3}, "unknown key 'zzz'; allowed: break_even, claim"),
    "misspelt section": ({"metric": {"use": ["success"]}}, "did you mean 'metrics'"),
    "misspelt run key": ({"run": {"trails": 3}}, "unknown key 'run.trails'; did you mean 'trials'"),
    "misspelt field": ({"grid": {"num_user": [3]}}, "unknown key 'grid.num_user'; did you mean 'num_users'"),
    "field of wrong type": ({"problem": 3}, "problem must be a table, got 3"),
    "name with slash": ({"name": "../x"}, "name must match pattern"),
    "negative seed": ({"seed": -1}, "seed must be greater than or equal to 0, got -1"),
    "seed as text": ({"seed": "1"}, "seed must be a valid integer, got '1'"),
    "float trials": ({"run": {"trials": 3.5}}, "run.trials must be a valid integer"),
    "no trials": ({"run": {"trials": 0}}, "run.trials must be greater than or equal to 1, got 0"),
    "bool trials": ({"run": {"trials": True}}, "run.trials must be a valid integer, got True"),
    "nan timeout": ({"run": {"timeout": float("nan")}}, "run.timeout must be"),
    "empty grid": ({"grid": {"num_users": []}}, "grid.num_users must have at least 1 item"),
    "scalar grid": ({"grid": {"num_users": 3}}, "grid.num_users must be a list, got 3"),
    "impossible rank": ({"grid": {"num_users": [1]}}, "rank must be at most"),
    "impossible field": ({"grid": {"num_users": [3, -5]}}, "num_users = -5.*num_users must be an integer ≥ 1"),
    "twice the same": ({"grid": {"num_users": [3, 3]}}, "holds one problem twice"),
    "in both": ({"grid": {"num_users": [3], "dim_in": [5]}}, "dim_in stands in .problem. and is varied"),
    "missing field": ({"problem": {"dim_in": 5, "rank": 2}}, "problem.num_samples is missing"),
    "huge grid": ({"grid": {"num_users": [*range(2, 1002)], "outlier_norm": [*range(1000)]}}, "1000000 cells"),
    "nothing left": ({"exclude": [{"where": {"num_users": [3, 5]}}]}, "removes all"),
    "exclude typo": ({"exclude": [{"where": {"users": 3}}]}, "unknown name 'users'; did you mean 'num_users'"),
    "no estimator": ({"estimator": []}, "estimator must have at least 1 item"),
    "table estimator": ({"estimator": {"name": "altmin"}}, "estimator must be a list of tables"),
    "unknown estimator": ({"estimator": [{"name": "fake_noize"}]}, "did you mean 'fake_noise'"),
    "unknown parameter": ({"estimator": [{"name": "fake_noise", "params": {"skale": 1}}]}, "did you mean 'scale'"),
    "side information": ({"estimator": [{"name": "fake_oracle", "params": {"input_subspace": 1}}]}, "unknown"),
    "infinite parameter": ({"estimator": [{"name": "fake_noise", "params": {"scale": float("inf")}}]}, "finite"),
    "same label": ({"estimator": [*E, *E]}, "label 'fake_noise' is taken already"),
    "wrong parameter": ({"estimator": [{"name": "altmin", "params": {"tol": -1}}]}, "estimator 'altmin'"),
    "rank too large": ({"estimator": [{"name": "altmin", "params": {"rank": 4}}]}, "at most.*= 3, got 4"),
    "unknown metric": ({"metrics": {"use": ["parameter_eror"]}}, "did you mean 'parameter_error'"),
    "metric twice": ({"metrics": {"use": ["success", "success"]}}, "lists 'success' twice"),
    "target of unused": ({"run": {"target_mcse": {"success": {"absolute": 1.0}}}}, "run.target_mcse.success"),
    "target both": ({"run": {"target_mcse": {"parameter_error": {}}}}, "exactly one of relative and absolute"),
    "max without target": ({"run": {"max_trials": 9}}, "run.max_trials needs run.target_mcse"),
    "quick typo": ({"run": {"quick": {"grid": {"noise_std": [1]}}}}, "run.quick.grid.noise_std is not in"),
    "quick impossible": ({"run": {"quick": {"grid": {"num_users": [0]}}}}, "num_users must be an integer ≥ 1"),
    "unknown guarantee": ({"guarantee": [{"name": "cramer_roa"}]}, "did you mean 'cramer_rao'"),
    "guarantee's estimator": ({"guarantee": [{"name": "fake_per_trial", "estimator": "x"}]}, "unknown name 'x'"),
    "a claim about sums held against means": (
        {
            "guarantee": [{"name": "cramer_rao", "metric": "mean_user_error"}],
            "metrics": {"use": ["parameter_error", "mean_user_error"]},
        },
        "'cramer_rao' speaks about 'parameter_error', and 'mean_user_error' is another quantity",
    ),
    "guarantee's metric": ({"guarantee": [{"name": "fake_per_trial", "metric": "success"}]}, "unknown name"),
    "guarantee's own metric": (
        {"guarantee": [{"name": "fake_per_trial"}], "metrics": {"use": ["success"]}},
        "speaks about 'parameter_error'; add it to metrics.use",
    ),
    "delta": ({"guarantee": [{"name": "fake_per_trial", "delta": 1.5}]}, "guarantee.1..delta must be less than 1"),
    "figure kind": ({"figure": [{"kind": "pie"}]}, r"figure\[1\].kind: unknown name 'pie'; allowed: bars, curve"),
    "figure axis": ({"figure": [{"kind": "curve", "x": "num_user"}]}, "did you mean 'num_users'"),
    "figure overlay": ({"figure": [{"kind": "curve", "overlay": ["x"]}]}, "unknown name 'x'"),
    "figure estimator": ({"figure": [{"kind": "curve", "estimators": ["x"]}]}, "unknown name 'x'"),
    "figure option": ({"figure": [{"kind": "curve", "logx": True}]}, "did you mean 'log_x'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_studies_are_refused_in_one_sentence(case):
    changes, message = WRONG[case]
    with pytest.raises(InputError, match=message) as error:
        build(**changes)
    assert "\n" not in str(error.value)


def test_missing_section_is_named():
    tables = engine_fakes.study()
    del tables["seed"]
    with pytest.raises(InputError, match="seed is missing; add it"):
        Study.from_dict(tables)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("name.x", "not a table"),
        ("estimator.7.name", "from 0 to 1"),
        ("seed.x.y", "no table"),
        ("seed.x", "not a table"),
    ],
)
def test_overrides_of_nothing_are_refused(key, message):
    with pytest.raises(InputError, match=message):
        build({key: 1})


def test_unreadable_files_are_refused(tmp_path):
    big, binary, broken = tmp_path / "big.toml", tmp_path / "binary.toml", tmp_path / "broken ü.toml"
    big.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    binary.write_bytes(b"\xff\xfe\x00")
    broken.write_text("seed = [1")
    for path, message in (
        (big, "larger than"),
        (binary, "not UTF-8"),
        (broken, "not valid TOML"),
        (tmp_path, "cannot read"),
    ):
        with pytest.raises(InputError, match=message):
            Study.from_toml(path)
    broken.write_text("a=" + "[" * 5000)
    with pytest.raises(InputError, match="not valid TOML"):
        Study.from_toml(broken)


def test_per_trial_guarantees_belong_to_the_identity():
    plain, judged = build(), build(guarantee=[{"name": "fake_per_trial", "estimator": "fake_noise", "delta": 0.1}])
    assert plain.identity() != judged.identity()
    assert build(guarantee=[{"name": "cramer_rao"}]).guarantees[0].name == "cramer_rao"


@pytest.mark.parametrize("name", templates.names())
def test_templates_are_valid_studies(name, tmp_path):
    file = tmp_path / "my study.toml"
    templates.write(file, name)
    study = Study.from_toml(file)
    assert study.name == "my_study"
    assert set(study.metrics) <= set(metrics.NAMES)
    with pytest.raises(InputError, match="exists already"):
        templates.write(file, name)


def test_templates_refuse(tmp_path):
    with pytest.raises(InputError, match="did you mean 'phase'"):
        templates.write(tmp_path / "x.toml", "phases")
    with pytest.raises(InputError, match="cannot write"):
        templates.write(tmp_path / "no" / "x.toml", "phase")


@pytest.mark.parametrize("collects", [True, False])
def test_reading_a_study_leaves_garbage_collection_as_it_was(collects: bool) -> None:
    """It is off while cells are made, also where the making fails; a caller who switched it off keeps it off."""
    tables = engine_fakes.study(estimator=[{"name": "altmin"}])
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        Study.from_dict(tables)
        assert gc.isenabled() is collects
        with pytest.raises(InputError, match="num_users"):
            Study.from_dict({**tables, "grid": {"num_users": [5, -1]}})
        assert gc.isenabled() is collects
    finally:
        (gc.enable if before else gc.disable)()
