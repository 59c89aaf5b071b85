"""Held-out certificate: an upper confidence limit of a fit's error from fresh rows, without knowing the truth."""

from __future__ import annotations

import dataclasses
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy
from numpy.typing import NDArray

from colora_theory.errors import InputError, expect
from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.guarantees.hypotheses import at_least, isotropic_gaussian, no_intercepts
from colora_theory.model.checks import check_integer, check_real
from colora_theory.model.dataset import Dataset, predict
from colora_theory.model.linalg import Array, as_rows, minimum_norm, numbers
from colora_theory.model.problem import Problem
from colora_theory.model.sampling import sample_data

if TYPE_CHECKING:
    from colora_theory.model.truth import Truth

#: Values of 2λ times the mean square residual at which Chernoff's bound is evaluated; any of them is valid.
_GRID: Final = np.exp(np.linspace(math.log(1e-3), math.log(1e3), 80))


@dataclass(frozen=True, eq=False)
class HeldOutCertificate:
    """What fresh rows certify about a fit, with probability at least 1 − eta.

    Attributes
    ----------
    limit : upper confidence limit of Σ_i ‖Ŵ_i − W_i‖_F² for covariates N(0, I), and of the excess prediction risk
        for Gaussian covariates with any covariance; infinite when a user has no held-out row.
    user_limits : shape (num_users,), limits of each user's ‖Ŵ_i − W_i‖_F², valid together.
    estimate : Σ_i (mean squared residual − noise), unbiased when the noise is known.
    eta : probability with which the limit may fail.
    noise_std : the noise that was known, or else its lower confidence limit from the held-out rows (0 when no user
        has more of them than unknowns; the limit then covers error and noise together).
    weights : for a cross-fitted certificate the weights it is about, shape (num_users, dim_in, dim_out).
    """

    limit: float
    user_limits: Array
    estimate: float
    eta: float
    noise_std: float
    weights: Array | None = None

    def __str__(self) -> str:
        return (
            f"summed squared error at most {self.limit:.4g} with probability {1 - self.eta:g} "
            f"(estimate {self.estimate:.4g}, noise at least {self.noise_std:.3g})"
        )


def user_limits(sums: Array, counts: NDArray[np.int64], outputs: int, variance: float, failure: float) -> Array:
    """Upper confidence limits of every a_i = ‖Δ_i‖_F², each failing with probability at most `failure`.

    `sums` are the users' squared residuals R_i, shape (k,), of `counts` rows with `outputs` outputs. One output:
    R_i = (a_i + σ²)χ²_{n_i} exactly. Several: the error is spread over singular values; Chernoff's bound is worst
    when it is all in one.
    """
    limits, live = np.full(len(sums), np.inf), counts > 0
    if outputs == 1:
        lowest = scipy.stats.chi2.ppf(failure, counts[live].astype(float))
        limits[live] = np.maximum(0.0, sums[live] / lowest - variance)
        return limits
    for i in np.flatnonzero(live):
        n, total = float(counts[i]), float(sums[i])
        twice = _GRID * n * outputs / max(total, 1e-300)
        room = twice * total / 2 - math.log(failure) - n * (outputs - 1) / 2 * np.log1p(twice * variance)
        reached = np.expm1(np.minimum(2.0 * room / n, 600.0)) / twice - variance
        limits[i] = max(0.0, float(reached.min()))
    return limits


def total_limit(
    sums: Array,
    counts: NDArray[np.int64],
    outputs: int,
    variance: float,
    failure: float,
    known: Array | None = None,
) -> float:
    """Upper confidence limit of Σ a_i, failing with probability ≤ `failure`; docs/theory.md, "Held-out rows".

    Half of the failure goes into caps on every a_i, half into Chernoff's bound for the sum of all residuals, in
    the worst case under the caps: concave in every a_i, so bounded from below by its chords, filled in the order
    of their slopes. `known` are caps that hold anyway, shape (k,).
    """
    if counts.min() < 1:
        return math.inf
    if len(sums) == 1:
        return float(user_limits(sums, counts, outputs, variance, failure)[0])
    caps = user_limits(sums, counts, outputs, variance, failure / 2 / len(sums))
    caps = caps if known is None else np.minimum(caps, known)
    total, n, best = float(sums.sum()), counts.astype(float), float(caps.sum())
    scale = max(total, 1e-300) / (n.sum() * outputs)
    for twice in _GRID / scale:
        start = n / 2 * np.log1p(twice * variance)
        rise = n / 2 * np.log1p(twice * (caps + variance)) - start
        room = twice * total / 2 - outputs * float(start.sum()) - math.log(failure / 2)
        slopes = np.divide(rise, caps, out=np.full(len(caps), np.inf), where=caps > 0)
        order = np.argsort(slopes)
        filled = np.cumsum(rise[order])
        position = int(np.searchsorted(filled, room))
        if position == len(caps) or room == math.inf:
            continue
        before = filled[position - 1] if position else 0.0
        reached = float(caps[order[:position]].sum()) + max(0.0, room - before) / slopes[order[position]]
        best = min(best, max(0.0, reached))
    return best


def noise_floor(data: Dataset, failure: float) -> float:
    """Lower confidence limit of σ from the residuals of every user's own least squares; 0 without spare rows."""
    x, y = as_rows(data.covariates), as_rows(data.residual_responses())
    y = y if data.design == "regression" else y.reshape(*x.shape[:2], 1)
    spare = np.maximum(data.counts - x.shape[2], 0)
    freedom = int(spare.sum()) * y.shape[2]
    if not freedom:
        return 0.0
    used = spare > 0
    residual = y[used] - x[used] @ minimum_norm(x[used], y[used])[0]
    return math.sqrt(float((residual**2).sum()) / float(scipy.stats.chi2.isf(failure, freedom)))


def certify(fit: Any, held_out: Dataset, eta: float = 0.01, noise_std: float | None = None) -> HeldOutCertificate:
    """Return an upper confidence limit of a fit's summed squared error, from rows that it has not seen.

    Any fit, by any method, of any model, right or wrong: only y = W_iᵀx + noise with Gaussian covariates and noise
    is used, and that the held-out rows are independent of the fit.

    Parameters
    ----------
    fit : what an estimator returned (or any object with `weights` of shape (num_users, dim_in, dim_out)).
    held_out : fresh rows of the same users; each needs at least one for a finite limit.
    eta : probability, over the held-out rows, with which the limit may lie below the truth.
    noise_std : σ where it is known. None: a lower confidence limit from the held-out rows takes its place, which
        needs users with more of them than unknowns to be informative.

    Raises InputError for weights of another shape than the data's.

    >>> import numpy as np, colora_theory as ct
    >>> problem = ct.Problem(num_users=20, num_samples=30, dim_in=10, rank=2, noise_std=0.1)
    >>> truth = ct.sample_truth(problem, np.random.default_rng(0))
    >>> train, held_out = (ct.sample_data(problem, truth, np.random.default_rng(s)) for s in (1, 2))
    >>> fit = ct.estimators.get("altmin")(rank=2).fit(train, np.random.default_rng(3))
    >>> bool(((fit.weights - truth.weights) ** 2).sum() < ct.certify(fit, held_out).limit)
    True
    """
    expect("held_out", held_out, Dataset, "see Dataset.from_arrays")
    eta = check_real("eta", eta, 0.0, 1.0)
    if not 0.0 < eta < 1.0:
        raise InputError(f"eta must lie strictly between 0 and 1, got {eta:g}.")
    if not hasattr(fit, "weights"):
        raise InputError(f"fit must have weights, as an estimator's fit returns, got {type(fit).__name__}.")
    weights = numbers("the weights of fit", fit.weights)
    needed = (held_out.num_users, held_out.dim_in, held_out.dim_out)
    if weights.shape != needed:
        raise InputError(f"fit must have weights of shape {needed} like the held-out data, got {weights.shape}.")
    residual = held_out.responses - predict(held_out.covariates, weights)
    if getattr(fit, "intercepts", None) is not None:
        live = np.arange(residual.shape[1]) < held_out.counts[:, None]
        residual = residual - live[:, :, None] * fit.intercepts[:, None, :]
    sums = (residual**2).sum(axis=tuple(range(1, residual.ndim)))
    outputs = held_out.dim_out if held_out.design == "regression" else 1
    left = eta
    if noise_std is None:
        left = 2.0 * eta / 3.0
        noise_std = noise_floor(held_out, eta / 3.0)
    variance = check_real("noise_std", noise_std, 0.0, 1e150) ** 2
    counts = held_out.counts
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return HeldOutCertificate(
        limit=total_limit(sums, counts, outputs, variance, left),
        user_limits=user_limits(sums, counts, outputs, variance, left / len(sums)),
        estimate=float((means - outputs * variance).sum()),
        eta=eta,
        noise_std=math.sqrt(variance),
    )


def cross_certify(
    estimator: Any,
    data: Dataset,
    *,
    folds: int = 5,
    eta: float = 0.01,
    noise_std: float | None = None,
    rng: np.random.Generator | None = None,
) -> HeldOutCertificate:
    """Certify the average of `folds` fits, each made without the rows that judge it: no row is given away.

    ‖mean Δ‖² ≤ mean ‖Δ‖², so the mean of the folds' limits, each at eta/folds, certifies the averaged weights.

    Parameters
    ----------
    estimator : an object with `fit(data, rng)`.
    data : at least `folds` rows per user.
    """
    expect("data", data, Dataset, "see Dataset.from_arrays")
    check_integer("folds", folds, 2)
    eta = check_real("eta", eta, 0.0, 1.0)
    if not callable(getattr(estimator, "fit", None)):
        raise InputError(f"estimator must be an object with fit(data, rng), got {type(estimator).__name__}.")
    if data.counts.min() < folds:
        raise InputError(f"folds must be at most the fewest samples of a user = {data.counts.min()}, got {folds}.")
    parts = data.split(folds, rng)
    found, weights = [], []
    for j, part in enumerate(parts):
        fit = estimator.fit(joined(data, parts, j), rng)
        weights.append(fit.weights)
        found.append(certify(fit, part, eta / folds, noise_std))
    return HeldOutCertificate(
        limit=float(np.mean([each.limit for each in found])),
        user_limits=np.mean([each.user_limits for each in found], axis=0),
        estimate=float(np.mean([each.estimate for each in found])),
        eta=eta,
        noise_std=min(each.noise_std for each in found),
        weights=np.mean(weights, axis=0),
    )


def joined(data: Dataset, parts: list[Dataset], without: int) -> Dataset:
    """All rows but those of one part; single samples stay in their order, users' empty rows at the end."""
    counts: NDArray[np.int64] = sum(part.counts for j, part in enumerate(parts) if j != without)  # type: ignore[assignment]
    if data.sufficient:
        kept = [part for j, part in enumerate(parts) if j != without]
        return dataclasses.replace(
            data,
            covariates=np.concatenate([part.covariates for part in kept], axis=1),
            responses=np.concatenate([part.responses for part in kept], axis=1),
            counts=counts,
        )
    rows = np.arange(data.covariates.shape[1]) % len(parts) != without
    return dataclasses.replace(
        data, covariates=data.covariates[:, rows], responses=data.responses[:, rows], counts=counts
    )


@register
class HeldOutLimit(Guarantee):
    """Held-out certificate: fresh rows bound the error of any fit, without the truth and without its model.

    Let R = Σ_i R_i be the squared residuals of n_i fresh rows per user, covariates N(0, I), Δ the error of a fit
    that has not seen them. R_i is a sum of independent (s² + σ²)χ²_{n_i}, s the singular values of Δ_i, so that
    for every λ > 0, by concavity of the logarithm,

        P(R ≤ t) ≤ e^{λt} Π_i (1+2λσ²)^{−(p−1) n_i/2} (1+2λ(‖Δ_i‖²+σ²))^{−n_i/2}.

    With caps ‖Δ_i‖² ≤ b_i, all valid with probability 1 − η/2, every D for which the largest right-hand side at
    t = R over Σ‖Δ_i‖² = D, ‖Δ_i‖² ≤ b_i, stays above η/2 for all λ belongs to a confidence set; its upper end is
    the limit. Without caps the worst case puts all error on the user with the fewest rows.
    As a claim about a trial: parameter_error ≤ limit with probability ≥ 1 − η, for num_samples fresh rows per user
    drawn from the trial's truth, σ known. For people: `ct.certify(fit, held_out)`, also with unknown σ.
    Hypotheses: covariates N(0, I) (correlated ones: the limit is one of the prediction risk), Gaussian noise, no
    intercepts, a fresh row for every user. Any truth, any estimator.
    Kind: bound with probability 1 − η (η = 0.01). Source: docs/theory.md, "Held-out rows".
    """

    name = "held_out_limit"
    kind = "bound"
    side = "upper"
    source = "docs/theory.md#held-out-rows"
    conservative = "allows for all of the error sitting on few users: a few times the error"
    expectation = False
    failure_probability = 0.01
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [isotropic_gaussian(problem), no_intercepts(problem), at_least(problem, 1, "1")]

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        if fit is None:
            return float("nan")
        # fresh rows, the same whenever the trial is drawn again
        rng = np.random.default_rng([zlib.crc32(np.ascontiguousarray(data.responses).tobytes()), 1])
        fresh = sample_data(problem, truth, rng)
        return certify(fit, fresh, self.failure_probability, problem.noise_std).limit
