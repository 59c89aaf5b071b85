"""Whether all users' covariates together span the inputs: otherwise no data determine a shared subspace."""

from __future__ import annotations

import numpy as np

from colora_theory.data import Dataset
from colora_theory.linalg import Array


def missing_directions(data: Dataset) -> int:
    """Return how many input directions (sensing: or output directions, whichever is more) no covariate has.

    Read off a few random signed sums of all rows, which span what the rows span: one pass over the data.
    """
    return max(_missing(sketch) for sketch in _sketches(data))


def _sketches(data: Dataset) -> list[Array]:
    """Matrices whose rows span the covariates' rows (sensing: their column spaces, and their row spaces)."""
    x = data.covariates.reshape(-1, *data.covariates.shape[2:])
    sensing = x.ndim == 3
    wanted = max(x.shape[1:]) + 8 if sensing else x.shape[1] + 8
    rng = np.random.default_rng(0)  # any signs serve; fixed ones keep the answer reproducible
    group = max(1, len(x) // wanted)
    whole = len(x) // group * group
    signs = np.where(rng.random((whole // group, 1, group)) < 0.5, -1.0, 1.0)
    sums = np.matmul(signs, x[:whole].reshape(len(signs), group, -1))[:, 0].reshape(-1, *x.shape[1:])
    sums = np.concatenate([sums, x[whole:]])
    if not sensing:
        return [sums]
    return [sums.swapaxes(1, 2).reshape(-1, sums.shape[1]), sums.reshape(-1, sums.shape[2])]


def _missing(rows: Array) -> int:
    """Columns less the rank of `rows`; the factorisation that settles doubtful cases is seldom needed."""
    columns = rows.shape[1]
    if len(rows) < columns:
        rows = np.concatenate([rows, np.zeros((columns - len(rows), columns))])
    try:
        pivots = np.diagonal(np.linalg.cholesky(rows.T @ rows))
        if pivots.min() > 1e-6 * pivots.max():
            return 0
    except np.linalg.LinAlgError:
        pass
    values = np.linalg.svd(rows, compute_uv=False)
    return columns - int((values > max(rows.shape) * np.finfo(float).eps * values[0]).sum())
