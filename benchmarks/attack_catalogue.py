"""Attack every guarantee of the catalogue: does anything break, and where is each claim tightest?

    python benchmarks/attack_catalogue.py [--trials 1000] [--seed 0] [NAME ...]

Prints the table of docs/theory.md, "Tightest instances found". Claims about rates with open constants and about
thresholds are no claims about one problem and are left out; a guarantee is attacked with the first estimator that
it speaks about. Exit 1 if one is violated.
"""

from __future__ import annotations

import argparse
import sys
import time

import colora_theory as ct
from colora_theory.figures.style import symbol_of

#: Fields that are told where they differ from these plain values.
PLAIN = {
    "dim_out": 1,
    "design": "regression",
    "sampling": "rows",
    "covariates": "gaussian",
    "core_distribution": "gaussian",
    "signal_norm": 1.0,
    "condition_number": 1.0,
}


def told(problem: ct.Problem) -> str:
    """The fields of a problem that matter, in the short symbols of figures."""
    parts = []
    for name, value in problem.content().items():
        if value in (None, 0.0, False, PLAIN.get(name)):
            continue
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        parts.append(f"{symbol_of(name)} = {text}")
    return ", ".join(parts)


def main() -> int:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", metavar="NAME")
    options.add_argument("--trials", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    broken = 0
    print("| guarantee | kind | problems | trials | tightest | there |\n|---|---|---:|---:|---:|---|")
    for name in chosen.names or ct.guarantees.names():
        start = time.monotonic()
        try:
            verdict = ct.attack(name, trials=chosen.trials, seed=chosen.seed, alpha=1e-4)
        except ct.InputError as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
            continue
        best = next((e.tightness for e in verdict.explored[::-1] if e.problem == verdict.problem), float("nan"))
        broken += verdict.status == "violated"
        word = "**violated**" if verdict.status == "violated" else "–" if best != best else f"{best:.3g}"
        assert verdict.problem is not None
        row = [f"`{name}`", verdict.kind or ct.guarantees.get(name).kind, str(len(verdict.explored))]
        print("| " + " | ".join([*row, str(verdict.trials), word, told(verdict.problem)]) + " |", flush=True)
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
