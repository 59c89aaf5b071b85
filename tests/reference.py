"""Slow obvious references: dense, looped, one user at a time. Nothing here shares code with the package."""

from __future__ import annotations

import numpy as np


def rows_of(covariate: np.ndarray, response: np.ndarray, design: str) -> tuple[list[np.ndarray], list[float]]:
    """Sensing matrices (d × p) and scalar responses of one sample."""
    if design == "sensing":
        return [covariate], [float(response)]
    p = len(response)
    return [np.outer(covariate, np.eye(p)[j]) for j in range(p)], [float(y) for y in response]


def user_system(data, i):  # type: ignore[no-untyped-def]
    """All sensing matrices (N_i, d, p) and responses (N_i,) of one user, padding left out."""
    matrices, answers = [], []
    for j in range(data.covariates.shape[1]):
        if data.sufficient or j < data.counts[i]:
            a, y = rows_of(data.covariates[i, j], data.residual_responses()[i, j], data.design)
            matrices += a
            answers += y
    return np.array(matrices), np.array(answers)


def altmin_sweep(data, u, v):  # type: ignore[no-untyped-def]
    """One exact sweep: cores → U → V, each a dense least squares; returns (u, v, objectives after each step)."""
    systems = [user_system(data, i) for i in range(data.num_users)]
    r1, r2 = u.shape[1], v.shape[1]

    def solve_cores():  # type: ignore[no-untyped-def]
        out = []
        for a, y in systems:
            features = np.array([(u.T @ m @ v).ravel() for m in a])
            out.append(np.linalg.lstsq(features, y, rcond=None)[0].reshape(r1, r2))
        return out

    def objective(c):  # type: ignore[no-untyped-def]
        return sum(
            float(((y - np.array([np.sum(m * (u @ ci @ v.T)) for m in a])) ** 2).sum())
            for (a, y), ci in zip(systems, c, strict=True)
        )

    cores = solve_cores()
    objectives = [objective(cores)]
    features = np.concatenate(
        [[(m @ v @ c.T).ravel() for m in a] for (a, _), c in zip(systems, cores, strict=True)]
    )
    answers = np.concatenate([y for _, y in systems])
    u, triangle = np.linalg.qr(np.linalg.lstsq(features, answers, rcond=None)[0].reshape(-1, r1))
    cores = [triangle @ c for c in cores]
    objectives.append(objective(cores))
    if r2 < data.dim_out:
        features = np.concatenate(
            [[(m.T @ u @ c).ravel() for m in a] for (a, _), c in zip(systems, cores, strict=True)]
        )
        v, triangle = np.linalg.qr(np.linalg.lstsq(features, answers, rcond=None)[0].reshape(-1, r2))
        cores = [c @ triangle.T for c in cores]
        objectives.append(objective(cores))
    return u, v, objectives
