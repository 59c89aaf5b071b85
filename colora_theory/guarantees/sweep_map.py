"""One exact sweep of alternating minimisation, linearised at the truth, without ever forming a Jacobian.

The state is the tilt of the two subspaces, (A, B) in the gauge-free coordinates of `tangent`. A sweep solves for
the cores, then for U (all of it, its part inside U being absorbed into the cores, as QR does), then for V. Every
product is a pass over the data; the normal matrix of U is factored when it is no larger than the data, and
handled by conjugate gradients otherwise, so that memory stays O(data).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, cg, eigs

from colora_theory.guarantees.tangent import complement, user_blocks
from colora_theory.model.dataset import Dataset, adjoint, predict
from colora_theory.model.linalg import Array, as_rows, least_squares
from colora_theory.model.truth import Truth

#: A normal matrix with at most this many entries is factored however small the data are.
DIRECT_ENTRIES = 10**5


class SweepMap:
    """The linear map (A, B) → (A₊, B₊) of one sweep on noiseless data."""

    def __init__(self, truth: Truth, data: Dataset) -> None:
        self.data, self.cores = data, truth.cores
        self.u, self.v = truth.input_subspace, truth.output_subspace
        self.u_out, self.v_out = complement(self.u), complement(self.v)
        (d, r1), (p, r2) = self.u.shape, self.v.shape
        self.split, self.size = r1 * (d - r1), r1 * (d - r1) + r2 * (p - r2)
        self.features = self._core_features()
        self._solve_input = self._input_solver()
        self._solve_output = self._output_solver() if r2 < p else None

    def _core_features(self) -> Array:
        x = self.data.covariates
        if self.data.design == "regression":
            return np.asarray(x @ self.u)
        return as_rows(self.u.T @ x @ self.v)

    def _input_solver(self) -> Callable[[Array], Array]:
        """Solver of Σ_i 𝒜_i*(𝒜_i(Z C_i Vᵀ)) V C_iᵀ = R for Z, shapes (d, r1)."""
        d, r1 = self.u.shape
        if (d * r1) ** 2 <= max(DIRECT_ENTRIES, self.data.covariates.size if DIRECT_ENTRIES else 0):
            factor = cho_factor(self._input_gram())
            return lambda right: cho_solve(factor, right.reshape(-1)).reshape(d, r1)
        weight = np.tensordot(self.data.counts.astype(float), self.cores @ self.cores.swapaxes(1, 2), axes=1)

        inverse = np.linalg.inv(weight)

        def normal(flat: Array) -> Array:
            change = flat.reshape(d, r1)
            return self._pull_input(adjoint(self.data, self._respond((change @ self.cores) @ self.v.T))).reshape(
                -1
            )

        operator = LinearOperator((d * r1, d * r1), matvec=normal, dtype=float)
        expected = LinearOperator(
            (d * r1, d * r1), matvec=lambda flat: (flat.reshape(d, r1) @ inverse).reshape(-1), dtype=float
        )
        return lambda right: cg(operator, right.reshape(-1), rtol=1e-10, M=expected)[0].reshape(d, r1)

    def _input_gram(self) -> Array:
        (d, r1), cores, x = self.u.shape, self.cores, self.data.covariates
        if self.data.design == "regression":
            gram = np.zeros((d * d, r1 * r1))
            for users in user_blocks(len(x), 8 * d * d):
                moments = x[users].swapaxes(1, 2) @ x[users]
                weights = cores[users] @ cores[users].swapaxes(1, 2)
                gram += moments.reshape(len(moments), -1).T @ weights.reshape(len(moments), -1)
            return gram.reshape(d, d, r1, r1).transpose(0, 2, 1, 3).reshape(d * r1, d * r1)
        gram = np.zeros((d * r1, d * r1))
        for a, core in zip(x, cores, strict=True):
            rows = (a @ (self.v @ core.T)).reshape(len(a), -1)
            gram += rows.T @ rows
        return gram

    def _output_solver(self) -> Callable[[Array], Array]:
        """Solver of Σ_i 𝒜_i*(𝒜_i(U C_i Zᵀ))ᵀ U C_i = R for Z, shapes (p, r2)."""
        p, r2 = self.v.shape
        if self.data.design == "regression":
            seen = self.features @ self.cores
            small = np.einsum("kma,kmb->ab", seen, seen)
            return lambda right: np.linalg.solve(small, right.T).T
        gram = np.zeros((p * r2, p * r2))
        for a, core in zip(self.data.covariates, self.cores, strict=True):
            rows = (a.swapaxes(1, 2) @ (self.u @ core)).reshape(len(a), -1)
            gram += rows.T @ rows
        factor = cho_factor(gram)
        return lambda right: cho_solve(factor, right.reshape(-1)).reshape(p, r2)

    def _respond(self, weights: Array) -> Array:
        return predict(self.data.covariates, weights)

    def _pull_input(self, moments: Array) -> Array:
        return np.tensordot(moments @ self.v, self.cores, axes=([0, 2], [0, 2]))

    def _pull_output(self, moments: Array) -> Array:
        return np.tensordot(moments, self.u @ self.cores, axes=([0, 1], [0, 1]))

    def _core_step(self, residual: Array) -> Array:
        targets = residual @ self.v if self.data.design == "regression" else residual[:, :, None]
        return -least_squares(self.features, targets)[0].reshape(self.cores.shape)

    def _after_cores(self, state: Array) -> tuple[Array, Array, Array]:
        """A, B and the residual of the state once the cores are solved for."""
        (d, r1), (p, r2) = self.u.shape, self.v.shape
        a = state[: self.split].reshape(d - r1, r1)
        b = state[self.split :].reshape(p - r2, r2)
        change = (self.u_out @ a @ self.cores) @ self.v.T + self.u @ self.cores @ (self.v_out @ b).T
        residual = self._respond(change)
        step = np.matmul(self.u @ self._core_step(residual), self.v.T)
        return a, b, residual + self._respond(step)

    def __call__(self, state: Array) -> Array:
        """One sweep of the flat state (A, B), shape (size,)."""
        a, b, residual = self._after_cores(state)
        tilt = -self._solve_input(self._pull_input(adjoint(self.data, residual)))
        a = a + self.u_out.T @ tilt
        if self._solve_output is not None:
            residual = residual + self._respond((tilt @ self.cores) @ self.v.T)
            turn = -self._solve_output(self._pull_output(adjoint(self.data, residual)))
            b = b + self.v_out.T @ turn
        return np.concatenate([a.reshape(-1), b.reshape(-1)])

    def spectral_radius(self, tol: float = 1e-5) -> float:
        """Largest modulus of an eigenvalue: the factor by which the whole error shrinks per sweep, late."""
        if self.size == 0:
            return 0.0
        if self.size <= 40:
            dense = np.array([self(row) for row in np.eye(self.size)]).T
            return float(np.abs(np.linalg.eigvals(dense)).max())
        operator = LinearOperator((self.size, self.size), matvec=self.__call__, dtype=float)
        start = np.random.default_rng(0).standard_normal(self.size)
        try:
            found = eigs(operator, k=1, which="LM", v0=start, ncv=min(self.size, 30), tol=tol, maxiter=300)[0]
        except ArpackNoConvergence:
            return float("nan")
        return float(np.abs(found).max())
