"""Split certificate: limits for a fit's subspace and weights from the data it was fitted to, without the truth."""

from __future__ import annotations

import dataclasses
import math
import zlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from colora_theory.errors import InputError, expect
from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.guarantees.fresh_region import Region, judge
from colora_theory.guarantees.held_out import joined, noise_floor
from colora_theory.guarantees.hypotheses import at_least, homogeneous, isotropic_gaussian, noisy, regression
from colora_theory.model.checks import check_integer, check_real
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array, subspace_distance
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.truth import Truth

WAYS: Final = ("users", "rows")


@dataclass(frozen=True, eq=False)
class SplitCertificate:
    """What the data certify about a fit of the shared model, with probability at least 1 − eta for both together.

    Attributes
    ----------
    subspace_limit : upper confidence limit of the sine of the largest angle between the fit's subspace and the
        true one; 1 says nothing.
    error_limit : upper confidence limit of Σ_i ‖Ŵ_i − W_i‖_F²; infinite where there is none.
    eta : probability with which either may fail.
    by, parts : whether users or rows were divided, and into how many parts.
    fit : the fit that the limits are about.
    reason : why a limit says nothing; empty otherwise.
    """

    subspace_limit: float
    error_limit: float
    eta: float
    by: str
    parts: int
    fit: Any
    reason: str = ""

    def __str__(self) -> str:
        said = (
            f"subspace within {self.subspace_limit:.3g} and summed squared error at most {self.error_limit:.4g}, "
            f"with probability {1 - self.eta:g} ({self.parts} parts by {self.by})"
        )
        return f"{said}; {self.reason}" if self.reason else said


class Plan(NamedTuple):
    """How the data are divided."""

    by: str
    parts: int


def plan_of(counts: Any, dim_in: int, rank: int, dim_out: int = 1) -> Plan:
    """How to divide data: a choice by sizes alone, so that it cannot follow the noise.

    Two parts where the rows are several times the unknowns; more near that threshold, since the fits without a
    part must learn the subspace. By rows where every part keeps many more of them than the rank, because the fits
    of the parts then have independent errors; else by users, if a part's are enough to span the subspace.
    """
    seen = min(rank, dim_out)  # directions of the subspace that a user can see
    k, least = len(counts) * seen, int(min(counts))
    load = float(sum(counts)) * seen / (rank * (dim_in - rank) + k * rank)
    parts = 2 if load >= 4.5 else 3 if load >= 3.0 else 4 if load >= 2.2 else 10
    if least // parts >= max(3 * rank, 25):
        return Plan("rows", parts)
    if k >= parts * rank and len(counts) >= parts:
        return Plan("users", parts)
    if least >= 2 * parts * rank:
        return Plan("rows", parts)
    return Plan("users", 2) if k >= 2 * rank and len(counts) > 1 else Plan("rows", 2)


def angle_sum(first: float, second: float) -> float:
    """Sine of the sum of two angles given by their sines; 1 where the sum reaches a right angle.

    Largest principal angles obey the triangle inequality, since angles between unit vectors do.
    """
    if first**2 + second**2 >= 1.0:
        return 1.0
    return first * math.sqrt(1.0 - second**2) + second * math.sqrt(1.0 - first**2)


def split_certify(
    estimator: Any,
    data: Dataset,
    *,
    eta: float = 0.01,
    noise_std: float | tuple[float, float] | None = None,
    by: str | None = None,
    parts: int | None = None,
    rng: np.random.Generator | None = None,
    fit: Any = None,
) -> SplitCertificate:
    """Certify a fit of the shared model from its own data: distance to the true input subspace, and error.

    The data are divided; every part judges a fit of the others by exact laws of χ² and Gaussian variables, and the
    fit of all data is as far from those as can be seen. Nothing is asymptotic, no local minimum is assumed to be
    the right one, and no row is given away. docs/theory.md, "Split data", has the proof.

    Parameters
    ----------
    estimator : an object with `fit(data, rng)` that learns a shared subspace of the true rank.
    data : regression design (or one output), covariates N(0, I), Gaussian noise, all users in the shared model.
    noise_std : σ; or (low, high), limits of it; or None: limits from the data, at some of `eta`. The lower one
        then needs users with more rows than dim_in to be of use.
    by, parts : "users" or "rows", and into how many parts (None: chosen from the sizes). Trying several and
        keeping the best is not allowed for.
    rng : drives what is random in the method, and the division of sufficient rows.
    fit : the fit of all data, where there is one already.

    Raises InputError for matrix sensing and for methods without a shared subspace.

    >>> import numpy as np, colora_theory as ct
    >>> problem = ct.Problem(num_users=60, num_samples=60, dim_in=20, rank=2, noise_std=0.1)
    >>> truth = ct.sample_truth(problem, np.random.default_rng(0))
    >>> data = ct.sample_data(problem, truth, np.random.default_rng(1))
    >>> got = ct.split_certify(ct.estimators.get("altmin")(rank=2), data, noise_std=0.1)
    >>> bool(ct.subspace_distance(got.fit.input_subspace, truth.input_subspace) < got.subspace_limit < 0.1)
    True
    """
    expect("data", data, Dataset, "see Dataset.from_arrays")
    eta = check_real("eta", eta, 0.0, 1.0)
    if not 0.0 < eta < 1.0:
        raise InputError(f"eta must lie strictly between 0 and 1, got {eta:g}.")
    if not callable(getattr(estimator, "fit", None)):
        raise InputError(f"estimator must be an object with fit(data, rng), got {type(estimator).__name__}.")
    if data.design == "sensing" and data.dim_out != 1:
        raise InputError(f"data must be of the regression design, got sensing with dim_out = {data.dim_out}.")
    fit = estimator.fit(data, rng) if fit is None else fit
    if getattr(fit, "input_subspace", None) is None:
        raise InputError(
            "estimator must learn a shared subspace, and this one's fit has none; use certify instead."
        )
    rank = fit.input_subspace.shape[1]
    chosen = plan_of(data.counts, data.dim_in, rank, data.dim_out)
    by, parts = chosen.by if by is None else by, chosen.parts if parts is None else parts
    if by not in WAYS:
        raise InputError(f"by must be one of {', '.join(WAYS)}, got {by!r}.")
    parts = check_integer("parts", parts, 2)
    most = data.num_users if by == "users" else int(data.counts.min())
    if parts > most:
        raise InputError(f"parts must be at most {most}, the number of {by} there are, got {parts}.")
    low, high, left = _noise(data, noise_std, eta)
    plain = _regression(data)
    regions, members = [], []
    for training, fresh, users in _divided(data, plain, by, parts, rng):
        learned = estimator.fit(training, rng)
        members.append(users)
        regions.append(_region(learned, fresh, rank, low, high, left / parts))
    target = fit.weights - (0.0 if data.pretrained is None else data.pretrained)
    radius = min(
        (
            angle_sum(each.radius, subspace_distance(fit.input_subspace, each.centre))
            for pair in regions
            for each in pair
        ),
        default=1.0,
    )
    error = _error_by_users(regions, members, target) if by == "users" else _error_by_rows(regions, target)
    reason = (
        ""
        if radius < 1.0 and error < math.inf
        else next(
            (each.reason for pair in regions for each in pair if each.reason),
            "the limits are too wide at these sizes",
        )
    )
    return SplitCertificate(radius, error, eta, by, parts, fit, reason)


def _noise(data: Dataset, noise_std: Any, eta: float) -> tuple[float, float | None, float]:
    """Limits of σ (the upper one None: to be found part by part) and what is left of eta."""
    if noise_std is None:
        return noise_floor(data, eta / 4.0), None, 3.0 * eta / 4.0
    pair = noise_std if isinstance(noise_std, tuple) else (noise_std, noise_std)
    if len(pair) != 2:
        raise InputError(f"noise_std must be a number or a pair (low, high), got {noise_std!r}.")
    low, high = (check_real("noise_std", each, 0.0, 1e150) for each in pair)
    if low > high:
        raise InputError(f"noise_std must be a pair (low, high) with low ≤ high, got {noise_std!r}.")
    return low, high, eta


def _regression(data: Dataset) -> Dataset:
    """The data without the pretrained weight, and as a regression where sensing of one output is meant."""
    plain = data.without_pretrained()
    if plain.design == "regression":
        return plain
    return dataclasses.replace(plain, covariates=plain.covariates[..., 0], responses=plain.responses[..., None])


def _divided(data: Dataset, plain: Dataset, by: str, parts: int, rng: Any) -> Any:
    """What each part's fit learns from, what judges it, and the users that are judged."""
    if by == "users":
        turn = np.arange(data.num_users) % parts
        for j in range(parts):
            yield data.take(turn != j), plain.take(turn == j), turn == j
        return
    pieces = data.split(parts, rng)
    for j, piece in enumerate(pieces):
        yield joined(data, pieces, j), _regression(piece), slice(None)


def _region(
    learned: Any, fresh: Dataset, rank: int, low: float, high: float | None, failure: float
) -> tuple[Region, ...]:
    basis = learned.input_subspace
    if basis is None or basis.shape[1] != rank or not np.isfinite(basis).all():
        nothing = np.zeros((fresh.num_users, fresh.dim_in, fresh.dim_out))
        return (Region(np.eye(fresh.dim_in, rank), 1.0, nothing, math.inf, f"a part's fit is {learned.status}"),)
    return judge(np.linalg.qr(basis)[0], fresh, low, high, failure)


def _error_by_users(regions: list[tuple[Region, ...]], members: list[Any], target: Array) -> float:
    """Σ over parts of (√D + ‖θ̂ − θ̄‖)², each part by its better region."""
    total = 0.0
    for pair, users in zip(regions, members, strict=True):
        total += min(
            (math.sqrt(each.error) + float(np.linalg.norm(target[users] - each.weights))) ** 2 for each in pair
        )
    return total


def _error_by_rows(regions: list[tuple[Region, ...]], target: Array) -> float:
    """‖θ̄ − θ‖² = mean ‖θ̄_j − θ‖² − mean ‖θ̄_j − θ̄‖² for the mean θ̄ of the parts' estimates; then the triangle."""
    best = math.inf
    for kind in range(min(len(pair) for pair in regions)):
        chosen = [pair[kind] for pair in regions]
        mean = np.mean([each.weights for each in chosen], axis=0)
        around = float(np.mean([((each.weights - mean) ** 2).sum() for each in chosen]))
        limit = max(0.0, float(np.mean([each.error for each in chosen])) - around)
        best = min(best, (math.sqrt(limit) + float(np.linalg.norm(target - mean))) ** 2)
    return best


class _Certified(Guarantee):
    """What the two claims share: hypotheses, and the certificate of a realised trial."""

    kind = "bound"
    side = "upper"
    source = "docs/theory.md#split-data"
    expectation = False
    failure_probability = 0.01
    per_trial = True
    side_information = ()

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        rows = at_least(problem, problem.rank_in + 1, "rank + 1")
        return [regression(problem), isotropic_gaussian(problem), homogeneous(problem), noisy(problem), rows]

    def certificate(self, problem: Problem, data: Dataset, fit: Any) -> SplitCertificate | None:
        """The certificate of a fit that can be repeated on other data and has the model's rank; else None."""
        again = getattr(fit, "again", None)
        subspace = getattr(fit, "input_subspace", None)
        if again is None or subspace is None or subspace.shape[1] != problem.rank_in:
            return None
        # the same division whenever the trial is drawn again
        rng = np.random.default_rng([zlib.crc32(np.ascontiguousarray(data.responses).tobytes()), 2])
        method, chance = SimpleNamespace(fit=again), self.failure_probability
        return split_certify(method, data, eta=chance, noise_std=problem.noise_std, rng=rng, fit=fit)


@register
class CertifiedSubspace(_Certified):
    """Split certificate of the subspace: how far a fit is from the truth, from its own data and the noise level.

    Divide users (or rows) into parts. B̃ is the subspace that the same method learns without a part; the part is
    fresh for it. With Z_i = X_iB̃, N_i = X_iB̃_⊥, cores â_i by least squares, M_i projecting out Z_i, the true
    subspace being spanned by B̃ + B̃_⊥A, and a_i = B̃ᵀW_i (one output: W_i = θ_i):

        ‖M_iY_i‖² = (σ² + ‖Aa_i‖²) χ²_{n_i−r} bounds Σ‖Aa_i‖², and with it ‖AM^{1/2}‖_F, M = Σâ_iâ_iᵀ;
        Ā = argmin Σ‖M_i(Y_i − N_iAâ_i)‖² has Ā − A = H⁻¹(N(0, σ²) noise) + H⁻¹(m), ‖m‖ small with A.

    So the truth lies within a radius of B̃ and within another of B̃ + B̃_⊥Ā, and a fit of all data within that plus
    its own, computed, angle to the centre; the least over parts and centres is claimed. Nothing is assumed about
    the fit. For people: `ct.split_certify`, also with σ unknown.
    Hypotheses: regression design, the fit's input rank, covariates N(0, I), Gaussian noise of known σ > 0, more
    rows than that rank for every user; a method that fits parts of the data too (`fit.again`), told nothing of the
    truth.
    Kind: bound with probability 1 − η (η = 0.01). Source: docs/theory.md, "Split data".
    """

    name = "certified_subspace"
    metric = "subspace_distance"
    conservative = "parts judge with their own rows only, and errors may sit on few users: 3–6 times the distance"

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        found = self.certificate(problem, data, fit)
        return float("nan") if found is None else found.subspace_limit


@register
class CertifiedError(_Certified):
    """Split certificate of the weights: the summed squared error of a fit, from its own data and the noise level.

    As `certified_subspace`. With g_i = â_i − a_i ~ N(0, (σ² + ‖Aa_i‖²)(Z_iᵀZ_i)⁻¹), the estimates W̄_i = B̃â_i have

        Σ‖W̄_i − W_i‖² = Σ‖Aa_i‖² + Σ‖g_i‖²,  and those along B̃ + B̃_⊥Ā  Σ‖g_i‖² + Σ‖Ag_i + (Ā − A)â_i‖²,

    both bounded by the laws above. Parts by users cover each user once; parts by rows are averaged, and the spread
    of their estimates is subtracted. A fit of all data adds its computed distance to the centre.
    Hypotheses: as `certified_subspace`. Kind: bound with probability 1 − η (η = 0.01).
    Source: docs/theory.md, "Split data".
    """

    name = "certified_error"
    conservative = "as certified_subspace: 2–9 times the squared error"

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        found = self.certificate(problem, data, fit)
        return float("nan") if found is None else found.error_limit
