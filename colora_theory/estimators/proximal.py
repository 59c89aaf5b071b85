"""Convex penalties: sparse fine-tuning of every user alone, and the nuclear norm over all users together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from colora_theory.errors import InputError, nearest
from colora_theory.estimators.base import Fit, register
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.estimators.trace import Trace
from colora_theory.estimators.tuning import Tuned
from colora_theory.model.checks import check_integer, check_real
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array, least_squares, spectral_norms

#: A noise level below this fraction of the responses is none: the duality gap would drown in rounding.
_NOISELESS = 1e-7


def soft_threshold(values: Array, level: Array | float) -> Array:
    """Proximal operator of level·‖·‖₁."""
    return np.sign(values) * np.maximum(np.abs(values) - level, 0.0)


def shrink_singular_values(stack: Array, level: float) -> Array:
    """Proximal operator of level·‖·‖_* on the unfolding (d, k p) of a stack (k, d, p)."""
    k, d, p = stack.shape
    left, values, right = np.linalg.svd(stack.swapaxes(0, 1).reshape(d, k * p), full_matrices=False)
    return ((left * np.maximum(values - level, 0.0)) @ right).reshape(d, k, p).swapaxes(0, 1)


def settled(noise: Array, before: Array, silent: Array) -> bool:
    """Whether estimated noise levels have stopped moving, or fallen to rounding (`silent`) where there is none."""
    return bool((np.abs(noise - before) <= np.maximum(1e-4 * before.max(), silent)).all())


def accelerated_descent(
    model: SharedModel,
    prox: Callable[[Array, Array], Array],
    gap: Callable[[Array, Array, float], float],
    start: Array,
    curvature: Array,
    tol: float,
    max_sweeps: int,
) -> tuple[Array, float, int, bool]:
    """FISTA with restart on ½ Σ‖y_i − 𝒜_i(Δ_i)‖² + penalty, until the duality gap is small.

    Parameters
    ----------
    prox : (values, step lengths of shape (k, 1, 1)) → proximal point.
    gap : (changes, residual moments, misfit Σ‖r‖²) → duality gap relative to the objective.
    curvature : λ_max(X_iᵀX_i) of every user, shape (k,).

    Returns changes (k, d, p), misfit, sweeps, and whether the gap fell below tol.
    """
    lengths = 1.0 / np.maximum(curvature, 1e-300)[:, None, None]
    point, ahead, momentum = start, start, 1.0
    for sweep in range(1, max(1, max_sweeps) + 1):  # a caller that has used up its sweeps still gets a point
        moments, _ = model.residual_moments(ahead)
        new = prox(ahead + lengths * moments, lengths)
        if float(np.vdot(ahead - new, new - point)) > 0.0:  # the momentum points uphill
            momentum = 1.0
        following = (1.0 + np.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        ahead = new + ((momentum - 1.0) / following) * (new - point)
        point, momentum = new, following
        if sweep % 10 == 0 or sweep >= max_sweeps:
            moments, misfit = model.residual_moments(point)
            if gap(point, moments, misfit) <= tol:
                return point, misfit, sweep, True
    return point, misfit, max_sweeps, False


@register
@dataclass(frozen=True, kw_only=True)
class Sparse(Tuned):
    """Sparse fine-tuning of every user alone.

    Objective   "l1": ½‖y_i − 𝒜_i(Δ_i)‖² + λ_i ‖Δ_i‖₁, by accelerated proximal gradient until the duality gap is
                small. λ_i not given: strength · σ̂_i √(2 n_i log q) with q unknowns and σ̂_i estimated together
                with Δ_i (the scaled lasso, Sun & Zhang 2012).
                "iht": ½‖y_i − 𝒜_i(Δ_i)‖² over at most `sparsity` non-zero entries, by iterative hard thresholding
                (Blumensath & Davies 2009) with least squares on the support that it finds.
    Cost        A few passes over the data per iteration.

    Parameters
    ----------
    method : "l1" or "iht".
    penalty : λ for "l1" (units of Xᵀy); None scales it to the noise.
    sparsity : non-zero entries per user; needed for "iht".
    strength : multiple of the penalty scaled to the noise. tune : how it is chosen ("l1", see `Tuned`).
    tol : relative duality gap ("l1") or relative change ("iht"). max_sweeps : most iterations.
    """

    name: ClassVar[str] = "sparse"
    penalty_units: ClassVar[tuple[int, int]] = (1, 1)
    METHODS: ClassVar[tuple[str, ...]] = ("l1", "iht")
    GRID: ClassVar[tuple[float, ...]] = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4)
    DRAFT: ClassVar[dict[str, Any]] = {"tol": 1e-3, "max_sweeps": 300}

    method: str = "l1"
    penalty: float | None = None
    sparsity: int | None = None
    strength: float = 1.0
    tol: float = 1e-7
    max_sweeps: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("strength", self.strength)
        if self.tune != "none" and (self.penalty is not None or self.method == "iht"):
            raise InputError("tune chooses the strength of method = 'l1'; leave penalty out, or tune = 'none'.")
        if self.method not in self.METHODS:
            raise InputError(
                f"method must be one of l1, iht, got {self.method!r}; {nearest(str(self.method), self.METHODS)}"
            )
        if self.penalty is not None:
            check_real("penalty", self.penalty)
        if self.sparsity is not None:
            check_integer("sparsity", self.sparsity, 1)
        elif self.method == "iht":
            raise InputError("sparsity must be given for method = 'iht': the number of non-zero entries per user.")
        check_real("tol", self.tol)
        check_integer("max_sweeps", self.max_sweeps, 1)

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate every user's sparse change; `rng` only splits sufficient rows, to tune."""
        if self.tune != "none":
            return self.tuned_fit(data, rng)
        model = SharedModel(data)
        curvature = spectral_norms(model.x) ** 2
        solve = self._lasso if self.method == "l1" else self._threshold
        changes, sweeps, converged = solve(model, curvature)
        return Fit(
            status="converged" if converged else "stopped",
            message="" if converged else f"max_sweeps = {self.max_sweeps} reached before the stop rule.",
            dense=changes,
            pretrained=data.pretrained,
            sweeps=sweeps,
        )

    def _lasso(self, model: SharedModel, curvature: Array) -> tuple[Array, int, bool]:
        energy = (model.y**2).sum((1, 2))
        outputs = model.y.shape[2]
        rate = self.strength * np.sqrt(2.0 * model.counts * np.log(max(model.d * model.p, 2)))
        noise = np.sqrt(energy / np.maximum(model.counts * outputs, 1.0))
        changes, sweeps, converged = np.zeros((model.k, model.d, model.p)), 0, True
        silent = _NOISELESS * noise
        while True:
            level = (noise * rate if self.penalty is None else np.full(model.k, self.penalty))[:, None, None]

            def gap(point: Array, moments: Array, misfit: float, level: Array = level) -> float:
                largest = np.abs(moments).max((1, 2))
                shrink = np.minimum(
                    1.0, np.divide(level[:, 0, 0], largest, out=np.ones(model.k), where=largest > 0)
                )
                residuals = self._misfits(model, point)
                cross = np.einsum("kab,kab->k", moments, point) + residuals  # ⟨r, y⟩
                dual = shrink * cross - 0.5 * shrink**2 * residuals
                primal = 0.5 * residuals + (level * np.abs(point)).sum((1, 2))
                return float((primal - dual).sum()) / max(float(primal.sum()), 1e-300)

            def prox(values: Array, lengths: Array, level: Array = level) -> Array:
                return soft_threshold(values, lengths * level)

            changes, _, used, converged = accelerated_descent(
                model,
                prox,
                gap,
                changes,
                curvature,
                self.tol,
                self.max_sweeps - sweeps,
            )
            sweeps += used
            before = noise
            noise = np.sqrt(self._misfits(model, changes) / np.maximum(model.counts * outputs, 1.0))
            if not converged or self.penalty is not None or settled(noise, before, silent):
                break
        return changes, sweeps, converged

    @staticmethod
    def _misfits(model: SharedModel, changes: Array) -> Array:
        return np.concatenate(
            [((model.y[b] - model.predictions(b, changes)) ** 2).sum((1, 2)) for b in model.blocks]
        )

    def _threshold(self, model: SharedModel, curvature: Array) -> tuple[Array, int, bool]:
        assert self.sparsity is not None
        lengths = 1.0 / np.maximum(curvature, 1e-300)[:, None, None]
        changes, converged = np.zeros((model.k, model.d, model.p)), False
        sweeps = 0
        while sweeps < self.max_sweeps and not converged:
            sweeps += 1
            moments, _ = model.residual_moments(changes)
            new = keep_largest(changes + lengths * moments, self.sparsity)
            moved, changes = float(np.abs(new - changes).max()), new
            converged = moved <= self.tol * max(float(np.abs(changes).max()), 1e-300)
        return on_support(model, changes, changes != 0.0), sweeps, converged


def keep_largest(stack: Array, number: int) -> Array:
    """Keep every user's `number` entries of largest modulus."""
    flat = stack.reshape(len(stack), -1)
    if number >= flat.shape[1]:
        return stack
    keep = np.argpartition(-np.abs(flat), number - 1, axis=1)[:, :number]
    out = np.zeros_like(flat)
    np.put_along_axis(out, keep, np.take_along_axis(flat, keep, axis=1), axis=1)
    return out.reshape(stack.shape)


def on_support(model: SharedModel, changes: Array, support: Array) -> Array:
    """Least squares restricted to every user's support, a mask of shape (k, d, p)."""
    out = np.zeros_like(changes)
    for i in range(model.k):
        if model.regression:
            for column in range(model.p):
                chosen = support[i, :, column]
                if chosen.any():
                    target = model.y[i : i + 1, :, column : column + 1]
                    out[i, chosen, column] = least_squares(model.x[i : i + 1][:, :, chosen], target)[0][0, :, 0]
        else:
            chosen = support[i].ravel()
            if chosen.any():
                solution = least_squares(model.x[i : i + 1][:, :, chosen], model.y[i : i + 1])[0][0, :, 0]
                out[i].reshape(-1)[chosen] = solution
    return out


@register
@dataclass(frozen=True, kw_only=True)
class NuclearNorm(Tuned):
    """Convex multi-task learning: one nuclear norm over all users' changes side by side.

    Objective   ½ Σ_i ‖y_i − 𝒜_i(Δ_i)‖² + λ ‖[Δ_1 … Δ_k]‖_* with the unfolding of shape (d, k p).
    Penalty     λ given, or strength · σ̂ √n̄ (√d + √(k p)), the size of the unfolded noise moments, with σ̂
                estimated together with the solution.
    Algorithm   Accelerated proximal gradient (Beck & Teboulle 2009) until the duality gap is small.
    Cost        One pass over the data and one singular value decomposition of a d × kp matrix per iteration.
    Source      Recht, Fazel & Parrilo 2010; Pong, Tseng, Ji & Ye 2010 for multi-task learning.

    Parameters
    ----------
    penalty : λ (units of Xᵀy); None scales it to the noise.
    strength : multiple of the penalty scaled to the noise. tune : how it is chosen (see `Tuned`).
    tol : relative duality gap. max_sweeps : most iterations.
    """

    name: ClassVar[str] = "nuclear_norm"
    penalty_units: ClassVar[tuple[int, int]] = (1, 1)

    GRID: ClassVar[tuple[float, ...]] = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
    DRAFT: ClassVar[dict[str, Any]] = {"tol": 1e-3, "max_sweeps": 300}

    penalty: float | None = None
    strength: float = 1.0
    tol: float = 1e-7
    max_sweeps: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("strength", self.strength)
        if self.tune != "none" and self.penalty is not None:
            raise InputError("tune chooses the strength; leave penalty out, or tune = 'none'.")
        if self.penalty is not None:
            check_real("penalty", self.penalty)
        check_real("tol", self.tol)
        check_integer("max_sweeps", self.max_sweeps, 1)

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate all users' changes together; `rng` only splits sufficient rows, to tune."""
        if self.tune != "none":
            return self.tuned_fit(data, rng)
        model = SharedModel(data)
        # One step length for all users: the penalty couples them, and its prox needs a common metric.
        curvature = np.full(model.k, float((spectral_norms(model.x) ** 2).max()))
        observations = max(model.num_observations, 1)
        rate = self.strength * np.sqrt(model.counts.mean()) * (np.sqrt(model.d) + np.sqrt(model.k * model.p))
        noise, level, sweeps = float(np.sqrt(model.energy / observations)), 0.0, 0
        silent = _NOISELESS * noise
        changes = np.zeros((model.k, model.d, model.p))
        while True:
            level = float(noise * rate) if self.penalty is None else self.penalty

            def gap(point: Array, moments: Array, misfit: float, level: float = level) -> float:
                unfold = moments.swapaxes(0, 1).reshape(model.d, -1)
                largest = float(np.linalg.norm(unfold, 2))
                shrink = min(1.0, level / largest) if largest > 0 else 1.0
                cross = float(np.vdot(moments, point)) + misfit  # ⟨r, y⟩
                nuclear = float(np.linalg.norm(point.swapaxes(0, 1).reshape(model.d, -1), "nuc"))
                primal = 0.5 * misfit + level * nuclear
                return (primal - shrink * cross + 0.5 * shrink**2 * misfit) / max(primal, 1e-300)

            def prox(values: Array, lengths: Array, level: float = level) -> Array:
                return shrink_singular_values(values, float(lengths[0, 0, 0]) * level)

            changes, misfit, used, converged = accelerated_descent(
                model, prox, gap, changes, curvature, self.tol, self.max_sweeps - sweeps
            )
            sweeps += used
            before, noise = noise, float(np.sqrt(misfit / observations))
            done = settled(np.array([noise]), np.array([before]), np.array([silent]))
            if not converged or self.penalty is not None or done:
                break
        return Fit(
            status="converged" if converged else "stopped",
            message="" if converged else f"max_sweeps = {self.max_sweeps} reached before the stop rule.",
            dense=changes,
            pretrained=data.pretrained,
            sweeps=sweeps,
            history=Trace(penalty=level),
        )
