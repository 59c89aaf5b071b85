"""Deterministic claims on random problems over all fields, extremes included: none is ever broken.

`pytest -m slow tests/test_random_problems.py` asks 20 000 problems per claim; the ordinary suite a few hundred.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter

import numpy as np
import pytest

import colora_theory as ct
from colora_theory.model.problem import Problem
from colora_theory.verdicts.check import inapplicable, requirement_of

#: Claims that must hold in every trial, and the estimators that are held against them.
CLAIMS = {
    "counting": ("altmin",),
    "exact_recovery": ("altmin",),
    "local_identifiability": ("altmin", "full_finetuning"),
    "monotone_objective": ("altmin",),
    "oracle_inequality": ("altmin", "spectral"),
    "spectral_split_half": ("full_finetuning",),
    "spectral_distinct_pairs": ("full_finetuning",),
    "spectral_second_moment": ("full_finetuning",),
    "tangent_conditioning": ("full_finetuning",),
    "lora_pro_gradient": ("full_finetuning",),
}
QUICK, ALL = 250, 20_000


def random_problem(rng: np.random.Generator) -> Problem | None:
    """Any fields that make a small problem; None for a combination that is refused."""
    k, d, p = (int(rng.integers(1, top)) for top in (7, 8, 5))
    p = 1 if rng.random() < 0.4 else p
    rank = (
        (int(rng.integers(1, d + 1)), int(rng.integers(1, p + 1)))
        if rng.random() < 0.5
        else int(rng.integers(1, d + 1))
    )
    counts = tuple(int(n) for n in rng.integers(0, 14, int(rng.integers(1, k + 1))))
    fields: dict[str, object] = {
        "num_users": k,
        "num_samples": counts if rng.random() < 0.5 else counts[0],
        "dim_in": d,
        "dim_out": p,
        "rank": rank,
        "noise_std": float(rng.choice([0.0, 0.0, 1e-8, 0.1, 10.0, 1e6])),
        "design": str(rng.choice(["regression", "sensing"])),
        "sampling": str(rng.choice(["rows", "rows", "sufficient"])),
        "covariates": str(rng.choice(["gaussian", "gaussian", "ar1", "power_law", "rademacher", "student_t"])),
        "core_distribution": str(rng.choice(["gaussian", "gaussian", "orthogonal", "unit", "equal"])),
        "signal_norm": float(rng.choice([1.0, 1.0, 0.0, 1e-6, 1e6])),
        "pretrained_norm": float(rng.choice([0.0, 1.0])),
    }
    if fields["core_distribution"] == "orthogonal":
        fields["condition_number"] = float(rng.choice([1.0, 3.0, 1e4, 1e6, 1e7]))
    if rng.random() < 0.2:
        fields["incoherence"] = float(rng.uniform(1.0, k)) if rng.random() < 0.7 else float(k)
    if rng.random() < 0.1:
        fields["similarity_angle"] = 0.3
    if rng.random() < 0.1:
        fields |= {"deviation": "dense", "deviation_norm": 0.5}
    if rng.random() < 0.1:
        fields["outlier_fraction"] = float(rng.choice([0.01, 0.3]))
    try:
        return Problem(**fields)
    except ct.InputError:
        return None


def broken(name: str, seed: int, size: int) -> tuple[Counter, list[str]]:
    """Ask `size` random problems; return how often the claim applied and was judged, and what broke it."""
    guarantee, seen, wrong = ct.guarantees.get(name), Counter(), []
    tried = 0
    while seen["asked"] < size:
        tried += 1
        rng = np.random.default_rng([seed, tried])
        problem = random_problem(rng)
        if problem is None:
            continue
        seen["asked"] += 1
        if inapplicable(guarantee, problem):
            continue
        try:
            truth = ct.sample_truth(problem, rng)
            data = ct.sample_data(problem, truth, rng)
        except ct.InputError:  # orthogonal cores that do not exist
            continue
        seen["applied"] += 1
        estimator = CLAIMS[name][tried % len(CLAIMS[name])]
        cls = ct.estimators.get(estimator)
        params = {"rank": problem.rank} if "rank" in cls.parameters() else {}
        if estimator == "altmin":
            params |= {"max_sweeps": 60, "keep_history": bool(tried % 2), "restarts": int(tried % 3 == 0)}
        try:
            fit = cls(**params).fit(data, np.random.default_rng([seed, tried, 1]))
        except ct.InputError:  # nobody has a sample, say
            continue
        claimed = guarantee.value(problem, truth=truth, data=data, fit=fit)
        if math.isnan(claimed):
            continue
        observe = getattr(guarantee, "observed", None)
        if observe is None:
            observed = ct.metrics.evaluate([guarantee.metric], problem, truth, fit)[guarantee.metric]
        else:
            observed = observe(problem, truth, data, fit)
        seen["judged"] += 1
        required = requirement_of(guarantee, problem)
        if not required.excess(np.array([observed]), np.array([claimed]))[0] <= 0:
            wrong.append(f"{tried}: observed {observed:g}, claimed {claimed:g}, {problem.content()}")
    return seen, wrong


@pytest.mark.parametrize("name", CLAIMS)
def test_deterministic_claims_hold(name: str) -> None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        seen, wrong = broken(name, 1, QUICK)
    assert wrong == []
    assert seen["judged"] >= QUICK // 50


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_deterministic_claims_hold_on_many_problems(name: str) -> None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        seen, wrong = broken(name, 2, ALL)
    assert wrong == [], f"{len(wrong)} of {seen['judged']}"


@pytest.mark.parametrize("seed", range(2))
def test_no_guarantee_raises_on_any_problem(seed: int) -> None:
    """Every claim answers with a number or with NaN, as a function of the problem and for a realised trial."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for number in range(120):
            rng = np.random.default_rng([9, seed, number])
            problem = random_problem(rng)
            if problem is None:
                continue
            try:
                truth = ct.sample_truth(problem, rng)
                data = ct.sample_data(problem, truth, rng)
                fit = ct.estimators.get("altmin")(rank=problem.rank, max_sweeps=20).fit(data, rng)
            except ct.InputError:
                continue
            for guarantee in ct.guarantees.all():
                assert isinstance(inapplicable(guarantee, problem), str)
                if type(guarantee).formula is not ct.guarantees.Guarantee.formula:
                    assert isinstance(guarantee.value(problem), float)
                assert isinstance(guarantee.value(problem, truth=truth, data=data, fit=fit), float)
