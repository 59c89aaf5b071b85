"""Truth: the shared subspaces, personal cores and weights that generate the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from colora_theory.errors import InputError, expect
from colora_theory.model.linalg import Array, haar, haar_of
from colora_theory.model.memory import refuse_too_large
from colora_theory.model.problem import Problem


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """One draw of the model W_i = W_0 + U C_i Vᵀ + D_i, or many of them (an axis of trials before all others).

    Attributes
    ----------
    input_subspace : U, shape (dim_in, rank_in), orthonormal columns.
    output_subspace : V, shape (dim_out, rank_out), orthonormal columns.
    cores : C_i, shape (num_users, rank_in, rank_out).
    pretrained : W_0, shape (dim_in, dim_out); known to every estimator. None means zero.
    deviations : D_i, shape (num_users, dim_in, dim_out): everything outside the shared model (own subspaces,
        personal parts, outliers). None means zero.
    intercepts : shape (num_users, dim_out), or None.
    outliers : shape (num_users,), which users are outliers; None means nobody.
    newcomer : weight U C Vᵀ of a new user, shape (dim_in, dim_out), or None.
    """

    input_subspace: Array
    output_subspace: Array
    cores: Array
    pretrained: Array | None = None
    deviations: Array | None = None
    intercepts: Array | None = None
    outliers: np.ndarray | None = None
    newcomer: Array | None = None

    @cached_property
    def changes(self) -> Array:
        """W_i − W_0 = U C_i Vᵀ + D_i, shape (num_users, dim_in, dim_out)."""
        inputs, outputs = self.input_subspace[..., None, :, :], self.output_subspace[..., None, :, :]
        shared = np.matmul(inputs @ self.cores, outputs.swapaxes(-1, -2))
        return shared if self.deviations is None else shared + self.deviations

    @cached_property
    def weights(self) -> Array:
        """Full weights W_i, shape (num_users, dim_in, dim_out)."""
        return self.changes if self.pretrained is None else self.changes + self.pretrained


def sample_truth(problem: Problem, rng: np.random.Generator) -> Truth:
    """Draw subspaces (Haar), cores and whatever else `problem` asks for.

    Raises InputError for orthogonal cores that do not exist, and for other things than a Problem and a Generator.
    """
    expect("problem", problem, Problem, "build one with ct.Problem(num_users=..., ...)")
    expect("rng", rng, np.random.Generator, "use np.random.default_rng(seed)")
    refuse_too_large(problem)
    d, p = problem.dim_in, problem.dim_out
    u, v = haar(rng, d, problem.rank_in), haar(rng, p, problem.rank_out)
    cores = _cores(problem, rng)
    pretrained = None
    if problem.pretrained_norm:
        pretrained = _scaled(rng.standard_normal((1, d, p)), problem.pretrained_norm)[0]
    deviations = None
    if problem.similarity_angle:
        normal = rng.standard_normal((problem.num_users, *u.shape))
        deviations = own_subspaces(problem.similarity_angle, u, v, cores, normal)
    deviations = _add(deviations, _personal(problem, rng))
    outliers = None
    if problem.outlier_fraction:
        deviations, outliers = _outliers(problem, u, v, cores, deviations, rng)
    intercepts = None
    if problem.intercept_std:
        intercepts = problem.intercept_std * rng.standard_normal((problem.num_users, p))
    newcomer = u @ _new_core(problem, cores, rng) @ v.T if problem.new_user_samples else None
    return Truth(
        input_subspace=u,
        output_subspace=v,
        cores=cores,
        pretrained=pretrained,
        deviations=deviations,
        intercepts=intercepts,
        outliers=outliers,
        newcomer=newcomer,
    )


def _scaled(stack: Array, norm: float) -> Array:
    """Scale every matrix of the stack to the given Frobenius norm."""
    norms = np.sqrt(np.einsum("kab,kab->k", stack, stack))
    return np.asarray(stack * (norm / norms)[:, None, None])


def _add(first: Array | None, second: Array | None) -> Array | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _cores(problem: Problem, rng: np.random.Generator) -> Array:
    k, r1, r2 = problem.num_users, problem.rank_in, problem.rank_out
    if problem.core_distribution == "equal":
        return np.repeat(_scaled(rng.standard_normal((1, r1, r2)), problem.signal_norm), k, axis=0)
    if problem.core_distribution == "clustered":
        group = np.minimum(np.arange(k) // (k // r1), r1 - 1)  # equal groups, the last one takes the rest
        cores = np.zeros((k, r1, r2))
        cores[np.arange(k), group, group % r2] = problem.signal_norm
        return cores
    raw = rng.standard_normal((k, r1, r2))
    if problem.core_distribution == "orthogonal":
        raw = _conditioned(raw, problem.condition_number)
        return raw * (problem.signal_norm * math.sqrt(k) / np.linalg.norm(raw))
    if problem.incoherence is not None:
        energy = np.full(k, (k - problem.incoherence) / max(k - 1, 1))
        energy[0] = problem.incoherence
        return _scaled(raw, problem.signal_norm) * np.sqrt(rng.permutation(energy))[:, None, None]
    if problem.core_distribution == "unit":
        return _scaled(raw, problem.signal_norm)
    if problem.core_distribution == "ladder":
        steps = np.arange(1.0, k + 1)
        return _scaled(raw, problem.signal_norm) * (steps / math.sqrt((steps**2).mean()))[:, None, None]
    return raw * (problem.signal_norm / math.sqrt(r1 * r2))


def _new_core(problem: Problem, cores: Array, rng: np.random.Generator) -> Array:
    """The core of a new user, of the users' law; one of theirs where they share cores."""
    if problem.core_distribution in ("equal", "clustered"):
        return cores[rng.integers(len(cores))]
    raw = rng.standard_normal(cores[:1].shape)
    if problem.core_distribution == "unit":
        return _scaled(raw, problem.signal_norm)[0]
    return np.asarray(raw[0] * (problem.signal_norm / math.sqrt(raw[0].size)))


def _conditioned(cores: Array, condition: float) -> Array:
    """Scale so that Σ C_iC_iᵀ and Σ C_iᵀC_i are diagonal with exactly the condition number κ².

    Operator scaling: alternate between the two unfoldings; both spectra are geometric with the same trace.
    """

    def spectrum(rank: int) -> Array:
        values = condition ** (-2.0 * np.arange(rank) / max(rank - 1, 1))
        return np.asarray(values / values.sum())

    left, right = spectrum(cores.shape[1]), spectrum(cores.shape[2])
    scale = np.sqrt(np.outer(left, left))
    error = np.inf
    for _ in range(5000):
        cores = _whiten(cores @ cores.swapaxes(1, 2), left) @ cores
        cores = cores @ _whiten(cores.swapaxes(1, 2) @ cores, right).T
        # The second scaling makes the right moment exact; what is left is the error of the left one.
        before, error = error, np.abs((cores @ cores.swapaxes(1, 2)).sum(0) / scale - np.eye(len(left))).max()
        if error <= 1e-14 or (error <= 1e-10 and error >= before):  # converged to rounding
            return cores
    raise InputError(
        f"no orthogonal cores with condition number {condition:g} exist for {len(cores)} users of rank "
        f"{cores.shape[1:]}; add users, lower the rank or bring condition_number nearer to 1."
    )


def _whiten(moments: Array, spectrum: Array) -> Array:
    """Matrix T with T (Σ moments) Tᵀ = diag(spectrum)."""
    factor = np.linalg.cholesky(moments.sum(0))
    return np.sqrt(spectrum)[:, None] * np.linalg.inv(factor)


def own_subspaces(angle: float, u: Array, v: Array, cores: Array, normal: Array) -> Array:
    """Deviation of users whose own subspace is U cos φ + E_i sin φ with E_i ⟂ U orthonormal, shape (…, k, d, p).

    normal : independent normal entries that E_i are made of, shape (…, k, d, r1).
    """
    u, v = u[..., None, :, :], v[..., None, :, :]
    outside = haar_of(normal - u @ (u.swapaxes(-1, -2) @ normal))
    outside -= u @ (u.swapaxes(-1, -2) @ outside)
    tilt = (math.cos(angle) - 1.0) * u + math.sin(angle) * outside
    return np.asarray(np.matmul(tilt @ cores, v.swapaxes(-1, -2)))


def _personal(problem: Problem, rng: np.random.Generator) -> Array | None:
    """Personal parts D_i of Frobenius norm `deviation_norm`."""
    if problem.deviation == "none" or not problem.deviation_norm:
        return None
    k, d, p, level = problem.num_users, problem.dim_in, problem.dim_out, problem.deviation_level
    if problem.deviation == "dense":
        parts = rng.standard_normal((k, d, p))
    elif problem.deviation == "low_rank":
        parts = rng.standard_normal((k, d, level)) @ rng.standard_normal((k, level, p))
    else:
        parts = np.zeros((k, d * p))
        where = rng.random((k, d * p)).argpartition(level - 1, axis=1)[:, :level]
        np.put_along_axis(parts, where, rng.standard_normal((k, level)), axis=1)
        parts = parts.reshape(k, d, p)
    return _scaled(parts, problem.deviation_norm)


def _outliers(
    problem: Problem, u: Array, v: Array, cores: Array, deviations: Array | None, rng: np.random.Generator
) -> tuple[Array, np.ndarray]:
    """Replace the weights of round(fraction · k) random users by unrelated dense ones."""
    k = problem.num_users
    chosen = rng.permutation(k)[: problem.num_outliers]
    if deviations is None:
        deviations = np.zeros((k, problem.dim_in, problem.dim_out))
    foreign = rng.standard_normal((len(chosen), problem.dim_in, problem.dim_out))
    if len(chosen):
        deviations[chosen] = _scaled(foreign, problem.outlier_norm) - np.matmul(u @ cores[chosen], v.T)
    mask = np.zeros(k, dtype=bool)
    mask[chosen] = True
    return deviations, mask
