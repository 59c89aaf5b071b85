"""Edges of floating point: right to a stated accuracy, or the status says why not."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from conftest import draw
from test_estimators import ALL, DEFINED, make

import colora_theory as ct
from colora_theory.estimators import Fit
from colora_theory.estimators.scaling import exponents
from colora_theory.model import metrics
from colora_theory.model.dataset import predict
from colora_theory.model.linalg import haar

EPS = float(np.finfo(float).eps)
DESIGNS = ("regression", "sensing")
#: The shared model by least squares.
SHARED = ("altmin", "gauss_newton", "altgdmin", "fedrep")


def problem_of(design: str, **fields: object) -> ct.Problem:
    base = dict(num_users=6, num_samples=25 if design == "regression" else 40, dim_in=5, dim_out=3, rank=2)
    return ct.Problem(**{**base, "design": design, "noise_std": 0.1, "pretrained_norm": 1.0, **fields})


def rescaled(data: ct.Dataset, e: int, f: int) -> ct.Dataset:
    """Covariates times 2^e, responses times 2^f, and the pretrained weight in the units that follow."""
    assert data.pretrained is not None
    return ct.Dataset(
        covariates=np.ldexp(data.covariates, e),
        responses=np.ldexp(data.responses, f),
        counts=data.counts,
        pretrained=np.ldexp(data.pretrained, f - e),
        sufficient=data.sufficient,
    )


def run(name: str, p: ct.Problem, truth: ct.Truth, data: ct.Dataset, **params: object) -> Fit:
    return make(name, p, truth, **params).fit(data, np.random.default_rng(11))


def objective(data: ct.Dataset, weights: np.ndarray) -> float:
    return float(((data.responses - predict(data.covariates, weights)) ** 2).sum())


# --- units ------------------------------------------------------------------------------------------------

#: 2^±498 = 1e±150: squares of such numbers do not exist in double precision.
EXTREME = [(0, 498), (0, -498), (498, 0), (-498, 0), (498, 498), (-498, -498), (498, -498), (-498, 498)]


@pytest.mark.parametrize(("name", "design"), DEFINED)
def test_data_between_1e_minus_150_and_1e150_give_the_same_answer(name: str, design: str) -> None:
    """Only units differ, so the weights are the same numbers in other units, to the last digits."""
    p = problem_of(design)
    truth, data = draw(p, 1)
    plain = run(name, p, truth, data)
    for e, f in EXTREME:
        other = rescaled(data, e, f)
        got = run(name, p, truth, other)
        assert (got.status, got.message) == (plain.status, plain.message)
        # the adapter's inner covariates are products with W_0, so the units of the responses touch their size
        digits = 1e-6 if name == "adapter" else 1e-12
        np.testing.assert_allclose(np.ldexp(got.weights, e - f), plain.weights, rtol=digits, atol=digits)
        assert got.pretrained is other.pretrained
        if got.intercepts is not None:
            np.testing.assert_allclose(np.ldexp(got.intercepts, -f), plain.intercepts, rtol=1e-12)
        for key in ("personal", "teacher"):
            if key in got.history:
                back = np.ldexp(got.history[key], e - f)
                np.testing.assert_allclose(back, plain.history[key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["ridge", "sparse", "nuclear_norm"])
def test_a_given_penalty_keeps_its_units(name: str) -> None:
    """Of XᵀX for a squared norm, of Xᵀy for a norm; and the history tells the penalty in them."""
    p = problem_of("regression")
    truth, data = draw(p, 1)
    plain = run(name, p, truth, data, penalty=3.0)
    for e, f in ((130, 0), (0, 130), (-120, 140)):
        penalty = float(np.ldexp(3.0, 2 * e if name == "ridge" else e + f))
        got = run(name, p, truth, rescaled(data, e, f), penalty=penalty)
        np.testing.assert_allclose(np.ldexp(got.weights, e - f), plain.weights, rtol=1e-11, atol=1e-12)
        if "penalty" in got.history:
            assert got.history["penalty"] == pytest.approx(penalty)
    assert np.abs(run(name, p, truth, data, penalty=1.0).weights - plain.weights).max() > 1e-3


def test_objectives_are_told_in_the_units_of_the_responses() -> None:
    p = problem_of("regression")
    truth, data = draw(p, 1)
    plain = run("altmin", p, truth, data, keep_history=True).history["objective"]
    got = run("altmin", p, truth, rescaled(data, -140, 140), keep_history=True).history["objective"]
    np.testing.assert_allclose(np.ldexp(got, -280), plain, rtol=1e-12)
    path = run("lora_gd", p, truth, rescaled(data, 140, 140), keep_history=True, max_sweeps=3).history[
        "weight_changes"
    ]
    reference = run("lora_gd", p, truth, data, keep_history=True, max_sweeps=3).history["weight_changes"]
    np.testing.assert_allclose(path, reference, rtol=1e-12)


def test_ordinary_data_are_left_alone_and_all_zero_data_have_no_units() -> None:
    truth, data = draw(problem_of("regression"), 1)
    assert exponents(data) == (0, 0)
    assert exponents(rescaled(data, 30, -30)) == (0, 0)
    zero = ct.Dataset(covariates=data.covariates, responses=0.0 * data.responses, counts=data.counts)
    assert exponents(zero) == (0, 0)
    tiny = ct.Dataset(covariates=np.ldexp(data.covariates, -700), responses=zero.responses, counts=data.counts)
    assert exponents(tiny)[0] == exponents(tiny)[1]
    assert not run("ridge", problem_of("regression"), truth, tiny).weights.any()


def test_weights_beyond_floating_point_are_refused_in_one_sentence() -> None:
    truth, data = draw(problem_of("regression"), 1)
    far = ct.Dataset(
        covariates=np.ldexp(data.covariates, -600), responses=np.ldexp(data.responses, 600), counts=data.counts
    )
    with pytest.raises(ct.InputError, match=r"weights must lie between .* change the units") as error:
        run("full_finetuning", problem_of("regression"), truth, far)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["full_finetuning", "altmin", "gauss_newton"])
def test_a_pretrained_weight_whose_predictions_dwarf_the_responses(name: str) -> None:
    """What is fitted is Y − X W_0, whose size is that of X W_0 here: the change is −W_0 and nothing overflows."""
    p = problem_of("regression", rank=(3, 3))
    truth, data = draw(p, 1)
    assert data.pretrained is not None
    far = ct.Dataset(
        covariates=np.ldexp(data.covariates, 300),
        responses=np.ldexp(data.responses, -400),
        counts=data.counts,
        pretrained=data.pretrained,
    )
    got = run(name, p, truth, far)
    assert got.status in ("converged", "stopped")
    assert np.abs(got.weights).max() <= 1e-9 * np.abs(data.pretrained).max()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["covariates", "responses", "pretrained"])
def test_data_that_are_not_finite_are_refused_by_every_fit(what: str, value: float) -> None:
    p = problem_of("regression")
    truth, data = draw(p, 1)
    arrays = {name: getattr(data, name).copy() for name in ("covariates", "responses", "pretrained")}
    arrays[what].flat[3] = value
    broken = ct.Dataset(**arrays, counts=data.counts)
    for name in ALL:
        with pytest.raises(ct.InputError, match=f"{what} must be finite"):
            run(name, p, truth, broken)


@pytest.mark.parametrize(("name", "design"), DEFINED)
@pytest.mark.parametrize("rows", [0, 3])
def test_data_without_samples_are_refused_by_every_fit(rows: int, name: str, design: str) -> None:
    p = problem_of(design)
    truth, data = draw(p, 1)
    empty = ct.Dataset(
        covariates=0.0 * data.covariates[:, :rows],
        responses=0.0 * data.responses[:, :rows],
        counts=0 * data.counts,
        pretrained=data.pretrained,
    )
    with pytest.raises(ct.InputError, match="at least one user must have a sample"):
        run(name, p, truth, empty)


@pytest.mark.parametrize("name", ["lora_gd"])
def test_a_diverging_descent_says_so(name: str) -> None:
    p = problem_of("regression", noise_std=1e6)
    truth, data = draw(p, 2)
    with np.errstate(all="ignore"):
        got = run(name, p, truth, data, step=1.9)
    assert got.status == "diverged"
    assert "not finite" in got.message


def test_metrics_far_from_one() -> None:
    """Relative and geometric metrics do not depend on units; a squared error is right until its square ends."""
    for norm in (1e-150, 1e-80, 1.0, 1e80, 1e150):
        p = problem_of("regression", signal_norm=norm, pretrained_norm=0.0)
        truth, _ = draw(p, 3)
        shifted = Fit(status="converged", dense=truth.changes * 1.5, input_subspace=truth.input_subspace * norm)
        assert metrics.relative_error(p, truth, shifted) == pytest.approx(0.5, rel=1e-12)
        assert metrics.input_distance(p, truth, shifted) < 1e-14
        expected = 0.25 * float(((truth.changes / norm) ** 2).sum()) * norm**2
        assert metrics.parameter_error(p, truth, shifted) == pytest.approx(expected, rel=1e-10)
        assert metrics.prediction_risk(p, truth, shifted) == pytest.approx(expected, rel=1e-10)


# --- conditioning -----------------------------------------------------------------------------------------


def conditioned(p: ct.Problem, truth: ct.Truth, condition: float, noise: float, seed: int = 0) -> ct.Dataset:
    """Every user's covariates with exactly this condition number, singular directions at random."""
    rng = np.random.default_rng([seed, 9])
    q, m = p.num_features, p.counts[0]
    spectrum = np.geomspace(1.0, 1.0 / condition, q)
    one = (p.dim_in,) if p.design == "regression" else (p.dim_in, p.dim_out)
    x = np.stack([np.sqrt(m) * (haar(rng, m, q) * spectrum) @ haar(rng, q, q).T for _ in range(p.num_users)])
    x = x.reshape(p.num_users, m, *one)
    y = predict(x, truth.weights)
    y += noise * rng.standard_normal(y.shape)
    counts = np.array(p.counts, dtype=np.int64)
    return ct.Dataset(covariates=x, responses=y, counts=counts, pretrained=truth.pretrained)


def exact_least_squares(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Least squares by QR with sixty digits."""
    with mpmath.workdps(60):
        a, b = mpmath.matrix(features.tolist()), mpmath.matrix(targets.tolist())
        out = [[float(v) for v in mpmath.qr_solve(a, b[:, j])[0]] for j in range(b.cols)]
    return np.array(out).T


@pytest.mark.parametrize("noise", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("condition", [1e3, 1e6, 1e9, 1e12])
def test_least_squares_of_every_user_against_sixty_digits(condition: float, noise: float) -> None:
    """Relative error at most c·ε·κ(1 + κ·residual/(fitted values)), the sensitivity of the problem itself."""
    p = problem_of("regression", num_users=2, num_samples=9, dim_out=2, rank=2, noise_std=noise)
    truth, _ = draw(p, 4)
    data = conditioned(p, truth, condition, noise)
    response = data.residual_responses()
    for name in ("full_finetuning", "oracle_subspace"):
        got = run(name, p, truth, data)
        assert got.status == "converged"
        for i in range(2):
            basis = np.eye(5) if name == "full_finetuning" else truth.input_subspace
            features = data.covariates[i] @ basis
            exact = exact_least_squares(features, response[i])
            found = got.weights[i] - truth.pretrained
            residual = np.linalg.norm(response[i] - features @ exact)
            kappa = np.linalg.cond(features)
            angle = residual / np.linalg.norm(features @ exact)
            allowed = 200 * EPS * (kappa + kappa**2 * angle)
            assert np.linalg.norm(basis.T @ found - exact) <= min(allowed, 1.0) * np.linalg.norm(exact) + 1e-14


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("condition", [1e3, 1e6, 1e9, 1e12])
def test_ill_conditioned_covariates_are_fitted_or_the_status_says_not(condition: float, design: str) -> None:
    """Closed forms fit to rounding. Descents that say "converged" stand at a stationary point of the objective."""
    p = problem_of(design, noise_std=0.0)
    truth, _ = draw(p, 1)
    data = conditioned(p, truth, condition, 0.0)
    energy = objective(data, np.broadcast_to(truth.pretrained, truth.weights.shape))
    for name in ("full_finetuning", "oracle_subspace", *(("lora",) if design == "regression" else ())):
        got = run(name, p, truth, data)
        assert got.status == "converged"
        assert objective(data, got.weights) <= 1e-24 * energy
        assert metrics.relative_error(p, truth, got) <= 1e3 * EPS * condition
    for name in SHARED:
        got = run(name, p, truth, data, noise_tol=0.0)
        assert got.status in ("converged", "stopped", "singular")
        assert got.message or got.status == "converged"
        assert objective(data, got.weights) <= energy
        if got.status == "converged" and objective(data, got.weights) > 1e-20 * energy:
            assert slope(data, got) <= 1e-6


def slope(data: ct.Dataset, fit: Fit) -> float:
    """Size of the objective's gradient along U, relative to the largest it could be for this misfit."""
    residual = data.responses - predict(data.covariates, fit.weights)
    k, m = data.covariates.shape[:2]
    flat = data.covariates.reshape(k, m, -1)
    moments = np.stack([x.T @ r.reshape(m, -1) for x, r in zip(flat, residual, strict=True)])
    moments = moments.reshape(k, data.dim_in, data.dim_out)
    gradient = sum(a @ fit.output_subspace @ c.T for a, c in zip(moments, fit.cores, strict=True))
    gradient -= fit.input_subspace @ (fit.input_subspace.T @ gradient)
    sizes = [np.linalg.norm(x, 2) * np.linalg.norm(c) for x, c in zip(flat, fit.cores, strict=True)]
    return float(np.linalg.norm(gradient) / (np.linalg.norm(residual) * np.linalg.norm(sizes)))


def test_a_factorisation_that_breaks_down_is_a_diverged_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a refusal of the caller's input: in a trial it counts as a failure of the estimator."""
    cls = type(ct.estimators.get("full_finetuning")())

    def broken(*_: object) -> None:
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr("colora_theory.estimators.full_finetuning.least_squares", broken)
    problem = ct.Problem(num_users=2, num_samples=6, dim_in=3, rank=1)
    data = ct.sample_data(problem, ct.sample_truth(problem, np.random.default_rng(0)), np.random.default_rng(1))
    found = cls().fit(data)
    assert found.status == "diverged"
    assert "SVD did not converge" in found.message
    assert np.isnan(found.weights).all()
