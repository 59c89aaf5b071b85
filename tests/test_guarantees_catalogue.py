"""The catalogue as a whole: every object complete, honest about its hypotheses, vectorised; published rates."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

import colora_theory as ct
from colora_theory.guarantees.base import KINDS, SIDES

ALL = [g for g in ct.guarantees.all() if type(g).__module__.startswith("colora_theory.")]
EXAMPLE = ct.Problem(num_users=20, num_samples=300, dim_in=12, rank=2, noise_std=0.1, core_distribution="unit")
WRONG = (
    ct.Problem(num_users=20, num_samples=300, dim_in=12, rank=2, intercept_std=1.0),
    ct.Problem(num_users=20, num_samples=300, dim_in=12, rank=2, similarity_angle=0.3, deviation="dense",
               deviation_norm=1.0, covariates="student_t"),
)  # fmt: skip
THEORY = Path(__file__).parent.parent / "docs" / "theory.md"


def anchors() -> set[str]:
    heads = re.findall(r"^#+ (.+)$", THEORY.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_there_are_enough_of_them_of_every_kind():
    assert len(ALL) >= 45
    assert {g.kind for g in ALL} == set(KINDS)


@pytest.mark.parametrize("guarantee", ALL, ids=lambda g: g.name)
def test_every_guarantee_is_complete(guarantee):
    assert guarantee.kind in KINDS
    assert guarantee.side in SIDES
    assert guarantee.source
    assert len(guarantee.title) < 110
    assert guarantee.title.endswith(".")
    for word in ("Hypotheses:", "Kind:", "Source"):
        assert word in guarantee.statement, word
    if guarantee.kind == "rate":
        assert guarantee.tag
        assert guarantee.conservative
    if guarantee.kind == "bound" and not guarantee.expectation:
        assert guarantee.failure_probability > 0
    for anchor in re.findall(r"docs/theory\.md#(\S+)", guarantee.source):
        assert anchor in anchors(), anchor
    assert f"`{guarantee.name}`" in THEORY.read_text(), "docs/theory.md says nothing about it"
    if "GRIP" in guarantee.statement and guarantee.name.startswith(("grip", "colora", "tangent")):
        assert "our reconstruction of a condition the CoLoRA" in " ".join(guarantee.statement.split())


@pytest.mark.parametrize("guarantee", ALL, ids=lambda g: g.name)
def test_outside_the_hypotheses_the_value_is_nan(guarantee):
    for problem in (EXAMPLE, *WRONG):
        hypotheses = guarantee.hypotheses(problem)
        assert all(h.message and h.name for h in hypotheses)
        assert guarantee.applies(problem) == all(hypotheses)
        if not guarantee.applies(problem):
            assert math.isnan(guarantee.value(problem))
            assert np.isnan(guarantee.value(problem, num_users=np.array([20, 30]))).all()
    if guarantee.name not in ("monotone_objective", "lora_pro_gradient"):
        assert not all(guarantee.applies(problem) for problem in WRONG)


def test_values_are_vectorised_over_fields():
    for guarantee in ALL:
        if type(guarantee).formula is not ct.guarantees.Guarantee.formula and guarantee.applies(EXAMPLE):
            grid = guarantee.value(
                EXAMPLE, num_users=np.array([[20], [40]]), num_samples=np.array([300, 400, 500])
            )
            assert grid.shape == (2, 3)
            single = guarantee.value(EXAMPLE.replace(num_users=40, num_samples=500))
            assert grid[1, 2] == single or (math.isnan(single) and math.isnan(grid[1, 2]))


def test_unknown_names_and_settings_are_refused_with_the_nearest():
    with pytest.raises(ct.InputError, match="cramer_rao"):
        ct.guarantees.get("cramer_rau")
    with pytest.raises(ct.InputError, match="failure_probability"):
        ct.guarantees.get("noise_moment", failure_probabilty=0.1)
    strict = ct.guarantees.get("noise_moment", failure_probability=1e-6)
    assert strict.value(EXAMPLE) > ct.guarantees.get("noise_moment").value(EXAMPLE)


# --- published rates: hand-computed values and exponents -------------------------------------------------

BASE = ct.Problem(num_users=50, num_samples=100, dim_in=40, rank=2, noise_std=0.5, core_distribution="unit")
HAND = {
    "method_of_moments_rate": math.sqrt(40 * 2 / (0.5 * 5000)),
    "minimax_subspace_rate": 0.5 * math.sqrt(80 / 5000),
    "altmin_prediction_rate": 0.25 * (40 * 4 / 5000 + 2 / 100),
    "optimal_error_rate": 0.25 * (80 / 5000 + 2 / 100),
    "distinct_pairs_rate": math.sqrt(40 * (1 + 0.25 + 0.0625 / 100) / 5000) / 0.5,
    "new_task_rate": 0.25 * (80 / 5000 + 2 / 100),
    "transfer_distance_rate": 0.25 * (80 / 5000 + 2 / 100),
}


@pytest.mark.parametrize("name", HAND)
def test_published_rates_by_hand(name):
    assert ct.guarantees.get(name).value(BASE) == pytest.approx(HAND[name], rel=1e-12)


def test_published_steps_and_thresholds_by_hand():
    quiet = BASE.replace(noise_std=0.0)
    assert ct.guarantees.get("fedrep_contraction").value(quiet) == pytest.approx(math.sqrt(7 / 8))
    skew = quiet.replace(core_distribution="orthogonal", condition_number=2.0)
    assert ct.guarantees.get("fedrep_contraction").value(skew) == pytest.approx(math.sqrt(1 - 1 / 32))
    assert ct.guarantees.get("altgdmin_contraction").value(skew) == pytest.approx(1 - 0.84 * 0.5 / 4)
    assert ct.guarantees.get("altgdmin_samples").value(quiet) == pytest.approx(90 * 4 * math.log(1e3) / 50)
    assert ct.guarantees.get("colora_samples").value(quiet) == pytest.approx(2 * (80 + 100) / 50)
    assert ct.guarantees.get("gauss_newton_order").value(quiet) == 2.0
    sensing = ct.Problem(num_users=6, num_samples=50, dim_in=8, dim_out=5, rank=2, design="sensing")
    assert ct.guarantees.get("nuclear_norm_samples").value(sensing) == 26
    tucker = 4 * math.log(3) * (2 * 2 * 4 + 16 + 10 + 24) / 6
    assert ct.guarantees.get("tucker_rip_samples").value(sensing) == pytest.approx(tucker)
    alone = sensing.replace(num_users=1)
    assert ct.guarantees.get("matrix_sensing_contraction").value(alone) == 1 / 16


def study(**changes):
    return ct.Study.from_dict(
        {
            "schema": 1,
            "name": "rates",
            "title": "t",
            "claim": "c",
            "seed": 1,
            "problem": {"dim_in": 20, "rank": 1, "noise_std": 0.2, "core_distribution": "unit", "num_samples": 30},
            "grid": {"num_users": [10, 20, 40, 80, 160]},
            "run": {"trials": 100},
            **changes,
        }
    )


def test_published_rates_in_a_study(tmp_path):
    found = ct.check(
        ct.run(
            study(
                estimator=[{"name": "altmin"}],
                metrics={"use": ["mean_user_error", "subspace_distance", "success"]},
                guarantee=[
                    {"name": "optimal_error_rate"},
                    {"name": "altmin_prediction_rate"},
                    {"name": "minimax_subspace_rate"},
                    {"name": "colora_samples"},
                ],
            ),
            out=tmp_path,
        )
    )
    got = {v.guarantee: v for v in found if v.where == "overall"}
    assert got["optimal_error_rate"].status == "holds"
    assert got["altmin_prediction_rate"].status == "holds"
    assert got["minimax_subspace_rate"].status in ("holds", "inconclusive")
    assert "calibrated on 3 cells" in str(got["optimal_error_rate"])
    assert got["colora_samples"].status == "not applicable"


@pytest.mark.parametrize(
    ("name", "estimator", "params"),
    [
        ("gauss_newton_order", "gauss_newton", {"keep_history": True}),
        ("altgdmin_contraction", "altgdmin", {"keep_history": True}),
        ("fedrep_contraction", "fedrep", {"keep_history": True}),
    ],
)
def test_published_steps_on_recorded_runs(name, estimator, params):
    """Many samples per user, so that the open constants do not matter."""
    problem = ct.Problem(
        num_users=30, num_samples=10**6, dim_in=10, rank=2, core_distribution="orthogonal", sampling="sufficient"
    )
    verdict = ct.testing.assert_guarantee(name, problem, estimator=estimator, params=params, trials=20)
    assert verdict.status in ("holds", "inconclusive")
