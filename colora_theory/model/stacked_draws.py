"""Drawing many trials of a small problem at once: the numbers of `sample_truth` and `sample_data`, trial by trial.

Every trial still draws from its own two streams; what is computed from the draws is computed for all trials.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from colora_theory.model.linalg import Array, haar_of
from colora_theory.model.moments import Moments
from colora_theory.model.problem import Problem
from colora_theory.model.truth import Truth, own_subspaces

#: Fields in which a problem may differ from the plain one: shared parts, tilted or not, and every output shared.
_FREE: Final = {
    "num_users",
    "num_samples",
    "dim_in",
    "dim_out",
    "rank",
    "noise_std",
    "signal_norm",
    "core_distribution",
    "similarity_angle",
}
#: Largest size k d (d + n) of a problem whose arithmetic takes less time than the calls.
_LARGEST: Final = 200_000
#: Rows per input, and rows, from which Gaussian covariates look isotropic to every fit (see
#: `estimators.input_units`): one sample in 10⁹ does not. Users may have up to twice as many rows as others.
_ROWS: Final = 4
_FEWEST: Final = 48


def plain(problem: Problem) -> bool:
    """Whether trials of this problem can be drawn together: small, noisy, Gaussian rows, only shared parts."""
    k, d, m = problem.num_users, problem.dim_in, max(problem.counts)
    ordinary = all(
        getattr(problem, each.name) == each.default
        for each in dataclasses.fields(problem)
        if each.name not in _FREE
    )
    return (
        ordinary
        and problem.core_distribution in ("gaussian", "unit")
        and problem.rank_out == problem.dim_out
        and 1e-10 < problem.noise_std < 1e10
        and 1e-10 < problem.signal_norm < 1e10
        and k * d * (d + m) <= _LARGEST
        and max(1, m) <= 2 * min(problem.counts)
        and sum(problem.counts) >= max(_ROWS * d, _FEWEST)
    )


def draw_stack(
    problem: Problem, truths: Iterable[np.random.Generator], data: Iterable[np.random.Generator]
) -> tuple[Truth, Moments]:
    """Return the truths and the moments of the data of trials of a plain problem, given their generators."""
    truth = _truth(problem, truths)
    samples, counts = _samples(problem, truth.weights, data), np.array(problem.counts, dtype=np.int64)
    return truth, Moments.of(samples, len(truth.cores), (problem.dim_in, problem.dim_out), counts)


def _truth(problem: Problem, generators: Iterable[np.random.Generator]) -> Truth:
    k, d, p, r = problem.num_users, problem.dim_in, problem.dim_out, problem.rank_in
    sizes = [d * r, p * p, k * r * p, k * d * r if problem.similarity_angle else 0]
    raw = np.array([rng.standard_normal(sum(sizes)) for rng in generators])
    u, v, cores, tilts = np.split(raw, np.cumsum(sizes[:-1]), axis=1)
    u, v, cores = haar_of(u.reshape(-1, d, r)), haar_of(v.reshape(-1, p, p)), cores.reshape(-1, k, r, p)
    if problem.core_distribution == "unit":
        cores = cores * (problem.signal_norm / np.sqrt(np.einsum("tkab,tkab->tk", cores, cores)))[..., None, None]
    else:
        cores = cores * (problem.signal_norm / math.sqrt(r * p))
    deviations = None
    if problem.similarity_angle:
        deviations = own_subspaces(problem.similarity_angle, u, v, cores, tilts.reshape(-1, k, d, r))
    return Truth(input_subspace=u, output_subspace=v, cores=cores, deviations=deviations)


def _samples(
    problem: Problem, weights: Array, generators: Iterable[np.random.Generator]
) -> Iterator[tuple[Array, Array]]:
    """Yield every trial's covariates and responses; the arrays are used again for the next trial."""
    k, d, p, m = problem.num_users, problem.dim_in, problem.dim_out, max(problem.counts)
    raw = np.empty(k * m * (d + p))
    x, noise = raw[: k * m * d].reshape(k, m, d), raw[k * m * d :].reshape(k, m, p)
    beyond = np.arange(m) >= np.array(problem.counts)[:, None]
    ragged = bool(beyond.any())
    for w, rng in zip(weights, generators, strict=True):
        rng.standard_normal(out=raw)
        y = x @ w + problem.noise_std * noise
        if ragged:
            x[beyond], y[beyond] = 0.0, 0.0
        yield x, y
