"""Random numbers of published experiments, drawn again from their seeds: trial by trial the data that others saw.

Legacy NumPy streams (a global seed in their scripts) are explicit `RandomState` objects here. A paper is one
function of (problem, trial) and an entry of `DRAWS`; the names are allowed values of `Problem.draws`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np

from colora_theory.errors import InputError
from colora_theory.model.dataset import Dataset
from colora_theory.model.problem import Problem
from colora_theory.model.truth import Truth


def duan_wang_seed(trial: int) -> int:
    """Seed of the published repetition `trial`: 10000 to 100000 in steps of 10000, then the same plus 1000, …"""
    return 10_000 * (1 + trial % 10) + 1_000 * (trial // 10)


def duan_wang_2023(problem: Problem, trial: int) -> tuple[Truth, Dataset]:
    """Data of Duan & Wang 2023 (arXiv 2202.05250; repository kw2934/ARMUL), vector model, Gaussian covariates.

    Order of the draws: for cores on the sphere, one Gaussian vector of `rank` numbers per user; the outliers; then
    user by user a Gaussian vector of `dim_in` numbers (the direction of the deviation, or of an outlier), the
    covariates, the noise. The shared subspace is that of the first coordinates. Every user's rows are then put in
    the order of the permutation that deals their cross-validation folds, so that folds taken in turn are theirs.

    Raises InputError for problems of another form.
    """
    k, d, r = problem.num_users, problem.dim_in, problem.rank_in
    kinds = ("equal", "clustered", "unit")
    plain = problem.dim_out == 1 and problem.design == "regression" and problem.sampling == "rows"
    if not plain or problem.core_distribution not in kinds or not isinstance(problem.num_samples, int):
        raise InputError(
            "draws = 'duan_wang_2023' needs the vector model, equal counts and equal, clustered or unit cores, "
            f"got dim_out = {problem.dim_out}, {problem.core_distribution!r}, num_samples = {problem.num_samples}."
        )
    n, signal = problem.num_samples, problem.signal_norm
    rng = np.random.RandomState(duan_wang_seed(trial))
    cores = np.zeros((k, r))
    if problem.core_distribution == "unit":
        for core in cores:
            raw = rng.randn(r)
            core[:] = signal * raw / np.linalg.norm(raw)
    else:
        group = np.minimum(np.arange(k) // (k // r), r - 1)
        cores[np.arange(k), group] = signal
    outliers = np.zeros(k, dtype=bool)
    outliers[rng.choice(k, size=int(k * problem.outlier_fraction), replace=False)] = True
    weights = np.zeros((k, d))
    weights[:, :r] = cores
    x, y = np.empty((k, n, d)), np.empty((k, n, 1))
    for i in range(k):
        raw = rng.randn(d)
        direction = raw / np.linalg.norm(raw)
        own = problem.outlier_norm * direction
        weights[i] = own if outliers[i] else weights[i] + problem.deviation_norm * direction
        x[i] = rng.randn(n, d)
        y[i, :, 0] = x[i] @ weights[i] + problem.noise_std * rng.randn(n)
    folds = np.random.RandomState(duan_wang_seed(trial))
    for i in range(k):
        order = folds.permutation(n)
        x[i], y[i] = x[i, order], y[i, order]
    deviations = weights.copy()
    deviations[:, :r] -= cores
    truth = Truth(
        input_subspace=np.eye(d)[:, :r],
        output_subspace=np.ones((1, 1)),
        cores=cores[:, :, None],
        deviations=deviations[:, :, None],
        outliers=outliers,
    )
    return truth, Dataset(covariates=x, responses=y, counts=np.full(k, n, dtype=np.int64))


def tian_gu_feng(problem: Problem, trial: int, *, as_coded: bool) -> tuple[Truth, Dataset]:
    """Data of the law of Tian, Gu & Feng (arXiv 2303.17765; repository ytstat/RL-MTL-TL), vector model.

    A is d × r orthonormal. Inlier i has θ_i = A_i z_i, z_i uniform on [−2, 2]^r, where A_i comes from
    M_i = A + δ_i [I; 0], δ_i uniform on [−h, h], h = `similarity_angle`: as stated M_i is made orthonormal,
    M_i (M_iᵀM_i)^(−1/2); their code multiplies by the root instead of its inverse, so that A_i has the squared
    singular values of M_i. Outliers, a share `outlier_fraction`, have entries uniform on [−3, 3] and covariates
    N(0, 4 I); everybody else's are N(0, I). The stream of a trial follows from its number and the problem; no
    numbers of theirs are stored that could be compared in pairs.

    Raises InputError for problems of another form.
    """
    k, d, r = problem.num_users, problem.dim_in, problem.rank_in
    if problem.dim_out != 1 or problem.design != "regression" or not isinstance(problem.num_samples, int):
        raise InputError(f"draws = {problem.draws!r} needs the vector model with equal counts.")
    n = problem.num_samples
    rng = np.random.default_rng([zlib.crc32(repr(sorted(problem.content().items())).encode()), trial])
    outliers = np.zeros(k, dtype=bool)
    outliers[rng.choice(k, size=int(k * problem.outlier_fraction), replace=False)] = True
    heads = rng.uniform(-2.0, 2.0, (k, r))
    centre = np.linalg.svd(rng.standard_normal((d, d)))[0][:r].T
    tilted = np.repeat(centre[None], k, axis=0)
    tilted[:, :r] += rng.uniform(-problem.similarity_angle, problem.similarity_angle, (k, 1, 1)) * np.eye(r)
    left, values, right = np.linalg.svd(tilted, full_matrices=False)
    own = (left * (values**2 if as_coded else np.ones_like(values))[:, None, :]) @ right
    weights = (own @ heads[:, :, None])[:, :, 0]
    weights[outliers] = rng.uniform(-3.0, 3.0, (int(outliers.sum()), d))
    x = rng.standard_normal((k, n, d))
    x[outliers] *= 2.0
    y = x @ weights[:, :, None] + problem.noise_std * rng.standard_normal((k, n, 1))
    truth = Truth(
        input_subspace=centre,
        output_subspace=np.ones((1, 1)),
        cores=heads[:, :, None],
        deviations=(weights - heads @ centre.T)[:, :, None],
        outliers=outliers,
    )
    return truth, Dataset(covariates=x, responses=y, counts=np.full(k, n, dtype=np.int64))


DRAWS: Final[dict[str, Callable[[Problem, int], tuple[Truth, Dataset]]]] = {
    "duan_wang_2023": duan_wang_2023,
    "tian_gu_feng_as_coded": partial(tian_gu_feng, as_coded=True),
    "tian_gu_feng_as_stated": partial(tian_gu_feng, as_coded=False),
}
