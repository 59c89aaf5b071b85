"""Alternating minimisation: against a slow loop, its invariances, recovery, statuses."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import draw
from reference import altmin_sweep

import colora_theory as ct
from colora_theory.estimators.altmin import AltMin
from colora_theory.estimators.starts import start as starting_subspaces
from colora_theory.model.dataset import predict
from colora_theory.model.linalg import haar


def distances(fit, truth) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    return (
        ct.subspace_distance(fit.input_subspace, truth.input_subspace),
        ct.subspace_distance(fit.output_subspace, truth.output_subspace),
    )


def test_exact_sweeps_equal_the_slow_loop(shape: dict[str, object]) -> None:
    p = ct.Problem(**shape, noise_std=0.2, pretrained_norm=3.0)
    _, data = draw(p, 0)
    rng = np.random.default_rng(1)
    u, v = haar(rng, p.dim_in, p.rank_in), haar(rng, p.dim_out, p.rank_out)
    fit = AltMin(
        rank=p.rank, input_subspace=u, output_subspace=v, inner_tol=0, max_sweeps=3, restarts=0, keep_history=True
    ).fit(data)
    objectives: list[float] = []
    for sweep in range(1, 4):
        u, v, steps = altmin_sweep(data, u, v)
        objectives += steps
        assert ct.subspace_distance(fit.history["input_subspaces"][sweep], u) < 1e-9
        assert ct.subspace_distance(fit.history["output_subspaces"][sweep], v) < 1e-9
    np.testing.assert_allclose(fit.history["objective"][:-1], objectives, rtol=1e-9)
    assert fit.history["half_step"][:3] == ["cores", "input_subspace", "output_subspace"][: len(steps)] + [
        "cores"
    ] * (3 - len(steps))
    assert (np.diff(fit.history["objective"]) <= 1e-12 * fit.history["objective"][0]).all()


def test_inexact_sweeps_never_raise_the_objective_and_end_at_the_same_minimum(shape: dict[str, object]) -> None:
    p = ct.Problem(**shape, noise_std=0.05)
    _, data = draw(p, 2)
    exact = AltMin(rank=p.rank, inner_tol=0, noise_tol=0, keep_history=True).fit(data, np.random.default_rng(0))
    quick = AltMin(rank=p.rank, noise_tol=0, keep_history=True).fit(data, np.random.default_rng(0))
    for fit in (exact, quick):
        objective = fit.history["objective"]
        assert fit.status == "converged"
        assert (np.diff(objective) <= 1e-12 * objective[0]).all()
    np.testing.assert_allclose(quick.weights, exact.weights, atol=1e-9)


def test_noiseless_recovery_is_exact(shape: dict[str, object]) -> None:
    p = ct.Problem(**shape, pretrained_norm=2.0)
    for seed in range(5):
        truth, data = draw(p, seed)
        fit = AltMin(rank=p.rank).fit(data, np.random.default_rng(seed))
        assert fit.status == "converged"
        assert max(distances(fit, truth)) <= 1e-10
        np.testing.assert_allclose(fit.weights, truth.weights, atol=1e-9)


@pytest.mark.parametrize("start", ["split_half", "second_moment", "distinct_pairs", "random"])
def test_every_start_leads_to_the_truth(start: str) -> None:
    p = ct.Problem(num_users=40, num_samples=25, dim_in=15, dim_out=3, rank=2)
    truth, data = draw(p, 0)
    fit = AltMin(rank=2, start=start).fit(data, np.random.default_rng(0))
    assert max(distances(fit, truth)) <= 1e-10


@pytest.mark.parametrize("design", ["regression", "sensing"])
def test_spectral_starts_are_consistent(design: str) -> None:
    """The distance falls like 1/√n: a hundred times the samples, about a tenth of the distance."""
    found = []
    for n in (200, 20_000):
        p = ct.Problem(num_users=10, num_samples=n, dim_in=6, dim_out=4, rank=2, noise_std=0.5, design=design)
        truth, data = draw(p, 0)
        starts = [
            starting_subspaces(data, (2, 2), kind, None)
            for kind in ("split_half", "second_moment", "distinct_pairs")
        ]
        found.append(
            [
                (ct.subspace_distance(u, truth.input_subspace), ct.subspace_distance(v, truth.output_subspace))
                for u, v in starts
            ]
        )
    ratio = np.array(found[0]) / np.array(found[1])
    assert (ratio > 3).all()
    assert (np.array(found[1]) < 0.1).all()


def transformed(data: ct.Dataset, rotation: np.ndarray, order: np.ndarray) -> ct.Dataset:
    axes = ([2], [1])
    x = np.tensordot(data.covariates, rotation, axes)
    x = np.moveaxis(x, -1, 2)
    return ct.Dataset(
        covariates=np.ascontiguousarray(x[order]), responses=data.responses[order], counts=data.counts[order]
    )


def test_rotation_permutation_and_pretrained_weight_change_nothing(shape: dict[str, object]) -> None:
    p = ct.Problem(**shape, noise_std=0.1)
    _, data = draw(p, 3)
    rng = np.random.default_rng(0)
    rotation, order = haar(rng, p.dim_in, p.dim_in), rng.permutation(p.num_users)
    for estimator in (AltMin(rank=p.rank, noise_tol=0), ct.estimators.get("full_finetuning")()):
        plain = estimator.fit(data, np.random.default_rng(0)).weights
        turned = estimator.fit(transformed(data, rotation, order), np.random.default_rng(0)).weights
        np.testing.assert_allclose(turned, np.matmul(rotation, plain)[order], atol=1e-9)
        w0 = 10 * rng.standard_normal((p.dim_in, p.dim_out))
        shifted = ct.Dataset(
            covariates=data.covariates,
            responses=data.responses + predict(data.covariates, w0),
            counts=data.counts,
            pretrained=w0,
        )
        np.testing.assert_allclose(estimator.fit(shifted, np.random.default_rng(0)).weights - w0, plain, atol=1e-9)


def test_sufficient_rows_give_the_same_law_of_errors() -> None:
    from scipy import stats

    p = ct.Problem(num_users=8, num_samples=25, dim_in=6, dim_out=2, rank=2, noise_std=0.3)
    errors = {}
    for sampling in ("rows", "sufficient"):
        draws = [draw(p.replace(sampling=sampling), 100 + s) for s in range(150)]
        fits = [(t, AltMin(rank=2).fit(d, np.random.default_rng(s))) for s, (t, d) in enumerate(draws)]
        errors[sampling] = [ct.metrics.parameter_error(p, t, f) for t, f in fits]
    assert stats.ks_2samp(errors["rows"], errors["sufficient"]).pvalue > 1e-6


def test_fresh_samples_use_every_row_once_and_converge() -> None:
    p = ct.Problem(num_users=100, num_samples=400, dim_in=10, dim_out=3, rank=(2, 1), noise_std=0.01)
    truth, data = draw(p, 0)
    fit = AltMin(rank=(2, 1), fresh_samples=True, max_sweeps=5, keep_history=True).fit(data)
    path = [ct.subspace_distance(u, truth.input_subspace) for u in fit.history["input_subspaces"]]
    assert path[-1] < 0.01 < path[0]
    assert len(path) == 6
    assert fit.status == "stopped"
    # Rows of the final core step change the cores, not the subspaces.
    parts = 2 + 3 * 5
    changed = data.responses.copy()
    changed[:, parts - 1 :: parts] += 1.0
    other = AltMin(rank=(2, 1), fresh_samples=True, max_sweeps=5).fit(
        ct.Dataset(covariates=data.covariates, responses=changed, counts=data.counts)
    )
    np.testing.assert_array_equal(other.input_subspace, fit.input_subspace)
    assert np.abs(other.cores - fit.cores).max() > 1e-3
    with pytest.raises(ct.InputError, match="needs at least 3002 samples per user, got 400"):
        AltMin(rank=(2, 1), fresh_samples=True).fit(data)


@pytest.mark.parametrize(("num_users", "dim_in", "rank"), [(76, 25, (1, 2)), (56, 29, (1, 1)), (46, 8, (1, 2))])
def test_scarce_samples_call_contestants(num_users: int, dim_in: int, rank: tuple[int, int]) -> None:
    """Two samples per row of a core: from the spectral start some plain descents settle on a misfit."""
    p = ct.Problem(num_users=num_users, num_samples=2, dim_in=dim_in, dim_out=4, rank=rank)
    found = {None: 0, 0: 0}
    for seed in range(8):
        truth, data = draw(p, seed)
        for restarts in found:
            fit = AltMin(rank=p.rank, restarts=restarts).fit(data, np.random.default_rng(seed))
            found[restarts] += max(distances(fit, truth)) < 1e-9
    assert found[None] >= 7
    assert found[None] >= found[0]


def test_restarts_rescue_poor_starts() -> None:
    """Few samples per user make local minima: from a random start contestants rescue what plain descent loses."""
    p = ct.Problem(num_users=40, num_samples=4, dim_in=21, dim_out=2, rank=(1, 2))
    success = {None: 0, 0: 0}
    for seed in range(12):
        truth, data = draw(p, seed)
        for restarts in success:
            rule = AltMin(rank=(1, 2), start="random", restarts=restarts, max_sweeps=150)
            success[restarts] += max(distances(rule.fit(data, np.random.default_rng(seed)), truth)) < 1e-3
    assert success[None] > success[0]
    assert success[None] >= 9
    fit = AltMin(rank=(1, 2), restarts=2).fit(data, np.random.default_rng(0))
    assert fit.history["contestants"] == 2


def test_statuses_tell_the_truth() -> None:
    base = ct.Problem(num_users=10, num_samples=20, dim_in=8, rank=3, noise_std=0.1)
    _, data = draw(base, 0)
    assert AltMin(rank=3).fit(data).status == "converged"
    stopped = AltMin(rank=3, max_sweeps=2).fit(data)
    assert (stopped.status, stopped.sweeps) == ("stopped", 2)
    _, few = draw(base.replace(num_samples=2), 0)  # fewer samples than the core needs
    singular = AltMin(rank=3).fit(few, np.random.default_rng(0))
    assert singular.status == "singular"
    assert np.isfinite(singular.weights).all()
    twin = data.covariates.copy()
    twin[:, :, 1] = twin[:, :, 0]
    fit = ct.estimators.get("full_finetuning")().fit(
        ct.Dataset(covariates=twin, responses=data.responses, counts=data.counts)
    )
    assert fit.status == "singular"
    np.testing.assert_allclose(fit.weights[:, 0], fit.weights[:, 1], atol=1e-9)  # minimum norm shares equally


def test_users_without_rows_and_all_zero_data_do_not_crash() -> None:
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((n, 5)) for n in (20, 0, 15)]
    data = ct.Dataset.from_arrays(xs, [x[:, :1] for x in xs])
    fit = AltMin(rank=1).fit(data)
    assert fit.status == "singular"
    np.testing.assert_allclose(fit.weights[1], 0.0)
    np.testing.assert_allclose(fit.weights[0], np.eye(5)[:, :1], atol=1e-9)
    zero = ct.Dataset.from_arrays(xs, [np.zeros(len(x)) for x in xs])
    assert not AltMin(rank=1).fit(zero, rng).weights.any()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"rank": 9}, r"rank must be at most min\(dim_in, num_users \* rank_out\) = 8, got 9"),
        ({"rank": 0}, "got 0"),
        ({"rank": None}, "rank must be given"),
        ({"rank": (2, 2)}, "rank_out must be at most dim_out = 1, got 2"),
        ({"rank": (1, 2, 3)}, "rank must be one integer"),
        ({"rank": 2, "start": "spectral"}, "start must be one of"),
        ({"rank": 2, "tol": -1.0}, "tol must be a number ≥ 0"),
        ({"rank": 2, "max_sweeps": 0}, "max_sweeps must be an integer ≥ 1"),
        ({"rank": 2, "restarts": -1}, "restarts must be an integer ≥ 0"),
        ({"rank": 2, "start": "random"}, "pass rng"),
        ({"rank": 2, "input_subspace": np.ones((8, 2))}, "2 independent columns"),
        ({"rank": 2, "input_subspace": np.ones((7, 2))}, r"input_subspace must have shape \(8, 2\)"),
    ],
)
def test_bad_parameters_are_refused(params: dict[str, object], words: str) -> None:
    _, data = draw(ct.Problem(num_users=10, num_samples=20, dim_in=8, rank=3), 0)
    with pytest.raises(ct.InputError, match=words):
        AltMin(**params).fit(data)


def test_output_subspace_must_come_with_the_input_subspace() -> None:
    _, data = draw(ct.Problem(num_users=10, num_samples=20, dim_in=8, dim_out=4, rank=2), 0)
    with pytest.raises(ct.InputError, match="output_subspace must be given"):
        AltMin(rank=2, input_subspace=np.eye(8)[:, :2]).fit(data)


def test_inputs_are_not_modified_and_the_same_seed_gives_the_same_bits(shape: dict[str, object]) -> None:
    p = ct.Problem(**shape, noise_std=0.1, pretrained_norm=1.0)
    _, data = draw(p, 5)
    before = data.covariates.copy(), data.responses.copy()
    first, second = (AltMin(rank=p.rank).fit(data, np.random.default_rng(1)).weights for _ in range(2))
    np.testing.assert_array_equal(data.covariates, before[0])
    np.testing.assert_array_equal(data.responses, before[1])
    np.testing.assert_array_equal(first, second)


def test_oracle_is_the_core_step_of_the_truth(shape: dict[str, object]) -> None:
    p = ct.Problem(**shape, noise_std=0.3)
    truth, data = draw(p, 6)
    oracle = ct.estimators.get("oracle_subspace")
    fit = oracle(input_subspace=truth.input_subspace, output_subspace=truth.output_subspace).fit(data)
    assert fit.status == "converged"
    moments = fit.weights - truth.weights
    assert (
        np.sqrt((moments**2).sum())
        < np.sqrt((ct.estimators.get("full_finetuning")().fit(data).weights - truth.weights) ** 2).sum()
    )
    with pytest.raises(ct.InputError, match="oracle_subspace needs input_subspace"):
        oracle().fit(data)
    few = data.take(slice(0, 2))
    short = ct.Dataset(covariates=few.covariates[:, :1], responses=few.responses[:, :1], counts=np.array([1, 1]))
    assert (
        oracle(input_subspace=truth.input_subspace, output_subspace=truth.output_subspace).fit(short).status
        == "singular"
    )
