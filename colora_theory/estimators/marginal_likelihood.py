"""The marginal likelihood of random coefficients with a low-rank plus isotropic covariance, and its gradient.

Model, for user i with covariates X_i (sensing: rows vec(A_ij)) and noise variance σ_i²,

    vec W_i ~ N(μ, Γ),   Γ = (V⊗U) L Lᵀ (V⊗U)ᵀ + diag(ψ²) + τ² I,   y_i = 𝒜_i(W_i) + noise.

Every user's rows are rotated once so that X_iX_iᵀ = diag(s²). Without the low-rank part the marginal covariance is
then diag(τ²s² + σ_i²), whatever τ and σ_i, and Woodbury's identity leaves one matrix of the size of a core per
user. Nothing of size dim_in² is ever formed: a pass costs O(m d r) per user, m = min(n_i, d) rows, and holds a
block of users at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from colora_theory.estimators.shared_model import SharedModel
from colora_theory.model.linalg import Array

#: Bytes of covariates that are worked on together.
_BLOCK = 1 << 24
#: Diagonal entries up to which inverting a core's matrix needs no care.
_PLAIN = 1e8


@dataclass(frozen=True, eq=False)
class RotatedRows:
    """Data of all users, rotated: least squares and Gaussian likelihoods see the same as in the rows themselves.

    Attributes
    ----------
    x : shape (k, m, q), orthogonal rows with squared lengths `squares`, shape (k, m).
    y : shape (k, m, t): responses along these rows; t = dim_out for regression, 1 for sensing.
    rest : shape (k,), squared length of what no weight can explain.
    counts : shape (k,), samples of each user (rows of zeros are padding).
    d, p : dim_in and dim_out; q = d for regression, d·p for sensing.
    """

    x: Array
    y: Array
    squares: Array
    rest: Array
    counts: Array
    d: int
    p: int

    @property
    def regression(self) -> bool:
        """Whether every output has its own equation (with one output the designs coincide)."""
        return self.x.shape[2] == self.d

    @property
    def num_observations(self) -> float:
        """Scalar responses behind the rows."""
        return float(self.counts.sum()) * self.y.shape[2]

    @property
    def blocks(self) -> Iterator[slice]:
        """Blocks of users worth working on together."""
        step = max(1, _BLOCK // max(1, self.x[0].nbytes))
        return (slice(i, i + step) for i in range(0, len(self.x), step))

    @classmethod
    def of(cls, model: SharedModel, units: Array, size: float) -> RotatedRows:
        """Rotate the rows of a data set, covariates divided by `units`, shape (q,), and responses by `size`."""
        k, n, q = model.x.shape
        t, m = model.y.shape[2], min(model.x.shape[1], q)
        x, y = np.empty((k, m, q)), np.empty((k, m, t))
        squares, rest = np.empty((k, m)), np.zeros(k)
        step = max(1, _BLOCK // max(1, model.x[0].nbytes))
        for block in (slice(i, i + step) for i in range(0, k, step)):
            rows, answers = model.x[block] / units, model.y[block] / size
            if n > q:  # as many effective rows as unknowns, and what is left over
                factor: Array = np.asarray(np.linalg.qr(np.concatenate([rows, answers], axis=2), mode="r"))
                rows, answers, left = factor[:, :q, :q], factor[:, :q, q:], factor[:, q:, q:]
                rest[block] = (left**2).sum((1, 2))
            turn = np.linalg.eigh(rows @ rows.swapaxes(1, 2))[1].swapaxes(1, 2)
            np.matmul(turn, rows, out=x[block])
            np.matmul(turn, answers, out=y[block])
            squares[block] = np.einsum("kmq,kmq->km", x[block], x[block])
        return cls(x, y, squares, rest, model.counts, model.d, model.p)


@dataclass(frozen=True, eq=False)
class Hyper:
    """Parameters of the prior and of the noise.

    Attributes
    ----------
    u, v : loadings, shapes (d, r1) and (p, r2); need not be orthonormal.
    core : L, shape (r1 r2, r1 r2), cores having vec(C_i) ~ N(0, LLᵀ), rows of C one after the other.
    own : ψ, shape (J,), extra standard deviations of the inputs `columns`, alike for all outputs.
    mean : μ, shape (d, p).
    tau2 : τ², variance of the deviations.
    sigma2 : σ_i², shape (k,).
    stretch : shape (k,), known factors of users' τ².
    """

    u: Array
    v: Array
    core: Array
    own: Array
    mean: Array
    tau2: float
    sigma2: Array
    stretch: Array
    columns: tuple[int, ...] = ()

    @property
    def rank(self) -> tuple[int, int]:
        """(r1, r2)."""
        return self.u.shape[1], self.v.shape[1]

    def loadings(self) -> tuple[Array, Array, Array]:
        """U′, V′ and Λ, shapes (d, a), (p, b), (a, b, R), ψ as loadings too:

        Γ = (V′⊗U′)ΛΛᵀ(V′⊗U′)ᵀ + τ² I.
        """
        (r1, r2), own, p = self.rank, len(self.own), len(self.v)
        if not own:
            return self.u, self.v, self.core.reshape(r1, r2, r1 * r2)
        axes = np.zeros((len(self.u), own))
        axes[list(self.columns), np.arange(own)] = 1.0
        u = np.concatenate([self.u, axes], axis=1)
        v = np.eye(1) if p == 1 else np.concatenate([self.v, np.eye(p)], axis=1)
        first, size = v.shape[1] - p, r1 * r2
        loads = np.zeros((r1 + own, v.shape[1], size + own * p))
        loads[:r1, :r2, :size] = self.core.reshape(r1, r2, size)
        for j, value in enumerate(self.own):
            for o in range(p):
                loads[r1 + j, first + o, size + j * p + o] = value
        return u, v, loads


@dataclass(eq=False)
class Gradient:
    """Derivatives of the log likelihood, shaped as the fields of Hyper; `sigma2` user by user."""

    u: Array
    v: Array
    core: Array
    own: Array
    mean: Array
    tau2: float
    sigma2: Array

    @classmethod
    def zeros(cls, hyper: Hyper) -> Gradient:
        """Nothing yet."""
        u, v, core, own, mean = (np.zeros_like(x) for x in (hyper.u, hyper.v, hyper.core, hyper.own, hyper.mean))
        return cls(u, v, core, own, mean, 0.0, np.zeros_like(hyper.sigma2))


class Seen:
    """One block of users: what the shared directions make of their rows, whatever the variances."""

    def __init__(self, rows: RotatedRows, hyper: Hyper, block: slice) -> None:
        self.u, self.v, self.loads = hyper.loadings()
        self.regression, self.p, self.d = rows.regression, rows.p, rows.d
        a, b, size = self.loads.shape
        self.flat = self.loads.reshape(a * b, size)
        self.x = rows.x[block]
        mean = hyper.mean if self.regression else hyper.mean.reshape(-1, 1)
        self.e = rows.y[block] - self.x @ mean if mean.any() else rows.y[block]
        self.squares, self.sigma2 = rows.squares[block], hyper.sigma2[block]
        self.left, self.rest = rows.counts[block] - self.x.shape[1], rows.rest[block]
        if self.regression:
            self.features = self.x @ self.u
        else:
            self.features = self.x @ np.einsum("ia,jb->ijab", self.u, self.v).reshape(self.d * self.p, a * b)
        self.square_v = self.v.T @ self.v


class Users:
    """One block of users at given variances: posterior of the standardised cores, and what follows from it.

    `tau2` is one number, or one per user of the block.
    """

    def __init__(self, seen: Seen, tau2: float | Array) -> None:
        self.x, self.e, self.u, self.v, self.d, self.p = seen.x, seen.e, seen.u, seen.v, seen.d, seen.p
        self.loads, self.flat, self.square_v, self.features = seen.loads, seen.flat, seen.square_v, seen.features
        self.regression, self.squares, self.sigma2 = seen.regression, seen.squares, seen.sigma2
        self.left, self.rest = seen.left, seen.rest
        self.tau2 = np.broadcast_to(np.asarray(tau2, dtype=float), len(self.x))[:, None]
        k, (a, b, size) = len(self.x), self.loads.shape
        self.w = 1.0 / (self.tau2 * self.squares + self.sigma2[:, None])
        weighted = self.w[:, :, None] * self.features
        self.gram = weighted.swapaxes(1, 2) @ self.features
        moment = weighted.swapaxes(1, 2) @ self.e
        self.image = self._image(self.flat)  # (V′ᵀV′ ⊗ H) Λ, shape (k, ab, R)
        self.moment = (moment @ self.v).reshape(k, a * b) if self.regression else moment[:, :, 0]
        inner = np.eye(size) + self.flat.T @ self.image
        right = self.moment @ self.flat
        if inner.size == 0 or float(np.einsum("krr->kr", inner).max()) < _PLAIN:
            self.inverse = np.linalg.inv(inner)
            core_log_det = np.linalg.slogdet(inner)[1]
            self.z = (self.inverse @ right[:, :, None])[:, :, 0]
        else:
            core_log_det = self._by_orthogonal_steps()
        cores = self.z @ self.flat.T
        self.cores = cores.reshape(k, a, b)
        if self.regression:
            self.fitted = (self.features @ self.cores) @ self.v.T
        else:
            self.fitted = self.features @ cores[:, :, None]
        t = self.e.shape[2]
        log_det = t * (self.left * np.log(self.sigma2) - np.log(self.w).sum(1)) + core_log_det
        # misfit plus the cores' own size, neither of which cancels: the same as yᵀM⁻¹y
        missed = self.e - self.fitted
        quadratic = self.rest / self.sigma2 + np.einsum("km,kmt,kmt->k", self.w, missed, missed)
        quadratic += np.einsum("kr,kr->k", self.z, self.z)
        self.value = -0.5 * (log_det + quadratic + t * (self.left + self.x.shape[1]) * np.log(2.0 * np.pi))

    def _image(self, flat: Array) -> Array:
        k, (a, b, size) = len(self.gram), self.loads.shape
        if not self.regression:
            return self.gram @ flat
        part = (self.gram @ flat.reshape(a, b * size)).reshape(k, a, b, size)
        part = np.einsum("jl,kalr->kajr", self.square_v, part) if b != 1 else self.square_v[0, 0] * part
        return part.reshape(k, a * b, size)

    def _by_orthogonal_steps(self) -> Array:
        """Set z and its covariance (I + BᵀB)⁻¹, and return log det(I + BᵀB), B the features over the noise.

        From a QR factorization: where noise is next to nothing beside the cores BᵀB has lost what B still shows.
        """
        k, m, t = self.e.shape
        if self.regression:
            seen = np.einsum("kma,abr,tb->kmtr", self.features, self.loads, self.v, optimize=True)
        else:
            seen = (self.features @ self.flat)[:, :, None]
        both = np.concatenate([seen, self.e[:, :, :, None]], axis=3) * np.sqrt(self.w)[:, :, None, None]
        size = seen.shape[3]
        prior = np.broadcast_to(np.eye(size, size + 1), (k, size, size + 1))
        factor: Array = np.asarray(
            np.linalg.qr(np.concatenate([both.reshape(k, m * t, -1), prior], axis=1), mode="r")
        )
        back = np.linalg.inv(factor[:, :size, :size])
        self.inverse = back @ back.swapaxes(1, 2)
        self.z = (back @ factor[:, :size, size:])[:, :, 0]
        return 2.0 * np.log(np.abs(np.einsum("krr->kr", factor[:, :size, :size]))).sum(1)

    def residual(self) -> Array:
        """w ∘ (y − fitted mean of the shared part), shape (k, m, t): X_iᵀ of it is the score of the weights."""
        return self.w[:, :, None] * (self.e - self.fitted)

    def weights(self, mean: Array) -> Array:
        """Posterior means of W_i, shape (k, d, p)."""
        shared = (self.u @ self.cores) @ self.v.T
        own = self.x.swapaxes(1, 2) @ (self.tau2[:, :, None] * self.residual())
        return shared + mean + own.reshape(shared.shape)

    def variances(self) -> Array:
        """Posterior variances of the entries of W_i, shape (k, d, p)."""
        (a, b, size), k, tau2 = self.loads.shape, len(self.x), self.tau2
        alone = tau2 - tau2**2 * np.einsum("km,kmq->kq", self.w, self.x**2)
        seen = tau2[:, :, None] * (self.x.swapaxes(1, 2) @ (self.w[:, :, None] * self.features))
        if self.regression:
            alone = np.repeat(alone[:, :, None], self.p, axis=2)
            left = np.einsum("kda,abr->kdbr", self.u - seen, self.loads)
            part = np.einsum("pb,kdbr->kdpr", self.v, left)
        else:
            base = np.einsum("ia,jb->ijab", self.u, self.v).reshape(self.d * self.p, a * b)
            part = ((base - seen) @ self.flat).reshape(k, self.d, self.p, size)
            alone = alone.reshape(k, self.d, self.p)
        shared = np.einsum("kdpr,krs,kdps->kdp", part, self.inverse, part, optimize=True)
        return np.asarray(np.maximum(alone + shared, 0.0))

    def add_gradient(self, total: Gradient, hyper: Hyper, block: slice, free_mean: bool) -> None:
        """Add this block's derivatives to `total`."""
        a, b, size = self.loads.shape
        r1, r2 = hyper.rank
        k = len(self.x)
        second = self.z[:, :, None] * self.z[:, None, :] + self.inverse
        heard = self.image.transpose(1, 0, 2).reshape(a * b, k * size) @ second.reshape(k * size, size)
        d_loads = (self.moment.T @ self.z - heard).reshape(a, b, size)
        spread = np.matmul(self.flat @ second, self.flat.T).reshape(k, a, b, a, b)
        if self.regression:
            around = (
                spread[:, :, 0, :, 0] * self.square_v[0, 0]
                if b == 1
                else np.einsum("kajcl,jl->kac", spread, self.square_v, optimize=True)
            )
            answered = (self.e @ self.v) @ self.cores.swapaxes(1, 2)
            pull = answered - self.features @ around
            fit = 2.0 * answered - self.features @ around
        else:
            flat = spread.reshape(k, a * b, a * b)
            answered = self.e * self.cores.reshape(k, 1, a * b)
            pull = answered - self.features @ flat
            fit = 2.0 * answered - self.features @ flat
        d_w = 0.5 * (self.e.shape[2] / self.w - (self.e**2).sum(2) + np.einsum("kma,kma->km", fit, self.features))
        pull *= self.w[:, :, None]
        if free_mean:
            score = self.residual()
            pull = np.concatenate([pull, score], axis=2)
        # Σ X_iᵀ pull_i in this order: the few columns first, twice as fast as np.tensordot
        _, m, q = self.x.shape
        moved = (pull.reshape(k * m, pull.shape[2]).T @ self.x.reshape(k * m, q)).T
        if free_mean:
            t = self.e.shape[2]
            total.mean += moved[:, -t:].reshape(hyper.mean.shape)
            moved = moved[:, :-t]
        if self.regression:
            total.u += moved[:, :r1]
            if r2 and r2 < self.p:
                weighted = self.w[:, :, None] * self.e
                heard = np.einsum("kmt,kma,kab->tb", weighted, self.features, self.cores, optimize=True)
                inner = np.einsum("kac,kajcl->jl", self.gram, spread, optimize=True)
                total.v += (heard - self.v @ inner)[:, :r2]
        elif size:
            tensor = moved.reshape(self.d, self.p, a, b)
            total.u += np.einsum("ijab,jb->ia", tensor, self.v)[:, :r1]
            total.v += np.einsum("ijab,ia->jb", tensor, self.u)[:, :r2]
        total.core += d_loads[:r1, :r2, : r1 * r2].reshape(total.core.shape)
        first = b - self.p
        for j in range(len(hyper.own)):
            for o in range(self.p):
                total.own[j] += d_loads[r1 + j, first + o, r1 * r2 + j * self.p + o]
        step = -(self.w**2) * d_w
        total.tau2 += float(np.vdot(step, self.squares * (self.tau2 / hyper.tau2)))
        total.sigma2[block] += step.sum(1)


def log_likelihood(rows: RotatedRows, hyper: Hyper) -> Array:
    """Log marginal likelihood of every user, shape (k,), in the units of `rows`."""
    return np.concatenate([users_at(rows, hyper, block).value for block in rows.blocks])


def users_at(rows: RotatedRows, hyper: Hyper, block: slice) -> Users:
    """One block of users at the prior's own variances."""
    return Users(Seen(rows, hyper, block), hyper.tau2 * hyper.stretch[block])


def with_gradient(rows: RotatedRows, hyper: Hyper, free_mean: bool = False) -> tuple[float, Gradient]:
    """Log marginal likelihood of all users together, and its gradient."""
    total = Gradient.zeros(hyper)
    value, t, m = 0.0, rows.y.shape[2], rows.x.shape[1]
    for block in rows.blocks:
        users = users_at(rows, hyper, block)
        value += float(users.value.sum())
        users.add_gradient(total, hyper, block, free_mean)
    total.sigma2 += 0.5 * (rows.rest / hyper.sigma2 - t * (rows.counts - m)) / hyper.sigma2
    return value, total
