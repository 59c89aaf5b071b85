"""Methods and data that repeat published runs: held to the papers' numbers and to other solvers."""

from __future__ import annotations

import csv
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import approx_fprime

import colora_theory as ct
from colora_theory.engine.trial import Recipe, Segment, draw, fit
from colora_theory.estimators.frozen_subspace import serve
from colora_theory.model.problem import CHOICES
from colora_theory.model.repeated_draws import DRAWS, duan_wang_seed
from colora_theory.studies.cells import Cell, EstimatorSpec

FOLDER = Path(__file__).parent.parent / "experiments" / "published"
CORES = {"vanilla": "equal", "clustered": "clustered", "lowrank": "unit"}


# --- Duan & Wang 2023, seed by seed -------------------------------------------------------------------------


def duan_wang(model: str, outliers: float, delta: float) -> ct.Problem:
    return ct.Problem(
        num_users=30,
        num_samples=200,
        dim_in=50,
        rank=1 if model == "vanilla" else 3,
        noise_std=1.0,
        signal_norm=2.0,
        core_distribution=CORES[model],
        deviation="dense",
        deviation_norm=delta,
        outlier_fraction=outliers,
        outlier_norm=2.0,
        draws="duan_wang_2023",
    )


def stored(model: str, outliers: float, delta: float, trial: int, series: str) -> float:
    """Their largest error of an inlier."""
    with (FOLDER / "duan_wang_2023" / f"duan_wang_2023_{model}.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            place = float(row["outlier_fraction"]), float(row["deviation_norm"]), int(row["trial"])
            if (*place, row["series"], row["metric"]) == (outliers, delta, trial, series, "max_inlier_distance"):
                return float(row["y"])
    raise AssertionError("no such number")


def test_names_of_repeated_draws() -> None:
    assert CHOICES["draws"] == ("own", *DRAWS)
    assert [duan_wang_seed(t) for t in (0, 9, 10, 99)] == [10_000, 100_000, 11_000, 109_000]


PLACES = [("vanilla", 0.0, 0.3, 0), ("vanilla", 0.2, 1.0, 7), ("clustered", 0.0, 0.5, 3), ("lowrank", 0.2, 0.4, 5)]


@pytest.mark.parametrize(("model", "outliers", "delta", "trial"), PLACES)
@pytest.mark.parametrize("series", ["alone", "pooled", "armul", "shared model"])
def test_their_steps_on_their_seeds_give_their_numbers(
    model: str, outliers: float, delta: float, trial: int, series: str
) -> None:
    """To 1e-6, cross-validated penalty included; the data are therefore theirs too."""
    if (model, series) == ("vanilla", "shared model"):
        return  # the pooled vector
    p = duan_wang(model, outliers, delta)
    truth, data = DRAWS[p.draws](p, trial)
    how: dict[str, object] = {
        "alone": {"centre": "alone"},
        "pooled": {"centre": "pooled"},
        "armul": {"centre": model, "tune": "cv"},
        "shared model": {"centre": model, "personal": False},
    }[series]
    rule = ct.estimators.get("gradient_multitask")(as_coded=True, rank=p.rank, **how)
    got = ct.metrics.max_inlier_distance(p, truth, rule.fit(data, np.random.default_rng(0)))
    assert got == pytest.approx(stored(model, outliers, delta, trial, series), abs=1e-6)


def test_tuning_alone_agrees_user_by_user_up_to_their_early_stop() -> None:
    p = duan_wang("lowrank", 0.2, 0.4)
    truth, data = DRAWS[p.draws](p, 2)
    steps = ct.estimators.get("gradient_multitask")(centre="alone", as_coded=True).fit(data)
    exact = ct.estimators.get("full_finetuning")().fit(data)
    ours, theirs = (np.sqrt(ct.model.metrics.user_errors(truth, f)) for f in (exact, steps))
    assert np.abs(theirs / ours - 1.0).max() < 0.12
    assert abs(theirs.mean() / ours.mean() - 1.0) < 0.02
    assert np.abs(theirs / ours - 1.0).max() > 1e-3  # and it is not the same number


def test_more_steps_reach_the_minimum_of_the_convex_problem() -> None:
    """Vanilla: the optimum of an independent cone solver; correct steps only (as_coded scales the inputs)."""
    p = ct.Problem(num_users=4, num_samples=20, dim_in=3, rank=1, noise_std=0.5, core_distribution="equal")
    truth = ct.sample_truth(p.replace(deviation="dense", deviation_norm=0.8), np.random.default_rng(1))
    data = ct.sample_data(p, truth, np.random.default_rng(2))
    got = ct.estimators.get("gradient_multitask")(centre="vanilla", steps=20_000, strength=0.4).fit(data)
    x, y = data.covariates, data.responses[:, :, 0]
    scale = np.sqrt((x**2).mean((0, 1)))
    gamma, own = cp.Variable(3), cp.Variable((4, 3))
    cost = sum(
        cp.sum_squares(y[i] - (x[i] / scale) @ (gamma - own[i])) / 40 + 0.4 * np.sqrt(3 / 20) * cp.norm(own[i])
        for i in range(4)
    )
    cp.Problem(cp.Minimize(cost)).solve(solver=cp.CLARABEL)
    assert gamma.value is not None
    assert own.value is not None
    np.testing.assert_allclose(got.weights[:, :, 0] * scale, gamma.value - own.value, atol=2e-5)


@pytest.mark.parametrize(("model", "angle"), [("clustered", 1), ("lowrank", 2)])
def test_the_coded_step_is_no_gradient_step(model: str, angle: int) -> None:
    """Following the gradient ends at a lower objective than the step of the code: what `as_coded` is about."""
    p = duan_wang(model, 0.2, 0.6)
    _, data = DRAWS[p.draws](p, angle)
    rng = np.random.default_rng(0)

    def objective(as_coded: bool) -> float:
        rule = ct.estimators.get("gradient_multitask")(
            centre=model, rank=3, personal=False, as_coded=as_coded, steps=400
        )
        scale = np.sqrt((data.covariates**2).mean((0, 1)))[:, None]
        weights = rule.fit(data, rng).weights
        weights = weights / scale if as_coded else weights
        return float(((data.responses - data.covariates @ weights) ** 2).sum())

    assert objective(False) < objective(True)


def test_repeated_draws_run_through_the_engine_and_refuse_other_problems() -> None:
    p = duan_wang("vanilla", 0.0, 0.3)
    recipe = Recipe(1, (), ())
    cell = Cell.of(p, {})
    one, other = (draw(recipe, cell.words, p, trial)[1].responses for trial in (0, 1))
    again = draw(Recipe(999, (), ()), cell.words, p, 0)[1].responses
    np.testing.assert_array_equal(one, again)  # the study's seed has no say
    assert not np.allclose(one, other)
    with pytest.raises(ct.InputError, match="needs the vector model"):
        DRAWS[p.draws](p.replace(core_distribution="gaussian"), 0)


# --- Tripuraneni, Jin & Jordan 2021 -------------------------------------------------------------------------


def test_first_order_run_to_its_end_is_a_minimum_of_the_shared_model() -> None:
    p = ct.Problem(num_users=12, num_samples=20, dim_in=8, rank=2, noise_std=0.1)
    truth = ct.sample_truth(p, np.random.default_rng(0))
    for data in (ct.sample_data(p.replace(num_samples=n), truth, np.random.default_rng(1)) for n in (8, 20)):
        rule = ct.estimators.get("first_order")(rank=2, tol=0.0, gradient_tol=1e-10, max_sweeps=20_000)
        got = rule.fit(data, np.random.default_rng(5))
        other = ct.estimators.get("altmin")(rank=2, tol=1e-12, noise_tol=0.0).fit(data, np.random.default_rng(0))
        assert ct.subspace_distance(got.input_subspace, other.input_subspace) < 1e-4
        np.testing.assert_allclose(got.weights, other.weights, atol=1e-4)
        early = ct.estimators.get("first_order")(rank=2, max_sweeps=3).fit(data, np.random.default_rng(5))
        assert early.status == "stopped"
        assert "max_sweeps = 3" in early.message


def test_first_order_starts_at_random_and_needs_one_output() -> None:
    p = ct.Problem(num_users=5, num_samples=10, dim_in=4, rank=1, noise_std=0.1)
    truth = ct.sample_truth(p, np.random.default_rng(0))
    data = ct.sample_data(p, truth, np.random.default_rng(1))
    with pytest.raises(ct.InputError, match="pass rng"):
        ct.estimators.get("first_order")(rank=1).fit(data)
    wide = p.replace(dim_out=2)
    many = ct.sample_data(wide, ct.sample_truth(wide, np.random.default_rng(0)), np.random.default_rng(1))
    for name in ("first_order", "gradient_multitask"):
        with pytest.raises(ct.InputError, match="dim_out = 1"):
            ct.estimators.get(name)(rank=1).fit(many, np.random.default_rng(0))


def test_the_gradient_of_the_first_order_method() -> None:
    """Stationary points by finite differences of the objective as the paper writes it."""
    p = ct.Problem(num_users=3, num_samples=9, dim_in=4, rank=2, noise_std=0.5)
    truth = ct.sample_truth(p, np.random.default_rng(0))
    data = ct.sample_data(p, truth, np.random.default_rng(1))
    x, y = data.covariates, data.responses[:, :, 0]
    rule = ct.estimators.get("first_order")(rank=2, tol=0.0, gradient_tol=1e-11, max_sweeps=5000)
    weights = rule.fit(data, np.random.default_rng(2)).weights[:, :, 0]
    left, values, right = np.linalg.svd(weights, full_matrices=False)
    root = np.sqrt(values[:2])
    flat = np.concatenate([(right[:2].T * root).ravel(), (left[:, :2] * root).ravel()])  # balanced factors

    def objective(at: np.ndarray) -> float:
        b, v = at[:8].reshape(4, 2), at[8:].reshape(3, 2)
        residual = y - np.einsum("knd,dr,kr->kn", x, b, v)
        return float((residual**2).sum() / (2 * 27) + ((b.T @ b - v.T @ v) ** 2).sum() / 8)

    np.testing.assert_allclose(approx_fprime(flat, objective, 1e-7), 0.0, atol=1e-5)


def new_user(problem: ct.Problem, name: str, trials: int) -> np.ndarray:
    cell = Cell.of(problem, {})
    spec = EstimatorSpec.of(ct.estimators.get(name), {})
    recipe = Recipe(7, (spec,), ("new_user_distance",))
    out = []
    for trial in range(trials):
        segment = Segment(0, cell.words, cell.problem, (trial,), (0,))
        drawn = draw(recipe, cell.words, problem, trial)
        out.append(ct.metrics.new_user_distance(problem, drawn[0], fit(recipe, segment, trial, 0, drawn)))
    return np.array(out)


@pytest.mark.parametrize(("name", "unknowns"), [("oracle_subspace", 2), ("full_finetuning", 10), ("bitfit", 10)])
def test_a_new_user_has_the_exact_risk_of_what_it_fits(name: str, unknowns: int) -> None:
    """Its own core in the true subspace: σ² r/(m − r − 1); alone: σ² d/(m − d − 1); level 1e-6."""
    p = ct.Problem(num_users=4, num_samples=15, dim_in=10, rank=2, noise_std=0.5, new_user_samples=30)
    squares = new_user(p, name, 400) ** 2
    exact = 0.25 * unknowns / (30 - unknowns - 1)
    assert abs(squares.mean() - exact) < stats.norm.isf(5e-7) * squares.std(ddof=1) / 20
    assert abs(squares.mean() - 1.3 * exact) > 3 * squares.std(ddof=1) / 20  # the test could have failed


@pytest.mark.parametrize("cores", ["gaussian", "unit", "equal", "clustered"])
def test_a_new_user_lies_in_the_shared_subspace_and_changes_nobody_else(cores: str) -> None:
    p = ct.Problem(
        num_users=6, num_samples=5, dim_in=7, rank=1 if cores == "equal" else 3, core_distribution=cores
    )
    plain = ct.sample_truth(p, np.random.default_rng(3))
    more = ct.sample_truth(p.replace(new_user_samples=9), np.random.default_rng(3))
    np.testing.assert_array_equal(plain.weights, more.weights)
    assert plain.newcomer is None
    assert more.newcomer is not None
    outside = more.newcomer - more.input_subspace @ (more.input_subspace.T @ more.newcomer)
    np.testing.assert_allclose(outside, 0.0, atol=1e-12)
    if cores in ("equal", "clustered"):
        assert min(np.linalg.norm(w - more.newcomer) for w in more.weights) < 1e-12
    data = ct.sample_data(p.replace(new_user_samples=9), more, np.random.default_rng(4))
    same = ct.sample_data(p, plain, np.random.default_rng(4))
    np.testing.assert_array_equal(data.covariates, same.covariates)
    assert data.newcomer is not None
    assert data.newcomer.covariates.shape == (1, 9, 7)
    served = serve(ct.estimators.get("full_finetuning")().fit(data), data.newcomer)
    np.testing.assert_allclose(served.newcomer, more.newcomer, atol=1e-10)  # noiseless, nine samples, seven inputs


def test_clustered_cores_are_groups_of_orthogonal_weights() -> None:
    p = ct.Problem(num_users=8, num_samples=5, dim_in=7, rank=3, core_distribution="clustered", signal_norm=2.0)
    w = ct.sample_truth(p, np.random.default_rng(0)).weights[:, :, 0]
    groups = np.array([0, 0, 1, 1, 2, 2, 2, 2])
    np.testing.assert_allclose(w @ w.T, 4.0 * (groups[:, None] == groups[None, :]), atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"core_distribution": "clustered", "num_users": 2, "rank": 2, "dim_out": 3}, None),
        ({"core_distribution": "clustered", "rank": (1, 2), "dim_out": 2}, "clustered"),
        ({"core_distribution": "clustered", "incoherence": 2.0}, "clustered cores have incoherence 1"),
        ({"new_user_samples": 5, "design": "sensing"}, "new_user_samples needs design"),
        ({"new_user_samples": 5, "core_distribution": "orthogonal"}, "new_user_samples needs cores"),
        ({"new_user_samples": -1}, "new_user_samples must be an integer"),
        ({"draws": "theirs"}, "draws must be one of own, duan_wang_2023, tian"),
    ],
)
def test_impossible_combinations_are_refused(fields: dict[str, object], said: str | None) -> None:
    base: dict[str, object] = {"num_users": 6, "num_samples": 9, "dim_in": 8, "rank": 2}
    if said is None:
        ct.Problem(**{**base, **fields})
        return
    with pytest.raises(ct.InputError, match=said):
        ct.Problem(**{**base, **fields})


def test_distances_are_roots_of_the_users_errors() -> None:
    p = ct.Problem(num_users=10, num_samples=9, dim_in=4, rank=1, outlier_fraction=0.3, noise_std=0.4)
    truth = ct.sample_truth(p, np.random.default_rng(0))
    data = ct.sample_data(p, truth, np.random.default_rng(1))
    found = ct.estimators.get("full_finetuning")().fit(data)
    errors = np.linalg.norm(found.weights - truth.weights, axis=(1, 2))
    assert truth.outliers is not None
    got = ct.metrics.evaluate(
        ["max_user_distance", "max_inlier_distance", "mean_inlier_distance"], p, truth, found
    )
    inliers = errors[~truth.outliers]
    assert list(got.values()) == pytest.approx([errors.max(), inliers.max(), inliers.mean()])


# --- Collins et al. 2021 ------------------------------------------------------------------------------------


def test_a_round_of_exact_heads_is_a_sweep_of_gradient_descent_on_the_representation() -> None:
    """Full participation from one start: the iteration of `altgdmin`, an estimator of its own."""
    p = ct.Problem(num_users=9, num_samples=12, dim_in=6, rank=2, noise_std=0.1)
    truth = ct.sample_truth(p, np.random.default_rng(0))
    data = ct.sample_data(p, truth, np.random.default_rng(1))
    rounds = ct.estimators.get("federated")(rank=2, start="split_half", max_sweeps=7)
    sweeps = ct.estimators.get("altgdmin")(rank=2, start="split_half", max_sweeps=7, tol=0.0, noise_tol=0.0)
    one, other = rounds.fit(data, np.random.default_rng(2)), sweeps.fit(data, np.random.default_rng(3))
    assert ct.subspace_distance(one.input_subspace, other.input_subspace) < 1e-8
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-8)


def test_heads_by_many_gradient_steps_are_exact_heads() -> None:
    p = ct.Problem(num_users=8, num_samples=30, dim_in=5, rank=2, noise_std=0.1)
    truth = ct.sample_truth(p, np.random.default_rng(0))
    data = ct.sample_data(p, truth, np.random.default_rng(1))
    make = ct.estimators.get("federated")
    exact = make(rank=2, max_sweeps=300, start="split_half").fit(data, np.random.default_rng(2))
    steps = make(rank=2, max_sweeps=300, start="split_half", heads="gradient", head_steps=60)
    many = steps.fit(data, np.random.default_rng(2))
    assert ct.subspace_distance(exact.input_subspace, many.input_subspace) < 1e-6
    part = make(rank=2, participation=0.25, max_sweeps=1).fit(data, np.random.default_rng(4))
    assert part.status == "stopped"
    shared = make(rank=2, max_sweeps=300, start="split_half", heads="shared").fit(data, np.random.default_rng(2))
    assert ct.subspace_distance(shared.input_subspace, truth.input_subspace) > 0.1  # one head cannot span two


def test_participation_lets_only_some_users_move_the_representation() -> None:
    """With one user a round out of two, and one round, the other user's data have no say."""
    p = ct.Problem(num_users=2, num_samples=9, dim_in=4, rank=1, noise_std=0.1)
    truth = ct.sample_truth(p, np.random.default_rng(0))
    data = ct.sample_data(p, truth, np.random.default_rng(1))
    rule = ct.estimators.get("federated")(rank=1, participation=0.5, max_sweeps=1)
    plain = rule.fit(data, np.random.default_rng(5)).input_subspace
    moved = []
    for user in (0, 1):
        responses = data.responses.copy()
        responses[user] *= -3.0
        responses[user, 0] += 1.0
        other = ct.Dataset(covariates=data.covariates, responses=responses, counts=data.counts)
        moved.append(ct.subspace_distance(rule.fit(other, np.random.default_rng(5)).input_subspace, plain) > 1e-6)
    assert sorted(moved) == [False, True]


# --- Tian, Gu & Feng ----------------------------------------------------------------------------------------


def tian(name: str, h: float, share: float = 0.0) -> tuple[ct.Problem, ct.Truth, ct.Dataset]:
    p = ct.Problem(
        num_users=40,
        num_samples=300,
        dim_in=12,
        rank=3,
        noise_std=1.0,
        similarity_angle=h,
        outlier_fraction=share,
        draws=f"tian_gu_feng_{name}",
    )
    return p, *DRAWS[p.draws](p, 0)


def test_the_law_as_stated_has_representations_with_the_users_heads_norms() -> None:
    """Orthonormal A_i: ‖θ_i‖ = ‖z_i‖ ≤ 2√r. As coded the norms leave that; at h = 0 both are the shared model."""
    for name in ("as_stated", "as_coded"):
        _, truth, _ = tian(name, 0.0)
        np.testing.assert_allclose(truth.deviations, 0.0, atol=1e-12)
    _, stated, _ = tian("as_stated", 0.8)
    heads = np.linalg.norm(stated.cores[:, :, 0], axis=1)
    np.testing.assert_allclose(np.linalg.norm(stated.weights[:, :, 0], axis=1), heads, rtol=1e-10)
    _, coded, _ = tian("as_coded", 0.8)
    ratio = np.linalg.norm(coded.weights[:, :, 0], axis=1) / np.linalg.norm(coded.cores[:, :, 0], axis=1)
    assert ratio.max() > 1.3
    assert (ratio <= (1.0 + 0.8) ** 2).all()


def test_outliers_of_that_law_have_larger_covariates_and_responses_follow_the_weights() -> None:
    p, truth, data = tian("as_stated", 0.3, share=0.25)
    assert truth.outliers is not None
    assert truth.outliers.sum() == 10
    size = np.sqrt((data.covariates**2).mean((1, 2)))
    assert size[truth.outliers].min() > 1.8
    assert size[~truth.outliers].max() < 1.2
    noise = data.responses - data.covariates @ truth.weights
    assert abs(float(noise.std()) - p.noise_std) < stats.norm.isf(5e-7) / np.sqrt(2 * noise.size)
    assert np.abs(truth.weights[truth.outliers]).max() <= 3.0
    again = DRAWS[p.draws](p, 0)[1]
    np.testing.assert_array_equal(again.responses, data.responses)
    assert not np.allclose(DRAWS[p.draws](p, 1)[1].responses, data.responses)
