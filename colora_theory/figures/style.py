"""How figures look: colours, markers, dashes, sizes, and what fields, metrics and guarantees are called."""

from __future__ import annotations

import functools
import re
import textwrap
import warnings
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

from colora_theory.errors import InputError

#: Okabe & Ito's colours, told apart by colour-blind readers; markers and dashes tell them apart in grey.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#A66F00", "#56B4E9", "#000000")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
#: One dash for every standing of a claim.
DASHES: Final = {
    "proved": "-",
    "published up to a constant": ":",
    "prediction": "--",
    "stated by its author": "-.",
}

#: Widths in inches of a journal's column and page.
WIDTHS: Final = {"column": 3.3, "page": 6.9}

LABELS: Final = {
    "num_users": "users $k$",
    "num_samples": "samples per user $n$",
    "dim_in": "inputs $d$",
    "dim_out": "outputs $p$",
    "rank": "rank $r$",
    "noise_std": "noise standard deviation $\\sigma$",
    "similarity_angle": "angle $\\varphi$ to the shared subspace (rad)",
    "outlier_fraction": "share of outlier users",
    "covariates": "law of the covariates",
    "estimator": "method",
    "parameter_error": "squared error, all users",
    "mean_user_error": "squared error per user",
    "max_user_error": "largest squared error of a user",
    "max_user_distance": "largest error of a user",
    "max_inlier_distance": "largest error of an inlier",
    "mean_inlier_distance": "mean error of inliers",
    "weakest_user_distance": "error of the user with the smallest weight",
    "strongest_user_distance": "error of the user with the largest weight",
    "new_user_distance": "error of a new user",
    "new_user_samples": "samples of the new user",
    "deviation_norm": "norm $\\delta$ of personal parts",
    "coverage": "share of weights inside 95 % intervals",
    "prediction_risk": "excess prediction risk",
    "subspace_distance": "subspace distance (largest sine)",
    "subspace_distance_fro": "subspace distance (Frobenius)",
    "change_subspace_distance": "angle of a weight's change to the truth (sine)",
    "output_subspace_distance": "output subspace distance",
    "relative_error": "relative error",
    "success": "share of exact recoveries",
    "sweeps": "sweeps",
    "seconds": "seconds per fit",
    "sweep": "sweep",
    "objective": "sum of squared residuals",
    "held_out_error": "error on rows held out (variance of the response)",
    "held_out_ratio": "held-out error over that of tuning alone",
    "predicted_error": "predicted error on rows held out",
    "task_cosine": "cosine of the tasks' weights",
    "claimed": "claimed",
    "observed": "observed",
}

#: Symbols of problem fields.
SYMBOLS: Final = {
    "num_users": "k",
    "num_samples": "n",
    "dim_in": "d",
    "dim_out": "p",
    "rank": "r",
    "noise_std": "σ",
    "similarity_angle": "φ",
    "condition_number": "κ",
    "incoherence": "μ",
    "core_distribution": "cores",
}

NAMES: Final = {
    "cramer_rao": "Cramér–Rao level",
    "cramer_rao_subspace": "Cramér–Rao level of the subspace",
    "local_least_squares_risk": "exact risk of tuning alone",
    "oracle_subspace_risk": "exact risk of the oracle",
    "pooled_least_squares_risk": "exact risk of one pooled model",
    "transfer_risk": "exact risk of transfer",
    "counting": "counting threshold",
    "exact_recovery": "exact recovery with probability one",
    "held_out_limit": "held-out certificate",
    "contraction_edge": "contraction edge",
    "contraction_edge_unequal": "contraction edge, unequal cores",
    "local_contraction_rate": "exact local rate",
    "fresh_sample_evolution": "state evolution",
    "aligned_fresh_sample_evolution": "aligned state evolution",
    "sweep_trajectory": "bound on the trajectory",
    "grip_gordon": "GRIP by Gordon",
    "grip_net": "GRIP by an ε-net",
    "heterogeneous_risk": "predicted risk of sharing",
    "oracle_inequality": "oracle inequality",
    "oracle_inequality_in_probability": "oracle inequality in probability",
    "tangent_conditioning": "tangent-space level",
    "optimal_error_rate": "optimal rate",
}

_STYLE: Final = {
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "hatch.linewidth": 0.6,
}
STYLES: Final = {
    "paper": {**_STYLE, "font.size": 8, "axes.titlesize": 9, "legend.fontsize": 7, "lines.markersize": 4},
    "talk": {**_STYLE, "font.size": 13, "axes.titlesize": 15, "legend.fontsize": 11.5, "lines.markersize": 7},
}
#: Whatever the style: no legend frame over data, files that depend on nothing but the results.
_ALWAYS: Final = {
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "colora_theory",
    "pdf.fonttype": 42,
}


def pyplot() -> Any:
    """Matplotlib's pyplot, which is loaded with the first figure: studies are read, and judged, without it."""
    import matplotlib.pyplot as plt

    return plt


def context(style: str) -> Any:
    """The style to draw in: "paper", "talk", or the name or path of a Matplotlib style, on top of "paper"."""
    if style not in STYLES and style not in pyplot().style.available and not Path(style).is_file():
        raise InputError(f"unknown style {style!r}; use paper, talk, or the name or path of a Matplotlib style.")
    return pyplot().style.context(
        [STYLES[style], _ALWAYS] if style in STYLES else [STYLES["paper"], style, _ALWAYS], after_reset=True
    )


def scale() -> float:
    """How much larger than in a paper the present style writes: figures grow with their letters."""
    return float(mpl.rcParams["font.size"]) / STYLES["paper"]["font.size"]  # type: ignore[operator]


def symbol_of(name: str) -> str:
    """The symbol of a field in small print, or its name."""
    return SYMBOLS.get(name, name.replace("_", " "))


def label_of(name: str) -> str:
    """Axis label of a field or metric."""
    return LABELS.get(name, name.replace("_", " "))


def name_of(guarantee: str) -> str:
    """What a legend calls a guarantee."""
    return NAMES.get(guarantee, guarantee.replace("_", " "))


def plain(text: str) -> str:
    """A label without its mathematics, for readers of text."""
    return re.sub(r"[$\\\\]", "", text)


def safe(text: str) -> str:
    """Text that Matplotlib can set: mathematics between dollar signs where it is some, all other dollars as such.

    Mathematics begins with a dollar before a non-space and ends with one after a non-space that no digit follows
    (so prices stay prices), and only counts when Matplotlib can parse it.
    """
    parts, at = [], 0
    for found in re.finditer(r"(?<!\\)\$(?=[^\s$])([^$]*?[^\s$\\])\$(?!\d)", text):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of signs that the font does not have
                warnings.simplefilter("ignore", DeprecationWarning)  # between Matplotlib and pyparsing
                _parser().parse(found.group(0))
        except Exception:
            continue
        parts += [_literal(text[at : found.start()]), found.group(0)]
        at = found.end()
    return "".join([*parts, _literal(text[at:])])


def _literal(text: str) -> str:
    return re.sub(r"(?<!\\)\$", r"\\$", text)


@functools.cache
def _parser() -> Any:
    from matplotlib.mathtext import MathTextParser

    return MathTextParser("path")


def wrapped(text: str, inches: float, size: float) -> str:
    """Break `text` into lines that fit `inches` at a font of `size` points."""
    return safe("\n".join(textwrap.wrap(" ".join(text.split()), max(12, int(inches * 72 / (0.56 * size))))))
