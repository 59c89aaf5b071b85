"""Seconds of a recovery, from data in memory to its own stop rule, against the time to draw the covariates.

python benchmarks/recovery.py [A B C] [--seeds 5] [--noise-tol X]

A: d=100 k=50 n=50 r=5   B: d=500 k=200 n=200 r=5 (vector model)   C: 20x20 r=2 k=20 n=100 (sensing);  σ = 0.1.
Each row is the median over seeds, everything in one process and one BLAS thread: ratios travel between machines,
seconds do not. `draw` is what NumPy needs for the Gaussian covariates alone. Our methods' time includes the start
and the stop rule; the plain baselines get their time until they first come within 5 % of the statistical floor,
which they could not know themselves; pymanopt is among them where it is installed. The floor is the distance of
the fully converged least-squares solution.
"""

from __future__ import annotations

import argparse
import importlib.util
import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import time
from collections.abc import Callable, Iterator

import numpy as np

import colora_theory as ct

WORK = {
    "A": ct.Problem(num_users=50, num_samples=50, dim_in=100, rank=5, noise_std=0.1),
    "B": ct.Problem(num_users=200, num_samples=200, dim_in=500, rank=5, noise_std=0.1),
    "C": ct.Problem(num_users=20, num_samples=100, dim_in=20, dim_out=20, rank=2, noise_std=0.1, design="sensing"),
}
Array = np.ndarray


def cores_of(features: Array, y: Array) -> Array:
    transposed = features.transpose(0, 2, 1)
    return np.linalg.solve(transposed @ features, transposed @ y[..., None])[..., 0]


def spectral(x: Array, y: Array, r: int) -> Array:
    cross = np.matmul(y[:, None, :], x)[:, 0, :]
    return np.linalg.eigh(cross.T @ cross)[1][:, -r:]


def plain_altmin(x: Array, y: Array, r: int, inner: int = 3) -> Iterator[Array]:
    """Textbook alternating minimisation of the vector model: three conjugate-gradient steps on U per sweep."""
    k, n, d = x.shape
    flat, u = x.reshape(k * n, d), spectral(x, y, r)
    right = np.matmul(y[:, None, :], x)[:, 0, :]
    while True:
        features = (flat @ u).reshape(k, n, r)
        c = cores_of(features, y)

        def normal(p: Array, c: Array = c) -> Array:
            image = ((flat @ p).reshape(k, n, r) @ c[..., None])[..., 0]
            return np.matmul(image[:, None, :], x)[:, 0, :].T @ c

        residual = right.T @ c - normal(u)
        direction, size = residual.copy(), np.vdot(residual, residual)
        for _ in range(inner):
            image = normal(direction)
            step = size / np.vdot(direction, image)
            u, residual = u + step * direction, residual - step * image
            new = np.vdot(residual, residual)
            direction, size = residual + (new / size) * direction, new
        u = np.linalg.qr(u)[0]
        yield u


def plain_altgdmin(x: Array, y: Array, r: int) -> Iterator[Array]:
    """Textbook AltGDmin of the vector model: one gradient step on U per sweep."""
    k, n, d = x.shape
    flat, u = x.reshape(k * n, d), spectral(x, y, r)
    while True:
        features = (flat @ u).reshape(k, n, r)
        c = cores_of(features, y)
        residual = (features @ c[..., None])[..., 0] - y
        gradient = np.matmul(residual[:, None, :], x)[:, 0, :].T @ c
        u = np.linalg.qr(u - 0.5 / (n * np.linalg.norm(c, 2) ** 2) * gradient)[0]
        yield u


def plain_sensing(a: Array, y: Array, r: int) -> Iterator[Array]:
    """Textbook alternating minimisation of matrix sensing, dense normal equations."""
    k, n, d, p = a.shape
    cross = np.matmul(y[:, None, :], a.reshape(k, n, -1)).reshape(k, d, p)
    u = np.linalg.eigh(np.einsum("kab,kcb->ac", cross, cross))[1][:, -r:]
    v = np.linalg.eigh(np.einsum("kab,kac->bc", cross, cross))[1][:, -r:]
    while True:
        right = (a.reshape(-1, p) @ v).reshape(k, n, d, r)
        c = cores_of(np.matmul(u.T, right).reshape(k, n, r * r), y).reshape(k, r, r)
        features = np.matmul(right, c.transpose(0, 2, 1)[:, None]).reshape(k * n, d * r)
        u = np.linalg.qr(np.linalg.solve(features.T @ features, features.T @ y.ravel()).reshape(d, r))[0]
        left = np.matmul(u.T, a)
        c = cores_of(np.matmul(left, v).reshape(k, n, r * r), y).reshape(k, r, r)
        features = np.matmul(left.transpose(0, 1, 3, 2), c[:, None]).reshape(k * n, p * r)
        v = np.linalg.qr(np.linalg.solve(features.T @ features, features.T @ y.ravel()).reshape(p, r))[0]
        yield u


def seconds_to_floor(steps: Iterator[Array], truth: Array, goal: float, most: int = 200) -> float:
    """Seconds until an iteration first comes within the goal; the time of looking is not counted."""
    spent = 0.0
    for _ in range(most):
        start = time.perf_counter()
        u = next(steps)
        spent += time.perf_counter() - start
        if ct.subspace_distance(u, truth) <= goal:
            return spent
    return float("nan")


class _Reached(Exception):
    """The goal was reached: leaves an optimiser that knows nothing of it."""


def pymanopt_seconds(x: Array, y: Array, r: int, truth: Array, goal: float) -> float:
    """Seconds of pymanopt's conjugate gradients on the Grassmannian, cores eliminated, until within the goal."""
    import pymanopt
    from pymanopt.manifolds import Grassmann
    from pymanopt.optimizers import ConjugateGradient

    (k, n, d), manifold = x.shape, Grassmann(x.shape[2], r)
    flat, looking = x.reshape(-1, d), 0.0

    def parts(u: Array) -> tuple[Array, Array]:
        features = (flat @ u).reshape(k, n, r)
        c = cores_of(features, y)
        return c, (features @ c[..., None])[..., 0] - y

    @pymanopt.function.numpy(manifold)
    def cost(u: Array) -> float:
        return 0.5 * float((parts(u)[1] ** 2).sum()) / (k * n)

    @pymanopt.function.numpy(manifold)
    def gradient(u: Array) -> Array:
        nonlocal looking
        c, residual = parts(u)
        before = time.perf_counter()
        if ct.subspace_distance(u, truth) <= goal:
            raise _Reached
        looking += time.perf_counter() - before
        return np.matmul(residual[:, None, :], x)[:, 0, :].T @ c / (k * n)

    optimizer = ConjugateGradient(max_iterations=200, verbosity=0, min_gradient_norm=1e-9)
    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    start = time.perf_counter()
    try:
        optimizer.run(problem, initial_point=spectral(x, y, r))
    except _Reached:
        return time.perf_counter() - start - looking
    return float("nan")


def timed(call: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def one_seed(problem: ct.Problem, seed: int, params: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Ratio to the draw, and distance over floor, of every method."""
    rng = np.random.default_rng([seed, 1])
    truth = ct.sample_truth(problem, rng)
    data = ct.sample_data(problem, truth, rng)
    draw = min(timed(lambda: rng.standard_normal(data.covariates.shape))[0] for _ in range(3))
    rank, u = problem.rank_in, truth.input_subspace
    best = ct.estimators.get("gauss_newton")(rank=rank, noise_tol=1e-4).fit(data)
    floor = ct.subspace_distance(best.input_subspace, u)
    out = {"draw (s)": (draw, float("nan"))}
    for name in ("gauss_newton", "altmin", "altgdmin"):
        rule = ct.estimators.get(name)(rank=rank, **params)
        spent, fit = min((timed(lambda rule=rule: rule.fit(data)) for _ in range(3)), key=lambda pair: pair[0])
        out[name] = (spent / draw, ct.subspace_distance(fit.input_subspace, u) / floor)  # type: ignore[attr-defined]
    x, y = data.covariates, data.responses
    if problem.design == "sensing":
        plain = {"plain altmin (normal equations)": lambda: plain_sensing(x, y, rank)}
    else:
        plain = {
            "plain altmin (3 CG steps)": lambda: plain_altmin(x, y[..., 0], rank),
            "plain altgdmin": lambda: plain_altgdmin(x, y[..., 0], rank),
        }
    for name, steps in plain.items():
        spent = min(seconds_to_floor(steps(), u, 1.05 * floor) for _ in range(2))
        out[name] = (spent / draw, float("nan"))
    if problem.design == "regression" and importlib.util.find_spec("pymanopt"):
        spent = min(pymanopt_seconds(x, y[..., 0], rank, u, 1.05 * floor) for _ in range(2))
        out["pymanopt (CG, variable projection)"] = (spent / draw, float("nan"))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", default=list(WORK), help="which of A, B, C")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--noise-tol", type=float, help="of our methods' stop rule, instead of their defaults")
    args = parser.parse_args()
    params = {} if args.noise_tol is None else {"noise_tol": args.noise_tol}
    print(f"load average {os.getloadavg()[0]:.2f}; {params or 'default stop rules'}")
    print(f"{'work':5s}{'method':34s}{'fit / draw':>11s}{'distance / floor':>18s}")
    for name in args.work:
        runs = [one_seed(WORK[name], seed, params) for seed in range(args.seeds)]
        for method in runs[0]:
            ratio, distance = (np.median([run[method][j] for run in runs]) for j in (0, 1))
            print(f"{name:5s}{method:34s}{ratio:11.3f}{distance:18.4f}")


if __name__ == "__main__":
    main()
