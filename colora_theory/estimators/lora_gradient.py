"""Adapters trained by gradient descent, every user alone: LoRA, LoRA-Pro, and full fine-tuning for comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from colora_theory.errors import InputError
from colora_theory.estimators.base import Estimator, Fit, register
from colora_theory.estimators.lora import adapter_rank
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.estimators.trace import Trace
from colora_theory.model.checks import check_integer, check_real, check_word
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array, spectral_norms

#: One step: the gradients of every user's weight, to the change of every user's weight.
Move = Callable[[Array], Array]


@dataclass(frozen=True, kw_only=True)
class GradientDescent(Estimator):
    """Base: gradient descent on ‖y_i − 𝒜_i(Δ_i)‖²/(2 n_i) from Δ_i = 0, every user alone.

    Parameters
    ----------
    step : step length in units of 1/λ_max(XᵀX/n), in (0, 2).
    max_sweeps : gradient steps.
    tol : stop when every user's relative change of Δ falls below it.
    keep_history : record Δ after every step under "changes".
    """

    step: float = 0.5
    max_sweeps: int = 500
    tol: float = 1e-9
    keep_history: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("step", self.step, 1e-6, 2.0)
        check_real("tol", self.tol)
        check_integer("max_sweeps", self.max_sweeps, 1)

    def _mover(self, model: SharedModel, lengths: Array, rng: np.random.Generator | None) -> Move:
        raise NotImplementedError(f"{type(self).__name__} does not say how it moves.")

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Train every user's weight; `rng` draws the adapters' initialisation."""
        model = SharedModel(data)
        counts = np.maximum(model.counts, 1.0)[:, None, None]
        largest = spectral_norms(model.x) ** 2 / counts[:, 0, 0]
        lengths = self.step / np.maximum(largest, 1e-300)
        move = self._mover(model, lengths, rng)
        changes = np.zeros((model.k, model.d, model.p))
        objectives, path, converged = [], [changes], False
        for _ in range(self.max_sweeps):
            moments, objective = model.residual_moments(changes)
            objectives.append(objective)
            moved = move(-moments / counts)
            changes = changes + moved
            if self.keep_history:
                path.append(changes)
            sizes = np.linalg.norm(changes, axis=(1, 2))
            if (np.linalg.norm(moved, axis=(1, 2)) <= self.tol * sizes).all():
                converged = True
                break
        return Fit(
            status="converged" if converged else "stopped",
            message="" if converged else f"max_sweeps = {self.max_sweeps} gradient steps were taken.",
            dense=changes,
            pretrained=data.pretrained,
            sweeps=len(objectives),
            history=Trace(objective=np.array(objectives), weight_changes=path if self.keep_history else None),
        )


@register
@dataclass(frozen=True, kw_only=True)
class FullGradient(GradientDescent):
    """Full fine-tuning by gradient descent: the trajectory that adapters are compared with.

    Objective   ‖y_i − 𝒜_i(Δ_i)‖²/(2 n_i), user by user.
    Algorithm   Δ_i ← Δ_i − η g_i with g_i the gradient. From zero it tends to the
                minimum-norm least-squares solution, `full_finetuning`.
    Cost        One pass over the data per step.
    """

    name: ClassVar[str] = "full_finetuning_gd"

    def _mover(self, model: SharedModel, lengths: Array, rng: np.random.Generator | None) -> Move:
        return lambda gradient: -lengths[:, None, None] * gradient


@dataclass(frozen=True, kw_only=True)
class _Factored(GradientDescent):
    """W_i = W_0 + s B_i A_i with B_i (d × r) from zero and A_i (r × p) = √ρ_i A.

    A, from N(0, 1/r), is one random matrix for all users, as one pretrained model hands it out, and ρ_i the length
    of user i's first full gradient step, ‖g_i‖/λ_max(X_iᵀX_i/n_i). So the answer turns with the inputs, which A
    does not touch, follows the users into any order and the responses into any units, exactly and for every A.
    Turning the outputs would have to turn A as well: there the answer is the same in distribution only.
    """

    step: float = 0.2  # the factors' own size adds to the curvature; half of 1/λ_max diverges on some data
    rank: int | tuple[int, int] | None = None
    scale: float = 1.0
    start: str = "random"
    start_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("scale", self.scale, 1e-12)
        check_word("start", self.start, ("random", "gradient"))
        check_real("start_scale", self.start_scale, 1e-12)

    def _directions(self, gradient: Array, b: Array, a: Array, size: Array) -> tuple[Array, Array]:
        """Changes of B and A, shapes (k, d, r) and (k, r, p), taken `step`/λ_max times; size ρ (k, 1, 1)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its factors move.")

    def _mover(self, model: SharedModel, lengths: Array, rng: np.random.Generator | None) -> Move:
        if rng is None:
            raise InputError(f"{self.name} draws its initialisation; pass rng.")
        begun = self.start == "random"
        rank = adapter_rank(self.rank, model.d, model.p)
        moments, _ = model.residual_moments(np.zeros((model.k, model.d, model.p)))
        first = np.linalg.norm(moments, 2, axis=(1, 2)) / np.maximum(model.counts, 1.0)
        size = (first * lengths / self.step)[:, None, None]
        a = self.start_scale * np.sqrt(size) * (rng.standard_normal((rank, model.p)) / np.sqrt(rank))
        b = np.zeros((model.k, model.d, rank))

        def move(gradient: Array) -> Array:
            nonlocal begun
            if not begun:  # the first step is one of full fine-tuning, as far as the rank allows
                begun = True
                towards = -(lengths / (self.step * self.scale))[:, None, None] * gradient
                left, values, right = np.linalg.svd(towards, full_matrices=False)
                b[...] = left[:, :, :rank] * np.sqrt(values[:, None, :rank])
                a[...] = np.sqrt(values[:, :rank, None]) * right[:, :rank]
                return self.scale * (b @ a)
            down_b, down_a = self._directions(gradient, b, a, size)
            before = b @ a
            b[...] -= lengths[:, None, None] * down_b
            a[...] -= lengths[:, None, None] * down_a
            return self.scale * (b @ a - before)

        return move


@register
@dataclass(frozen=True, kw_only=True)
class LoRAGradient(_Factored):
    """LoRA by gradient descent on its two factors, every user alone.

    Model       W_i = W_0 + s B_iA_i, B_i (d × r) starting at zero, A_i (r × p) at one random A for all users, in
                each user's own units: A_i = √ρ_i A, ρ_i the length of its first full gradient step.
    Objective   ‖y_i − 𝒜_i(s B_iA_i)‖²/(2 n_i), user by user.
    Algorithm   B ← B − η s g Aᵀ, A ← A − η s Bᵀ g with g the gradient of the full weight, η = step/(λ_max ρ_i).
    Symmetry    Exact under rotations of the inputs, orders of the users and units of the responses; under
                rotations of the outputs in distribution only, since A has a direction there.
    Cost        One pass over the data per step.
    Source      Hu et al. 2021 (arXiv 2106.09685).

    Parameters
    ----------
    step, max_sweeps, tol, keep_history : of the descent. rank : r. scale : s.
    start : "random" as above, start_scale times as large, or "gradient": the first step is that of full
        fine-tuning, 1/λ_max times the gradient, cut to rank r and split evenly between the factors (LoRA-One;
        Zhang, Liu & Chen 2025, arXiv 2502.01235).
    """

    name: ClassVar[str] = "lora_gd"

    def _directions(self, gradient: Array, b: Array, a: Array, size: Array) -> tuple[Array, Array]:
        towards = self.scale * np.divide(gradient, size, out=np.zeros_like(gradient), where=size > 0)
        return towards @ a.swapaxes(1, 2), b.swapaxes(1, 2) @ towards


@register
@dataclass(frozen=True, kw_only=True)
class LoRAPro(_Factored):
    """LoRA-Pro: LoRA whose factor gradients are adjusted to imitate full fine-tuning.

    Model       That of `lora_gd`, with its start and its symmetries.
    Algorithm   With g_A = s Bᵀg and g_B = s g Aᵀ the factors move along
                g_A' = s⁻²(BᵀB)⁻¹ g_A + X A,  g_B' = s⁻²(I − B(BᵀB)⁻¹Bᵀ) g_B (AAᵀ)⁻¹ − B X,
                so that s B g_A' + s g_B' A = g − (I − P_B) g (I − P_A) for every X: the full gradient less its
                part outside both the column space of B and the row space of A. X solves the Sylvester equation
                BᵀB X + X AAᵀ = −s⁻²(BᵀB)⁻¹ g_A Aᵀ, which keeps the change of the factors small.
                Pseudo-inverses serve at the start, where B = 0.
    Cost        One pass over the data and two r × r eigenvalue decompositions per user and step.
    Source      Wang, Liang et al. 2024 (arXiv 2407.18242).

    Parameters
    ----------
    step, max_sweeps, tol, keep_history : of the descent. rank : r. scale : s. start, start_scale : of `lora_gd`.
    """

    name: ClassVar[str] = "lora_pro"

    def _directions(self, gradient: Array, b: Array, a: Array, size: Array) -> tuple[Array, Array]:
        return adjusted_gradients(gradient, b, a, self.scale)


def adjusted_gradients(gradient: Array, b: Array, a: Array, scale: float) -> tuple[Array, Array]:
    """LoRA-Pro's directions (g_B', g_A'), shapes (k, d, r) and (k, r, p), from all users' gradients (k, d, p)."""
    values_b, turn_b = np.linalg.eigh(b.swapaxes(1, 2) @ b)
    values_a, turn_a = np.linalg.eigh(a @ a.swapaxes(1, 2))
    inverse_b, inverse_a = _inverse(values_b, turn_b), _inverse(values_a, turn_a)
    gradient_a, gradient_b = scale * b.swapaxes(1, 2) @ gradient, scale * gradient @ a.swapaxes(1, 2)
    right = -(scale**-2) * inverse_b @ gradient_a @ a.swapaxes(1, 2)
    free = diagonal_sylvester(values_b, turn_b, values_a, turn_a, right)
    outside = gradient_b - b @ (inverse_b @ (b.swapaxes(1, 2) @ gradient_b))
    down_b = scale**-2 * outside @ inverse_a - b @ free
    down_a = scale**-2 * inverse_b @ gradient_a + free @ a
    return down_b, down_a


def diagonal_sylvester(values_b: Array, turn_b: Array, values_a: Array, turn_a: Array, right: Array) -> Array:
    """X with S_b X + X S_a = right for stacks of symmetric S = turn diag(values) turnᵀ ≥ 0, shapes (k, r, r).

    In the eigenvectors' coordinates every entry of X is divided by the sum of two eigenvalues; where that is zero
    (both matrices singular) the entry is zero.
    """
    turned = turn_b.swapaxes(1, 2) @ right @ turn_a
    sums = values_b[:, :, None] + values_a[:, None, :]
    solved = np.divide(turned, sums, out=np.zeros_like(turned), where=sums > 0.0)
    return np.asarray(turn_b @ solved @ turn_a.swapaxes(1, 2), dtype=np.float64)


def _inverse(values: Array, turn: Array) -> Array:
    """Pseudo-inverses of symmetric positive semi-definite matrices, shape (k, r, r), from their eigenvalues."""
    keep = values > values[:, -1:] * values.shape[1] * np.finfo(float).eps
    inverted = np.divide(1.0, values, out=np.zeros_like(values), where=keep)
    return np.asarray((turn * inverted[:, None, :]) @ turn.swapaxes(1, 2), dtype=np.float64)
