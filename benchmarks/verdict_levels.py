"""How often verdicts call true claims about means violated, at nominal levels of 5 % and 1 %.

    python benchmarks/verdict_levels.py [--repetitions 3000]

Errors of mean one: light (normal), skewed (exponential), heavy (lognormal, σ = 1) and local least squares at the
fewest samples at which it is judged. Designs: one cell of 40 or 200 trials; eight cells of 40 trials whose errors
spread differently, pooled; one cell that stops at a relative standard error of 10 % (looks after batches of 20, at
most 400 trials). "two standard errors" says how far chance takes a level from the nominal one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np

from colora_theory.verdicts.judge import Requirement, Sample, p_value
from colora_theory.verdicts.scaling import pooled_deviation, pooled_p

Draw = Callable[[np.random.Generator, int], np.ndarray]
MEAN = Requirement("equality", "mean")


def least_squares(rng: np.random.Generator, size: int, unknowns: int = 3, spare: int = 6) -> np.ndarray:
    """Errors of least squares with q + 6 samples, in units of their mean."""
    x = rng.standard_normal((size, unknowns + spare, unknowns))
    noise = rng.standard_normal((size, unknowns + spare, 1))
    error = np.linalg.solve(x.swapaxes(1, 2) @ x, x.swapaxes(1, 2) @ noise)[..., 0]
    return (error**2).sum(1) / (unknowns / (spare - 1))


ERRORS: dict[str, Draw] = {
    "light: normal": lambda rng, size: 1.0 + 0.5 * rng.standard_normal(size),
    "skewed: exponential": lambda rng, size: rng.exponential(size=size),
    "heavy: lognormal": lambda rng, size: np.exp(rng.standard_normal(size) - 0.5),
    "local least squares, n = q + 6": least_squares,
}


def fixed(rng: np.random.Generator, draw: Draw, trials: int) -> float | None:
    return p_value(MEAN, Sample.of(draw(rng, trials), 1.0))


def pooled(rng: np.random.Generator, draw: Draw) -> float | None:
    cells = [Sample.of(1.0 + spread * (draw(rng, 40) - 1.0), 1.0) for spread in np.geomspace(0.5, 2.0, 8)]
    found = pooled_deviation(cells)
    return None if found is None else pooled_p(MEAN, found)


def adaptive(rng: np.random.Generator, draw: Draw, split: bool) -> float | None:
    """Stop as `engine.stopping` does; `split`: judge the trials that did not decide."""
    values = draw(rng, 400)
    for stop in range(20, 401, 20):
        seen = values[:stop:2] if split else values[:stop]
        if seen.std(ddof=1) / math.sqrt(stop) <= 0.1 * abs(seen.mean()):
            break
    return p_value(MEAN, Sample.of(values[1:stop:2] if split else values[:stop], 1.0))


DESIGNS: dict[str, Callable[[np.random.Generator, Draw], float | None]] = {
    "fixed, 40 trials": lambda rng, draw: fixed(rng, draw, 40),
    "fixed, 200 trials": lambda rng, draw: fixed(rng, draw, 200),
    "pooled, 8 cells of 40": pooled,
    "adaptive": lambda rng, draw: adaptive(rng, draw, True),
    "(adaptive, judged on what stopped it)": lambda rng, draw: adaptive(rng, draw, False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3000)
    count = parser.parse_args().repetitions
    doubt = [200 * math.sqrt(a * (1 - a) / count) for a in (0.05, 0.01)]
    print(f"{count} repetitions; two standard errors: {doubt[0]:.1f} and {doubt[1]:.1f} percentage points\n")
    print("| errors | design | at 5 % | at 1 % |\n|---|---|---:|---:|")
    for number, (errors, draw) in enumerate(ERRORS.items()):
        for place, (design, test) in enumerate(DESIGNS.items()):
            rng = np.random.default_rng([7, number, place])
            found = np.array([p for p in (test(rng, draw) for _ in range(count)) if p is not None])
            levels = [100 * float((found <= a).mean()) for a in (0.05, 0.01)]
            print(f"| {errors} | {design} | {levels[0]:.1f} % | {levels[1]:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
