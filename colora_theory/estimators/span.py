"""Whether all users' covariates together span the inputs: otherwise no data determine a shared subspace."""

from __future__ import annotations

import numpy as np
from scipy.linalg.blas import ssyrk
from scipy.linalg.lapack import spotrf

from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array

#: Cholesky pivots of a few single-precision rows above this share of the largest one: they span everything.
_CLEAR = 1e-2


def missing_directions(data: Dataset) -> int:
    """Return how many input directions (sensing: or output directions, whichever is more) no covariate has.

    A few of the samples settle most cases. Otherwise it is read off a few random signed sums of all of them, which
    span what they span: one pass over the data.
    """
    x = data.covariates.reshape(-1, *data.covariates.shape[2:])
    wanted = max(x.shape[1:]) + 8
    if all(_clear(rows) for rows in _sides(x[:: max(1, len(x) // wanted)])):
        return 0
    group = max(1, len(x) // wanted)
    whole = len(x) // group * group
    rng = np.random.default_rng(0)  # any signs serve; fixed ones keep the answer reproducible
    signs = np.where(rng.random((whole // group, 1, group)) < 0.5, -1.0, 1.0)
    sums = np.matmul(signs, x[:whole].reshape(len(signs), group, -1))[:, 0].reshape(-1, *x.shape[1:])
    return max(_missing(rows) for rows in _sides(np.concatenate([sums, x[whole:]])))


def _sides(x: Array) -> list[Array]:
    """Matrices whose rows span those of some covariates (sensing: their column spaces, and their row spaces)."""
    return [x] if x.ndim == 2 else [x.swapaxes(1, 2).reshape(-1, x.shape[1]), x.reshape(-1, x.shape[2])]


def _clear(rows: Array) -> bool:
    """Whether some rows span all columns beyond doubt."""
    if len(rows) < rows.shape[1]:
        return False
    with np.errstate(all="ignore"):  # sizes beyond single precision are not clear
        single = np.asarray(rows, dtype=np.float32)
        gram = ssyrk(1.0, single.T)  # half of it, in half the time
        factor, failed = spotrf(gram, overwrite_a=True)
    pivots = np.diagonal(factor)
    return failed == 0 and bool(pivots.min() > _CLEAR * pivots.max())


def _missing(rows: Array) -> int:
    """Columns less the rank of `rows`."""
    values = np.linalg.svd(rows, compute_uv=False)
    return rows.shape[1] - int((values > max(rows.shape) * np.finfo(float).eps * values[0]).sum())
