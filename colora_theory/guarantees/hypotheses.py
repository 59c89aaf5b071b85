"""The conditions that several theorems share, each checked on one problem and saying what it found."""

from __future__ import annotations

from colora_theory.guarantees.base import Hypothesis
from colora_theory.model.covariates import LAWS
from colora_theory.model.problem import Problem

GAUSSIAN = tuple(name for name, law in LAWS.items() if law.gaussian)
ISOTROPIC = tuple(name for name, law in LAWS.items() if law.isotropic)


def homogeneous(problem: Problem) -> Hypothesis:
    """Every user's weight lies in the shared model."""
    return Hypothesis(
        "shared model",
        problem.homogeneous,
        "needs every W_i − W_0 = U C_i Vᵀ: no own subspaces, deviations, outliers or intercepts.",
    )


def no_intercepts(problem: Problem) -> Hypothesis:
    """No personal intercepts."""
    return Hypothesis(
        "no intercepts",
        problem.intercept_std == 0,
        f"needs intercept_std = 0, got {problem.intercept_std:g}.",
    )


def _stretched(problem: Problem) -> bool:
    """Whether outlier users have covariates of another size than everybody else's."""
    return bool(problem.num_outliers) and problem.outlier_covariate_scale != 1.0


def gaussian(problem: Problem) -> Hypothesis:
    """Gaussian covariates, possibly correlated."""
    return Hypothesis(
        "Gaussian covariates",
        problem.covariate_law.gaussian and not _stretched(problem),
        f"needs Gaussian covariates ({', '.join(GAUSSIAN)}), got {problem.covariates!r}.",
    )


def isotropic_gaussian(problem: Problem) -> Hypothesis:
    """Covariates N(0, I)."""
    return Hypothesis(
        "isotropic Gaussian covariates",
        problem.covariate_law.gaussian and problem.covariate_law.isotropic and not _stretched(problem),
        f"needs covariates = 'gaussian' (x ~ N(0, I)), got {problem.covariates!r}.",
    )


def isotropic(problem: Problem) -> Hypothesis:
    """Covariates with covariance I, of any law."""
    return Hypothesis(
        "isotropic covariates",
        problem.covariate_law.isotropic and not _stretched(problem),
        f"needs covariates with covariance I ({', '.join(ISOTROPIC)}), got {problem.covariates!r}.",
    )


def equal_counts(problem: Problem) -> Hypothesis:
    """All users have the same number of samples."""
    return Hypothesis(
        "equal sample counts",
        isinstance(problem.num_samples, int),
        f"needs the same num_samples for every user, got {problem.num_samples!r}.",
    )


def vector_model(problem: Problem) -> Hypothesis:
    """One output, so that both designs coincide and W_i = U c_i."""
    return Hypothesis("one output", problem.dim_out == 1, f"needs dim_out = 1, got {problem.dim_out}.")


def regression(problem: Problem) -> Hypothesis:
    """Regression design."""
    return Hypothesis(
        "regression design",
        problem.design == "regression" or problem.dim_out == 1,
        f"needs design = 'regression', got {problem.design!r}.",
    )


def sensing(problem: Problem) -> Hypothesis:
    """Sensing design."""
    return Hypothesis(
        "sensing design", problem.design == "sensing", f"needs design = 'sensing', got {problem.design!r}."
    )


def noiseless(problem: Problem) -> Hypothesis:
    """No noise."""
    return Hypothesis("no noise", problem.noise_std == 0, f"needs noise_std = 0, got {problem.noise_std:g}.")


def noisy(problem: Problem) -> Hypothesis:
    """Some noise."""
    return Hypothesis("noise", problem.noise_std > 0, "needs noise_std > 0, got 0.")


def raw_rows(problem: Problem) -> Hypothesis:
    """Samples themselves, not sufficient statistics."""
    return Hypothesis(
        "raw rows",
        problem.sampling == "rows",
        f"uses more than second moments: needs sampling = 'rows', got {problem.sampling!r}.",
    )


def gaussian_cores(problem: Problem) -> Hypothesis:
    """Cores with independent Gaussian entries."""
    return Hypothesis(
        "Gaussian cores",
        problem.core_distribution == "gaussian" and problem.incoherence is None,
        "needs core_distribution = 'gaussian' without a requested incoherence, "
        f"got {problem.core_distribution!r}, incoherence = {problem.incoherence}.",
    )


def generic_cores(problem: Problem) -> Hypothesis:
    """Cores in general position: independent directions, none of them zero."""
    silent = problem.incoherence is not None and problem.num_users > 1 and problem.incoherence == problem.num_users
    holds = problem.core_distribution not in ("equal", "clustered") and not silent and problem.signal_norm > 0
    return Hypothesis(
        "cores in general position",
        holds or (problem.num_users == 1 and problem.signal_norm > 0),
        "needs signal_norm > 0, different cores (not 'equal' or 'clustered') and incoherence below "
        f"num_users, got {problem.signal_norm:g}, {problem.core_distribution!r}, {problem.incoherence}.",
    )


def signal(problem: Problem) -> Hypothesis:
    """Something to learn."""
    return Hypothesis("signal", problem.signal_norm > 0, "needs signal_norm > 0, got 0.")


def enough_moments(problem: Problem, unknowns: int, what: str, outside: bool = False) -> Hypothesis:
    """A test of the mean also uses the variance and the third moment (correction for skewness).

    The squared error of least squares with n Gaussian rows and q unknowns has the tail index (n − q + 1)/2, that
    of minimum-norm solutions (n < q) (q − n + 1)/2: a mean from n = q + 2 on, three moments from n = q + 6 on, or,
    with `outside`, up to q − 6. More trials do not mend a test that lacks them.
    """
    near = [n for n in problem.counts if n < unknowns + 6 and not (outside and n <= unknowns - 6)]
    return Hypothesis(
        f"three moments: num_samples ≥ {what} + 6" + (f" or ≤ {what} − 6" if outside else ""),
        not near,
        f"the mean exists, but a test of it needs three moments of the error; {what} = {unknowns}, "
        f"num_samples = {problem.num_samples}.",
    )


def at_least(problem: Problem, least: int, what: str) -> Hypothesis:
    """Every user has at least `least` samples."""
    few = min(problem.counts)
    return Hypothesis(f"num_samples ≥ {what}", few >= least, f"needs num_samples ≥ {what} = {least}, got {few}.")
