"""Problem: what is refused, what follows from the fields, and what seeds depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from colora_theory import InputError, Problem

GOOD = {"num_users": 6, "num_samples": 10, "dim_in": 8, "rank": 2}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_users": 0}, "num_users must be an integer ≥ 1, got 0"),
        ({"num_users": 2.5}, "num_users must be an integer"),
        ({"num_users": True}, "num_users must be an integer"),
        ({"num_samples": -1}, "num_samples must be an integer ≥ 0, got -1"),
        ({"num_samples": ()}, "num_samples must be one integer, or 1 to num_users = 6"),
        ({"num_samples": (1,) * 7}, "got 7"),
        ({"num_samples": "ten"}, "num_samples must be an integer"),
        ({"dim_in": 10**16}, "dim_in must be at most 10\\^15"),
        ({"rank": 0}, "rank must be an integer ≥ 1"),
        ({"rank": 7}, r"rank must be at most min\(dim_in, num_users \* rank_out\) = 6, got 7"),
        ({"rank": (2, 2)}, "rank_out must be at most dim_out = 1, got 2"),
        ({"rank": (2, 1, 1)}, r"rank must be one integer or \(rank_in, rank_out\)"),
        ({"num_users": 1, "rank": (1, 3), "dim_out": 4}, "rank_out must be at most num_users"),
        ({"noise_std": -0.1}, "noise_std must be a number ≥ 0"),
        ({"noise_std": math.nan}, "noise_std must be a number"),
        ({"noise_std": math.inf}, "noise_std must be a number"),
        ({"noise_std": "small"}, "noise_std must be a number"),
        ({"design": "regresion"}, "did you mean 'regression'"),
        ({"covariates": "ar1", "covariate_parameter": 1.0}, "strictly between"),
        ({"covariates": "student_t", "covariate_parameter": 2.0}, "strictly between"),
        ({"covariate_parameter": 0.3}, "covariate_parameter has no meaning"),
        ({"condition_number": 3.0}, "condition_number needs core_distribution = 'orthogonal'"),
        ({"condition_number": 0.5, "core_distribution": "orthogonal"}, "condition_number must be a number"),
        ({"incoherence": 2.0, "core_distribution": "orthogonal"}, "choose one of them"),
        ({"core_distribution": "equal", "rank": (3, 1)}, "only when rank_in = rank_out"),
        ({"core_distribution": "equal", "rank": 1, "incoherence": 2.0}, "incoherence 1; leave"),
        ({"incoherence": 7.0}, "incoherence must be a number between 1 and 6"),
        ({"sampling": "sufficient", "num_samples": 7}, "needs num_samples ≥ 8"),
        ({"sampling": "sufficient", "covariates": "rademacher"}, "needs Gaussian covariates"),
        ({"sampling": "sufficient", "intercept_std": 1.0}, "has no intercepts"),
        ({"design": "sensing", "intercept_std": 1.0}, "intercept_std needs design = 'regression'"),
        ({"deviation_norm": 1.0}, "deviation_norm needs a deviation"),
        ({"deviation": "sparse", "deviation_level": 9}, "deviation_level must be at most 8"),
        ({"similarity_angle": 0.1, "rank": 5}, r"similarity_angle needs dim_in ≥ 2 \* rank"),
    ],
)
def test_impossible_problems_are_refused_in_one_sentence(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        Problem(**{**GOOD, **changes})
    assert "\n" not in str(error.value)


def test_degrees_of_freedom_is_the_dimension_of_the_model() -> None:
    """Independent route: the rank of the Jacobian of (U, C, V) ↦ (U C_i Vᵀ)_i at a random point."""
    for shape in (
        dict(rank=(3, 2), dim_out=4),
        dict(rank=2),
        dict(rank=(1, 3), dim_out=5),
        dict(rank=(4, 4), dim_out=4),
    ):
        problem = Problem(num_users=6, num_samples=1, dim_in=7, **shape)
        rng = np.random.default_rng(0)
        r1, r2, d, p, k = problem.rank_in, problem.rank_out, 7, problem.dim_out, 6
        u, v, c = rng.standard_normal((d, r1)), rng.standard_normal((p, r2)), rng.standard_normal((k, r1, r2))
        columns = []
        for a in range(d):
            for b in range(r1):
                e = np.zeros((d, r1))
                e[a, b] = 1.0
                columns.append((e @ c @ v.T).ravel())
        for a in range(p):
            for b in range(r2):
                e = np.zeros((p, r2))
                e[a, b] = 1.0
                columns.append((u @ c @ e.T).ravel())
        for index in np.ndindex(k, r1, r2):
            e = np.zeros((k, r1, r2))
            e[index] = 1.0
            columns.append((u @ e @ v.T).ravel())
        assert np.linalg.matrix_rank(np.array(columns)) == problem.degrees_of_freedom


def test_one_problem_has_one_spelling() -> None:
    assert Problem(**{**GOOD, "rank": (2, 1)}) == Problem(**GOOD)
    assert Problem(**{**GOOD, "num_samples": (10, 10)}) == Problem(**GOOD)
    assert Problem(**GOOD, covariates="ar1") == Problem(**GOOD, covariates="ar1", covariate_parameter=0.5)
    assert Problem(**{**GOOD, "num_users": np.int64(6)}) == Problem(**GOOD)


def test_content_leaves_out_defaults() -> None:
    assert Problem(**GOOD).content() == GOOD
    assert Problem(**GOOD, noise_std=0.5).content() == {**GOOD, "noise_std": 0.5}


def test_counts_are_dealt_in_turn() -> None:
    problem = Problem(**{**GOOD, "num_samples": (3, 5)})
    assert problem.counts == (3, 5, 3, 5, 3, 5)
    assert problem.num_observations == 24


def test_replace_validates_again_and_names_unknown_fields() -> None:
    problem = Problem(**GOOD, covariates="ar1")
    assert problem.replace(num_users=9).num_users == 9
    assert problem.replace(covariates="gaussian").covariate_parameter is None
    with pytest.raises(InputError, match="did you mean 'num_users'"):
        problem.replace(num_user=3)


def test_the_largest_possible_values_are_allowed() -> None:
    """Each bound is the last allowed value, and one beyond it is refused."""
    for fields, name, most in (
        ({"num_users": 3, "num_samples": 9, "dim_in": 8, "rank": 3}, "rank", 3),
        ({"num_users": 30, "num_samples": 9, "dim_in": 4, "rank": 4}, "rank", 4),
        ({"num_users": 9, "num_samples": 9, "dim_in": 6, "rank": 3, "similarity_angle": 0.1}, "rank", 3),
    ):
        assert Problem(**{**fields, name: most}).rank_in == most
        with pytest.raises(InputError):
            Problem(**{**fields, name: most + 1})
    Problem(num_users=2, num_samples=6, dim_in=6, rank=1, sampling="sufficient")
    with pytest.raises(InputError, match="needs num_samples ≥ 6"):
        Problem(num_users=2, num_samples=5, dim_in=6, rank=1, sampling="sufficient")
