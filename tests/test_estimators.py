"""The contract that every estimator keeps, whatever its method."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import draw

import colora_theory as ct
from colora_theory.estimators import Estimator
from colora_theory.model.linalg import haar

#: Methods that repeat the runs of a paper, with its random start, its units and one output
#: (tests/test_published_methods.py holds them to their papers).
REPEATED = ("federated", "first_order", "gradient_multitask")
ALL = [name for name in ct.estimators.names() if name not in REPEATED]
#: Agreement of two fits that are equal but for the order of rounding, and where descent was stopped by it.
TIGHT = 1e-6
DESIGNS = ("regression", "sensing")


def defined(name: str, design: str) -> bool:
    """Whether a method speaks about a design: scalar responses have no output bias (bitfit refuses, see below)."""
    return not (name == "bitfit" and design == "sensing")


DEFINED = [(name, design) for name in ALL for design in DESIGNS if defined(name, design)]
#: Methods whose model contains every truth W_i = W_0 + U C_i Vᵀ: noiseless data determine it. The model of the
#: others does not (adapter, bitfit, pooled_lora, pooled_ridge, sparse: see below), or the method does not end
#: there: moments are exact only on average (spectral), and plain descent on two factors crawls towards small
#: singular values (lora_gd; well-conditioned changes below).
EXACT = [
    "altmin",
    "gauss_newton",
    "altgdmin",
    "fedrep",
    "full_finetuning",
    "lora",
    "lora_pro",
    "full_finetuning_gd",
    "oracle_subspace",
    "transfer",
    "lowrank_plus_sparse",
    "robust_multitask",
    "shared_plus_personal",
    "distillation",
    "ridge",
    "nuclear_norm",
    "hierarchical",
]


def make(name: str, problem: ct.Problem, truth: ct.Truth, **params: object) -> Estimator:
    """The estimator with the parameters that a study would fill in."""
    cls = ct.estimators.get(name)
    filled = dict(params)
    if "rank" in cls.parameters():
        filled.setdefault("rank", problem.rank)
    for side in cls.side_information:
        filled[side] = getattr(truth, side)
    return cls.from_params(**filled)


#: Methods whose penalty, or rank of the personal part, the data may choose; and the shared model with ridge cores.
TUNED = [name for name in ALL if "tune" in ct.estimators.get(name).parameters()]
SETTINGS = [
    *((name, {"tune": "cv"}) for name in TUNED),
    ("robust_multitask", {"tune": "cv_1se"}),
    *((name, {"core_penalty": "auto"}) for name in ("altmin", "gauss_newton", "transfer")),
    ("altmin", {"core_penalty": 2.0}),
]
#: Alternations that crawl in the sensing design: the same code as in the other, at ten times the cost.
CRAWLING = ("shared_plus_personal", "lowrank_plus_sparse")


def problem_for(name: str, design: str = "regression", **fields: object) -> ct.Problem:
    base = dict(num_users=10, num_samples=60, dim_in=7, dim_out=4, rank=2, pretrained_norm=2.0, design=design)
    return ct.Problem(**{**base, **fields})


def fit(name: str, problem: ct.Problem, truth: ct.Truth, data: ct.Dataset, **params: object) -> ct.estimators.Fit:
    return make(name, problem, truth, **params).fit(data, np.random.default_rng(11))


@pytest.mark.parametrize("name", [*ALL, *REPEATED])
def test_every_estimator_explains_itself(name: str) -> None:
    cls = ct.estimators.get(name)
    text = cls.__doc__ or ""
    assert cls.summary().endswith(".")
    assert any(word in text for word in ("Objective", "Model", "Moments", "Student"))
    assert "Cost" in text
    with pytest.raises(ct.InputError, match="has no parameter 'rnak'"):
        cls.from_params(rnak=3)


@pytest.mark.parametrize("design", ["regression", "sensing"])
@pytest.mark.parametrize("name", EXACT)
def test_noiseless_recovery_where_the_model_contains_the_truth(name: str, design: str) -> None:
    p = problem_for(name, design)
    truth, data = draw(p, 0)
    params = {"max_sweeps": 3000} if name in ("lora_pro", "full_finetuning_gd") else {}
    got = fit(name, p, truth, data, **params)
    assert got.status in ("converged", "stopped")
    assert ct.metrics.relative_error(p, truth, got) <= 1e-6


def fit_to(name: str, weights: np.ndarray, w0: np.ndarray, **params: object) -> ct.estimators.Fit:
    """A fit to noiseless data of given weights."""
    rng = np.random.default_rng(5)
    xs = rng.standard_normal((len(weights), 50, weights.shape[1]))
    data = ct.Dataset.from_arrays(list(xs), list(xs @ weights), pretrained=w0)
    return ct.estimators.get(name)(**params).fit(data, np.random.default_rng(11))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("pooled_lora", {"rank": 2}),
        ("adapter", {"rank": 2}),
        ("sparse", {}),
        ("sparse", {"method": "iht", "sparsity": 3}),
        ("lora_gd", {"rank": 2, "max_sweeps": 3000}),
    ],
)
def test_noiseless_recovery_of_the_truths_that_other_models_contain(name: str, params: dict[str, object]) -> None:
    rng = np.random.default_rng(4)
    w0 = rng.standard_normal((8, 4))
    low = np.matmul(haar(rng, 32, 2).reshape(4, 8, 2), haar(rng, 4, 2).T)
    changes = {
        "pooled_lora": low[:1].repeat(4, 0),
        "adapter": w0 @ np.array([haar(rng, 4, 2) @ haar(rng, 4, 2).T for _ in range(4)]),
        "sparse": np.where(rng.permuted(np.arange(128).reshape(4, 32) % 32, axis=1) < 3, 1.5, 0).reshape(4, 8, 4),
        "lora_gd": low,
    }[name]
    got = fit_to(name, w0 + changes, w0, **params)
    np.testing.assert_allclose(got.weights, w0 + changes, atol=1e-6)


def test_bitfit_refuses_scalar_responses() -> None:
    p = problem_for("bitfit", "sensing")
    truth, data = draw(p, 0)
    with pytest.raises(ct.InputError, match="not defined for sensing"):
        fit("bitfit", p, truth, data)


@pytest.mark.parametrize(("name", "design"), DEFINED)
def test_permutation_of_users_and_scale_of_responses(name: str, design: str) -> None:
    """Users in another order, and responses in other units (with the pretrained weight): the same answer."""
    p = problem_for(name, design, noise_std=0.1)
    truth, data = draw(p, 1)
    order = np.array([3, 1, 0, 2, 4, 8, 7, 5, 6, 9])  # transfer's new user stays the last one
    scale = 100.0
    assert data.pretrained is not None
    other = ct.Dataset(
        covariates=data.covariates[order],
        responses=scale * data.responses[order],
        counts=data.counts[order],
        pretrained=scale * data.pretrained,
    )
    penalty = {"penalty": 5.0} if name == "ridge" else {}
    plain = fit(name, p, truth, data, **penalty).weights
    np.testing.assert_allclose(
        fit(name, p, truth, other, **penalty).weights, scale * plain[order], atol=scale * TIGHT
    )


#: Methods tied to the coordinate system on purpose: a sparse part has axes, and where every input's unit is free
#: (hierarchical), so that there is no rotation to speak of. Axes may be renamed and reversed.
AXES = ("sparse", "lowrank_plus_sparse", "hierarchical")


def orthogonal(name: str, dim: int) -> np.ndarray:
    """A rotation, or for methods with axes a signed permutation."""
    rng = np.random.default_rng(0)
    turn = haar(rng, dim, dim)
    if name in AXES:
        return np.eye(dim)[rng.permutation(dim)] * rng.choice([-1.0, 1.0], dim)
    return turn


@pytest.mark.parametrize(("name", "design"), DEFINED)
def test_rotation_of_the_inputs(name: str, design: str) -> None:
    """x → Rx turns W into RW: for every method exactly, since random starts do not live on the input side."""
    p = problem_for(name, design, noise_std=0.1)
    truth, data = draw(p, 2)
    rotation = orthogonal(name, 7)
    assert data.pretrained is not None
    turned = np.moveaxis(np.tensordot(data.covariates, rotation, axes=([2], [1])), -1, 2)
    other = ct.Dataset(
        covariates=np.ascontiguousarray(turned),
        responses=data.responses,
        counts=data.counts,
        pretrained=rotation @ data.pretrained,
    )
    there = dataclasses.replace(truth, input_subspace=rotation @ truth.input_subspace)
    plain, got = fit(name, p, truth, data).weights, fit(name, p, there, other).weights
    np.testing.assert_allclose(got, np.matmul(rotation, plain), atol=TIGHT)


class Turned(np.random.Generator):
    """Normal matrices with every row turned by an orthogonal matrix: as random as before."""

    def standard_normal(self, size: object = None, **kwargs: object) -> np.ndarray:  # type: ignore[override]
        return super().standard_normal(size, **kwargs) @ orthogonal("", 4)  # type: ignore[call-overload]


@pytest.mark.parametrize(("name", "design"), DEFINED)
def test_rotation_of_the_outputs(name: str, design: str) -> None:
    """y → Qᵀy turns W into WQ. A random adapter has a direction among the outputs, so it has to turn as well."""
    p = problem_for(name, design, noise_std=0.1)
    truth, data = draw(p, 2)
    rotation = orthogonal(name, 4)
    assert data.pretrained is not None
    side = data.responses @ rotation if design == "regression" else data.responses
    other = ct.Dataset(
        covariates=data.covariates if design == "regression" else data.covariates @ rotation,
        responses=side,
        counts=data.counts,
        pretrained=data.pretrained @ rotation,
    )
    there = dataclasses.replace(truth, output_subspace=rotation.T @ truth.output_subspace)
    rng: np.random.Generator = np.random.default_rng(11)
    if name in ("lora_gd", "lora_pro"):
        rng = Turned(np.random.PCG64(11))
    plain, got = fit(name, p, truth, data).weights, make(name, p, there).fit(other, rng).weights
    np.testing.assert_allclose(got, plain @ rotation, atol=TIGHT)


@pytest.mark.parametrize("name", ["lora", "lora_gd", "lora_pro", "ridge", "sparse", "full_finetuning_gd"])
def test_who_is_tuned_alone_does_not_notice_the_others(name: str) -> None:
    p = problem_for(name, noise_std=0.1)
    truth, data = draw(p, 9)
    params = {"penalty": 5.0} if name == "ridge" else {}
    plain = fit(name, p, truth, data, **params).weights
    np.testing.assert_allclose(fit(name, p, truth, data.take([4, 7]), **params).weights, plain[[4, 7]], atol=TIGHT)


@pytest.mark.parametrize(("name", "design"), DEFINED)
def test_inputs_stay_untouched_and_the_seed_decides(name: str, design: str) -> None:
    p = problem_for(name, design, noise_std=0.1)
    truth, data = draw(p, 3)
    assert data.pretrained is not None
    before = [a.copy() for a in (data.covariates, data.responses, data.counts, data.pretrained)]
    first, second = (fit(name, p, truth, data) for _ in range(2))
    for array, old in zip((data.covariates, data.responses, data.counts, data.pretrained), before, strict=True):
        np.testing.assert_array_equal(array, old)
    np.testing.assert_array_equal(first.weights, second.weights)
    assert first.weights.shape == (10, 7, 4)
    assert np.isfinite(first.weights).all()
    assert first.status in ("converged", "stopped", "singular")
    assert (first.message == "") == (first.status == "converged")


@pytest.mark.parametrize("name", [n for n in ALL if "max_sweeps" in ct.estimators.get(n).parameters()])
def test_a_stopped_run_says_so(name: str) -> None:
    p = problem_for(name, noise_std=0.3)
    truth, data = draw(p, 4)
    got = fit(name, p, truth, data, max_sweeps=1)
    assert got.status == "stopped"
    assert "max_sweeps = 1" in got.message
    assert got.sweeps == 1


@pytest.mark.parametrize("name", ["lora_gd", "lora_pro"])
def test_adapters_trained_by_gradients_do_not_diverge_at_the_default_step(name: str) -> None:
    p = ct.Problem(num_users=24, num_samples=30, dim_in=20, dim_out=6, rank=2, noise_std=0.3, pretrained_norm=1.0)
    truth, data = draw(p, 3)
    objective = fit(name, p, truth, data, max_sweeps=60).history["objective"]
    assert np.isfinite(objective).all()
    assert objective[-1] < 0.5 * objective[0]


@pytest.mark.parametrize("name", ALL)
def test_degenerate_data_never_crash(name: str) -> None:
    """One sample, a user without samples, nothing to learn: finite weights."""
    p = problem_for(name, num_samples=1)
    truth, data = draw(p, 5)
    got = fit(name, p, truth, data)
    assert np.isfinite(got.weights).all()
    p = problem_for(name, num_samples=(30, 0))
    truth, data = draw(p, 6)
    got = fit(name, p, truth, data)
    assert np.isfinite(got.weights).all()
    assert data.pretrained is not None
    known = np.matmul(data.covariates, data.pretrained)  # nothing is left to learn
    zero = ct.Dataset(covariates=data.covariates, responses=known, counts=data.counts, pretrained=data.pretrained)
    np.testing.assert_allclose(fit(name, p, truth, zero).weights - data.pretrained, 0.0, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ALL)
def test_numbers_that_are_none_never_reach_an_estimator(name: str, bad: float) -> None:
    p = problem_for(name)
    truth, data = draw(p, 7)
    for field in ("covariates", "responses"):
        arrays = {"covariates": data.covariates.copy(), "responses": data.responses.copy()}
        arrays[field][2, 1, 3] = bad
        with pytest.raises(ct.InputError, match=f"{field} of user 2 must be finite") as error:
            fit(name, p, truth, ct.Dataset.from_arrays(arrays["covariates"], arrays["responses"]))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "design"), [case for case in DEFINED if case[0] != "transfer"])
def test_one_user_is_a_crowd_of_one(name: str, design: str) -> None:
    p = problem_for(name, design, num_users=1, noise_std=0.1)
    truth, data = draw(p, 7)
    got = fit(name, p, truth, data)
    assert got.weights.shape == (1, 7, 4)
    assert np.isfinite(got.weights).all()


def test_transfer_needs_a_user_to_learn_from() -> None:
    p = problem_for("transfer", num_users=1)
    truth, data = draw(p, 7)
    with pytest.raises(ct.InputError, match="sources must lie between 1 and num_users - 1 = 0"):
        fit("transfer", p, truth, data)


@pytest.mark.parametrize("name", ["nuclear_norm", "sparse"])
def test_a_penalty_scaled_to_the_noise_is_scaled_to_the_end(name: str) -> None:
    """Converged means that the penalty is the stated multiple of the residuals' own size, not merely near it."""
    p = problem_for(name, noise_std=0.2)
    truth, data = draw(p, 10)
    plain = fit(name, p, truth, data)
    again = fit(name, p, truth, data, tol=1e-9, max_sweeps=50_000)
    assert plain.status == again.status == "converged"
    np.testing.assert_allclose(plain.weights, again.weights, atol=2e-3)
    if name == "nuclear_norm":
        noise = np.sqrt(((data.responses - data.covariates @ plain.weights) ** 2).mean())
        rate = np.sqrt(60) * (np.sqrt(7) + np.sqrt(40))
        assert plain.history["penalty"] == pytest.approx(noise * rate, rel=1e-3)


@pytest.mark.parametrize("name", ["full_finetuning", "altmin", "gauss_newton", "lora", "spectral"])
def test_too_few_samples_are_singular(name: str) -> None:
    p = problem_for(name, num_samples=1)
    truth, data = draw(p, 5)
    got = fit(name, p, truth, data)
    assert got.status == "singular"
    assert got.message


@pytest.mark.parametrize("name", [n for n in ALL if "rank" in ct.estimators.get(n).parameters()])
def test_bad_ranks_are_refused_in_one_sentence(name: str) -> None:
    p = problem_for(name)
    truth, data = draw(p, 7)
    for rank in (0, 99, "two", 1.5, True):
        if name == "hierarchical" and rank == 0:  # nothing shared is a hypothesis like others
            continue
        with pytest.raises(ct.InputError, match="rank must") as error:
            fit(name, p, truth, data, rank=rank)
        assert "\n" not in str(error.value)
    if name == "hierarchical":  # which chooses
        return
    with pytest.raises(ct.InputError, match="rank must be given"):
        ct.estimators.get(name)().fit(data, np.random.default_rng(0))


@pytest.mark.parametrize(("name", "design"), DEFINED)
def test_sufficient_rows_are_enough(name: str, design: str) -> None:
    """Least-squares methods run on effective rows; those that need samples say so."""
    p = problem_for(name, design, sampling="sufficient", num_samples=1000, noise_std=0.1)
    truth, data = draw(p, 8)
    if name == "bitfit":
        with pytest.raises(ct.InputError, match="not defined for sufficient rows"):
            fit(name, p, truth, data)
        return
    assert np.isfinite(fit(name, p, truth, data).weights).all()


# --- tuned by the data -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "design"),
    [
        (*case, design)
        for case in SETTINGS
        for design in DESIGNS
        if design == "regression" or case[0] not in CRAWLING
    ],
)
def test_tuned_methods_keep_the_contract(name: str, params: dict[str, object], design: str) -> None:
    """Same answer for users in another order, responses in other units, axes renamed; the value chosen is told."""
    p = problem_for(name, design, num_samples=20, noise_std=0.5)
    truth, data = draw(p, 12)
    before = [a.copy() for a in (data.covariates, data.responses, data.counts)]
    got = fit(name, p, truth, data, **params)
    for array, old in zip((data.covariates, data.responses, data.counts), before, strict=True):
        np.testing.assert_array_equal(array, old)
    assert np.isfinite(got.weights).all()
    assert got.history["tuned"] >= 0.0
    order, axes = np.array([3, 1, 0, 2, 4, 8, 7, 5, 6, 9]), orthogonal("sparse", 7)
    assert data.pretrained is not None
    other = ct.Dataset(
        covariates=np.moveaxis(np.tensordot(data.covariates, axes, axes=([2], [1])), -1, 2)[order],
        responses=100.0 * data.responses[order],
        counts=data.counts[order],
        pretrained=100.0 * axes @ data.pretrained,
    )
    turned = fit(name, p, truth, other, **params)
    assert turned.history["tuned"] == pytest.approx(got.history["tuned"])
    np.testing.assert_allclose(turned.weights, 100.0 * (axes @ got.weights)[order], atol=1e-4)


@pytest.mark.parametrize(("name", "params"), [case for case in SETTINGS if case[1] != {"tune": "cv_1se"}])
def test_tuned_methods_survive_degenerate_data(name: str, params: dict[str, object]) -> None:
    for counts, seed in (((6, 0), 6), ((2, 1), 7)):
        p = problem_for(name, num_samples=counts)
        truth, data = draw(p, seed)
        assert np.isfinite(fit(name, p, truth, data, **params).weights).all()
    assert data.pretrained is not None
    known = np.matmul(data.covariates, data.pretrained)
    zero = ct.Dataset(covariates=data.covariates, responses=known, counts=data.counts, pretrained=data.pretrained)
    np.testing.assert_allclose(fit(name, p, truth, zero, **params).weights - data.pretrained, 0.0, atol=1e-12)


@pytest.mark.parametrize(("name", "params"), SETTINGS)
def test_tuned_methods_take_sufficient_rows(name: str, params: dict[str, object]) -> None:
    p = problem_for(name, sampling="sufficient", num_samples=200, noise_std=0.1)
    truth, data = draw(p, 8)
    assert np.isfinite(fit(name, p, truth, data, **params).weights).all()
