"""Adaptive and robust multi-task learning by the gradient steps of its authors: fixed step, fixed number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.cluster.vq import kmeans2

from colora_theory.errors import InputError
from colora_theory.estimators.base import Fit, register
from colora_theory.estimators.trace import Trace
from colora_theory.estimators.tuning import FOLDS, Tuned, folds
from colora_theory.model.checks import check_flag, check_integer, check_real, check_word
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array
from colora_theory.model.ranks import rank_numbers

CENTRES = ("alone", "pooled", "vanilla", "clustered", "lowrank")


@register
@dataclass(frozen=True, kw_only=True)
class GradientMultitask(Tuned):
    """Gradient steps for multi-task objectives with a centre γ_i: one vector, clusters, or a subspace.

    Model       θ_i = γ_i − v_i, one output; inputs are divided by their pooled root mean square.
    Objective   Σ_i n_i [f_i(γ_i − v_i) + λ_i ‖v_i‖], f_i = ‖y_i − X_iθ_i‖²/(2 n_i), λ_i = strength √(d/n_i); in
                the folds of cross-validation λ_i stays that of all samples.
    Centres     "vanilla": γ_i = γ; "clustered": one of `rank` vectors; "lowrank": γ_i = Σ_q Z_iq B_q. With
                personal = false v_i = 0 (the shared model itself). "alone" is γ_i free without v_i, "pooled" one
                vector without v_i.
    Algorithm   `steps` times: a proximal gradient step on every v_i, then a gradient step on the centre (B, then
                Z; the nearest centre, in loss, for clusters), each of length `step`; low-rank steps that raise the
                loss are not taken. Clusters and subspaces start at those of users tuned alone in the same way.
    as_coded    The authors' code moves every row B_q by the gradient summed over all users, times Σ_i Z_iq,
                instead of Σ_i Z_iq times user i's gradient, and compares the coefficients of the scaled inputs
                with the truth; true repeats both.
    Cost        One d × d matrix per user, then a few products with it a step; all strengths side by side.
    Source      Duan & Wang 2023 (arXiv 2202.05250) and their repository kw2934/ARMUL.

    Parameters
    ----------
    centre : one of the five above. rank : clusters, or dimension of the subspace. personal, as_coded : as above.
    step, steps : length and number of the gradient steps.
    strength : multiple of √(d/n_i), in the unit of the noise, which is taken to be of order one.
    tune : how `strength` is chosen (see `Tuned`), by folds of rows in turn.
    """

    name: ClassVar[str] = "gradient_multitask"
    GRID: ClassVar[tuple[float, ...]] = tuple(j / 5.0 for j in range(1, 11))

    centre: str = "vanilla"
    rank: int | tuple[int, int] | None = None
    personal: bool = True
    as_coded: bool = False
    step: float = 0.02
    steps: int = 500
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_word("centre", self.centre, CENTRES)
        check_flag("personal", self.personal)
        check_flag("as_coded", self.as_coded)
        check_real("step", self.step)
        check_integer("steps", self.steps, 1)
        check_real("strength", self.strength)

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate every user's weight; `rng` starts the clustering."""
        if data.design != "regression" or data.dim_out != 1:
            raise InputError(f"gradient_multitask needs dim_out = 1, got dim_out = {data.dim_out}.")
        strength = self.strength
        if self.tune != "none" and self.personal and self.centre not in ("alone", "pooled"):
            strength = self._chosen(data, rng)
        steps = _Steps(self, data, np.array([strength]), data.counts, rng)
        weights = steps.weights()[:, :, 0]
        if not self.as_coded:
            weights = weights / steps.scale
        return Fit(
            status="stopped",
            message=f"{self.steps} gradient steps, whatever is left.",
            dense=weights[:, :, None],
            pretrained=data.pretrained,
            sweeps=self.steps,
            history=Trace(tuned=strength),
        )

    def _chosen(self, data: Dataset, rng: np.random.Generator | None) -> float:
        """The strength of least squared prediction error over the folds, all strengths side by side."""
        grid = np.array(self.grid(data))
        errors = np.zeros((len(grid), data.num_users))
        for train, test in folds(data, FOLDS, rng):
            steps = _Steps(self, train, grid, data.counts, rng)
            weights = steps.weights() / steps.scale[None, :, None]
            errors += ((test.residual_responses() - test.covariates @ weights) ** 2).sum(1).T
        means = errors.mean(1)
        best = int(np.argmin(means))
        if self.tune == "cv_1se":
            excess = errors - errors[best]
            best = int(np.flatnonzero(excess.mean(1) <= excess.std(1, ddof=1) / np.sqrt(data.num_users))[-1])
        return float(grid[best])


class _Steps:
    """The iteration for several strengths at once: arrays end with an axis for the strength."""

    def __init__(self, rule: GradientMultitask, data: Dataset, strengths: Array, counts: Any, rng: Any) -> None:
        self.rule, self.rng = rule, rng
        x, y = data.covariates, data.residual_responses()
        n = np.maximum(data.counts, 1).astype(float)
        self.k, self.d, self.width = data.num_users, data.dim_in, len(strengths)
        scale = np.sqrt((x**2).sum((0, 1)) / n.sum())
        self.scale = np.maximum(scale, 1e-5)
        z = x / self.scale
        self.gram = np.matmul(z.swapaxes(1, 2), z) / n[:, None, None]
        self.moments = np.matmul(z.swapaxes(1, 2), y) / n[:, None, None]
        self.energy = (y**2).sum((1, 2)) / n
        self.share = (n / n.sum())[:, None, None]
        self.level = strengths[None, None, :] * np.sqrt(self.d / np.maximum(counts, 1))[:, None, None]

    def weights(self) -> Array:
        """θ_i after all steps, shape (k, d, strengths), of the scaled inputs."""
        centre = self.rule.centre
        if centre == "alone":
            return self._alone()
        if centre in ("pooled", "vanilla"):
            return self._vanilla(personal=centre == "vanilla" and self.rule.personal)
        return self._clustered() if centre == "clustered" else self._lowrank()

    def _alone(self) -> Array:
        theta = np.zeros((self.k, self.d, 1))
        for _ in range(self.rule.steps):
            theta = theta - self.rule.step * (self.gram @ theta - self.moments)
        return theta

    def _shrunk(self, v: Array, slope: Array) -> Array:
        """One proximal gradient step on v_i, whose gradient is −slope."""
        moved = v + self.rule.step * slope
        norm = np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-300)
        return np.maximum(0.0, 1.0 - self.rule.step * self.level / norm) * moved

    def _vanilla(self, personal: bool) -> Array:
        gamma, v = np.zeros((1, self.d, self.width)), np.zeros((self.k, self.d, self.width))
        for _ in range(self.rule.steps):
            if personal:
                v = self._shrunk(v, self.gram @ (gamma - v) - self.moments)
            slope = self.gram @ (gamma - v) - self.moments
            gamma = gamma - self.rule.step * (self.share * slope).sum(0, keepdims=True)
        return gamma - v

    def _rows_moved(self, rows: Array, mix: Array, slope: Array) -> Array:
        """A gradient step on the rows B, shape (q, d, s), for the mixing Z, shape (k, q, s)."""
        weighted = self.share * slope
        if self.rule.as_coded:
            down = mix.sum(0)[:, None, :] * weighted.sum(0)
        else:
            down = np.einsum("kqs,kds->qds", mix, weighted)
        return rows - self.rule.step * down

    def _lowrank(self) -> Array:
        rank, alone = self._rank(), self._alone()[:, :, 0]
        left, values, right = np.linalg.svd(alone, full_matrices=False)
        mix = np.repeat(left[:, :rank, None], self.width, axis=2)
        rows = np.repeat((values[:rank, None] * right[:rank])[:, :, None], self.width, axis=2)
        v = np.einsum("kqs,qds->kds", mix, rows) - alone[:, :, None] if self.rule.personal else 0.0 * rows[:1]
        size = np.sqrt(np.linalg.norm(rows, axis=(0, 1)))
        rows, mix = rows / size, mix * size
        image = self.gram @ np.einsum("kqs,qds->kds", mix, rows)
        inside = self.gram @ v if self.rule.personal else 0.0 * image
        live = np.ones(self.width, dtype=bool)
        for _ in range(self.rule.steps):
            if self.rule.personal:
                v = self._shrunk(v, image - inside - self.moments)
                inside = self.gram @ v
            before = self._loss(np.einsum("kqs,qds->kds", mix, rows) - v, image - inside)
            new_rows = self._rows_moved(rows, mix, image - inside - self.moments)
            slope = self.gram @ np.einsum("kqs,qds->kds", mix, new_rows) - inside - self.moments
            new_mix = mix - self.rule.step * np.einsum("kds,qds->kqs", slope, new_rows)
            centre = np.einsum("kqs,qds->kds", new_mix, new_rows)
            new_image = self.gram @ centre
            falls = self._loss(centre - v, new_image - inside) <= before
            # without personal parts the authors stop at the first step that raises the loss, and keep it
            taken = live if not self.rule.personal else falls
            rows, mix = np.where(taken, new_rows, rows), np.where(taken, new_mix, mix)
            image = np.where(taken, new_image, image)
            live = live & falls
            if not self.rule.personal and not live.any():
                break
        return np.einsum("kqs,qds->kds", mix, rows) - v

    def _loss(self, theta: Array, image: Array) -> Array:
        """Mean squared residual of all users, shape (strengths,)."""
        fitted = (theta * (image - 2.0 * self.moments)).sum(1)
        return np.asarray((self.share[:, :, 0] * (fitted + self.energy[:, None])).sum(0))

    def _clustered(self) -> Array:
        count, alone = self._rank(), self._alone()[:, :, 0]
        centres, labels = _clusters(alone, count, self.rng)
        rows = np.repeat(centres[:, :, None], self.width, axis=2)
        if self.rule.as_coded:  # the code sets a whole column of Z where it means one entry
            mix = np.ones((self.k, count, self.width))
        else:
            mix = np.repeat(np.eye(count)[labels][:, :, None], self.width, axis=2)
        v = np.repeat((centres[labels] - alone)[:, :, None], self.width, axis=2)
        v = v if self.rule.personal else 0.0 * v
        images = self._images(rows)
        inside = self.gram @ v
        for _ in range(self.rule.steps):
            image = np.einsum("kqs,kqds->kds", mix, images)
            if self.rule.personal:
                v = self._shrunk(v, image - inside - self.moments)
                inside = self.gram @ v
            rows = self._rows_moved(rows, mix, image - inside - self.moments)
            images = self._images(rows)
            theta = rows[None] - v[:, None]
            fitted = (theta * (images - inside[:, None] - 2.0 * self.moments[:, None])).sum(2)
            mix = (fitted.argmin(1)[:, None, :] == np.arange(count)[None, :, None]).astype(float)
        return np.einsum("kqs,qds->kds", mix, rows) - v

    def _images(self, rows: Array) -> Array:
        """Every user's Gram matrix times every row, shape (k, q, d, s)."""
        count = len(rows)
        flat = rows.transpose(1, 0, 2).reshape(self.d, count * self.width)
        return (self.gram @ flat).reshape(self.k, self.d, count, self.width).swapaxes(1, 2)

    def _rank(self) -> int:
        number = rank_numbers(self.rule.rank)[0]
        if number > (most := min(self.k, self.d)):
            raise InputError(f"rank must be at most min(num_users, dim_in) = {most}, got {number}; lower it.")
        return number


def _clusters(vectors: Array, count: int, rng: Any) -> tuple[Array, Any]:
    """k-means of the rows of `vectors`: the best of ten careful starts."""

    def starts() -> Iterator[tuple[float, Array, Any]]:
        source = np.random.default_rng(0) if rng is None else rng
        for _ in range(10):
            centres, labels = kmeans2(vectors, count, minit="++", seed=source, iter=100, missing="warn")
            yield float(((vectors - centres[labels]) ** 2).sum()), centres, labels

    _, centres, labels = min(starts(), key=lambda found: found[0])
    return centres, labels
