"""What a fit of a table says: where the variance lies, who differs, who does not belong, and what to doubt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from colora_theory.errors import InputError
from colora_theory.estimators.alignment import Alignment, alignment_test
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array
from colora_theory.regression.fitted import Fitted
from colora_theory.regression.naming import About

#: Excess kurtosis of residuals, and ratio of users' noise (upper to lower quartile), that spoil intervals.
_HEAVY, _UNEQUAL = 1.0, 2.0
#: Rows from which on a user's residuals tell its noise.
_ENOUGH = 5
_MOST = 12
#: Leverage from which on a user has a shared direction to itself.
_ALONE = 0.5


@dataclass(frozen=True, eq=False)
class Summary:
    """A fit in words and tables.

    Attributes
    ----------
    head : name → value of what was fitted.
    variances : data frame, the share of every source in the variance of a response: population, shared, intercept,
        personal, noise.
    loadings : data frame, shared directions in standard units (features and intercept × directions).
    users : data frame, one row per user: rows, distance from the population (of standardised coefficients),
        shrinkage (1: predicted by the population, 0: by its own rows alone), residual_std, and, from a test
        against the shared model, p_value and flagged (false discovery rate 5 %).
    doubts : sentences on what speaks against the fit's intervals.
    """

    head: dict[str, str]
    variances: pd.DataFrame
    loadings: pd.DataFrame
    users: pd.DataFrame
    doubts: list[str]

    def __str__(self) -> str:
        wide = max(map(len, self.head))
        lines = ["Collaborative low-rank regression", ""]
        lines += [f"  {name.ljust(wide)}  {value}" for name, value in self.head.items()]
        lines += ["", "Where the variance of a response lies", ""]
        lines += [
            f"  {str(name).ljust(12)}{share:7.1%}  {text}"
            for name, share, text in zip(
                self.variances.index, self.variances["share"], self.variances["meaning"], strict=True
            )
        ]
        if self.loadings.shape[1]:
            lines += ["", "Shared directions (loadings in standard units)", ""]
            lines += ["  " + line for line in self.loadings.head(_MOST).round(3).to_string().splitlines()]
        flagged = self.users[self.users["flagged"]]
        lines += ["", f"Users that do not belong (false discovery rate 5 %): {len(flagged) or 'none'}"]
        if len(flagged):
            shown = flagged.sort_values("p_value").head(_MOST)
            lines += ["  " + line for line in shown.to_string(float_format=lambda v: f"{v:.3g}").splitlines()]
        lines += ["", *(f"! {doubt}" for doubt in self.doubts)] if self.doubts else []
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)


def summarised(found: Fitted, about: About) -> Summary:
    """The summary of a fit of `hierarchical`."""
    if found.population is None or found.rows is None:
        raise InputError("summary needs estimator='hierarchical', and responses that are not all the same.")
    rows, population = found.rows, found.population
    leader = population.components[0].hyper
    k, d, p = len(found.users), found.coef.shape[1], found.coef.shape[2]
    history = found.history
    chances = history.get("rank_probabilities") or {}
    evidence = ", ".join(f"{rank}: {chance:.0%}" for rank, chance in chances.items() if chance >= 0.005)
    noise = found.units.y_scale * population.size * np.sqrt(population.noise(found.noise).mean())
    noise = noise * np.sqrt(found.noise_of_outputs())
    head = {
        "rows": f"{int(rows.counts.sum())}",
        "users": f"{k} of {int(rows.counts.min())} to {int(rows.counts.max())} rows",
        "features": f"{d}" + (" and an intercept" if found.units.intercept else ""),
        "outputs": f"{p}",
        "shared rank": f"{found.rank[0]}" + (f" (probabilities {evidence})" if evidence else ""),
        "noise": " ".join(f"{value:.4g}" for value in noise) + " (standard deviation)",
        "status": found.status,
    }
    effective = population.effective(rows, found.noise)
    standard = np.abs(found.coef[:k] - found.coef[k]) * found.units.scale[:, None] / found.units.y_scale
    frame = pd.DataFrame(
        {
            "rows": rows.counts.astype(int),
            "distance": np.sqrt((standard**2).sum((1, 2))),
            "shrinkage": 1.0 - effective / (rows.d * rows.p),
        },
        index=pd.Index(found.users, dtype=object, name="user", tupleize_cols=False),
    )
    doubts = _doubts(found)
    residuals = found.residuals
    if residuals is not None and len(residuals.std) == k:
        frame["residual_std"] = residuals.std[:, 0]
    try:
        tested = alignment_of(found)
        frame["p_value"], frame["flagged"] = tested.p_values, tested.flagged
    except (InputError, np.linalg.LinAlgError) as error:
        frame["p_value"], frame["flagged"] = 1.0, False
        doubts.append(f"No user was tested against the shared model: {error}")
    names = [*map(str, about.features), *(["(intercept)"] if found.units.intercept else [])]
    directions = [f"direction {j + 1}" for j in range(leader.rank[0])]
    return Summary(head, _variances(found), pd.DataFrame(leader.u, names, directions), frame, doubts)


def _variances(found: Fitted) -> pd.DataFrame:
    """Shares of the variance of a typical response (mean over outputs), population's and users' alike."""
    assert found.population is not None
    assert found.rows is not None
    rows, c = found.rows, found.population.components[0]
    metric = found.units.outputs @ found.units.outputs.T
    p = float(np.trace(metric))
    moment = np.einsum("kmd,kme->de", rows.x, rows.x) / max(float(rows.counts.sum()), 1.0)
    mean = c.hyper.mean.copy()
    r1, r2 = c.hyper.rank
    s = (c.hyper.core @ c.hyper.core.T).reshape(r1, r2, r1, r2)
    inner = np.einsum("ajcl,jl->ac", s, c.hyper.v.T @ metric @ c.hyper.v)
    if found.units.intercept:
        mean[-1] = 0.0
    parts = {
        "population": float(np.einsum("dp,de,ep->", mean @ metric, moment, mean)),
        "shared": float(np.vdot(c.hyper.u @ inner @ c.hyper.u.T, moment)),
        "intercept": float((c.hyper.own**2).sum()) * p,
        "personal": float(c.chances @ c.factors) * c.hyper.tau2 * float(c.hyper.stretch[0]) * np.trace(moment) * p,
        "noise": float(found.population.noise(found.noise).mean()) * float(found.noise_of_outputs().sum()),
    }
    meaning = {
        "population": "what all users have in common",
        "shared": f"users' differences along {r1} shared direction(s)",
        "intercept": "users' own levels",
        "personal": "users' differences that nobody shares",
        "noise": "what no coefficient explains",
    }
    total = max(sum(parts.values()), 1e-300)
    return pd.DataFrame({"share": {name: value / total for name, value in parts.items()}, "meaning": meaning})


def _doubts(found: Fitted) -> list[str]:
    out = []
    if found.status != "converged":
        out.append(f"The fit ended as {found.status!r}: its numbers may move with more steps.")
    residuals = found.residuals
    if residuals is None:
        return out
    if float(residuals.kurtosis.max()) > _HEAVY:
        out.append(
            f"Residuals have heavy tails (excess kurtosis {float(residuals.kurtosis.max()):.2g}): intervals are "
            "too wide for most rows and too narrow for a few."
        )
    enough = residuals.counts >= _ENOUGH
    if enough.sum() >= 4 and found.noise is None:
        low, high = np.quantile(residuals.std[enough, 0], [0.25, 0.75])
        if high > _UNEQUAL * low:
            out.append(
                f"Users' noise differs (quartiles {low:.3g} and {high:.3g}): a common noise makes intervals too "
                "wide for some users and too narrow for others; try noise='per_user'."
            )
    return out


def alignment_of(found: Fitted) -> Alignment:
    """Test every user against the model that the others share, around the population's coefficients.

    Users' own levels are no part of the test: rows are centred user by user, which costs one row each.
    Raises InputError when too few rows are left.
    """
    if found.population is None or found.rows is None:
        raise InputError("alignment_ needs estimator='hierarchical', and responses that are not all the same.")
    rows, mean = found.rows, found.population.components[0].hyper.mean
    x, y = rows.x, rows.y - rows.x @ mean
    counts = rows.counts.astype(np.int64)
    if found.units.intercept:
        level = x[:, :, -1:]
        square = np.maximum((level**2).sum(1, keepdims=True), 1e-300)

        def centred(values: Array) -> Array:
            return np.asarray(values - level * ((level * values).sum(1, keepdims=True) / square))

        x, y, counts = centred(x)[:, :, :-1], centred(y), np.maximum(counts - 1, 0)
    rest = np.zeros((len(x), 1, y.shape[2]))
    rest[:, 0, 0] = np.sqrt(rows.rest)  # squared residuals that no weight explains: a row without covariates
    data = Dataset(
        covariates=np.concatenate([x, np.zeros((len(x), 1, x.shape[2]))], axis=1),
        responses=np.concatenate([y, rest], axis=1),
        counts=counts,
        sufficient=True,
    )
    most = min(x.shape[2], len(x) * y.shape[2])
    return alignment_test(data, min(max(_common_rank(found), 1), most), rng=np.random.default_rng(0))


def _common_rank(found: Fitted) -> int:
    """Shared directions less those that one user has to itself, by users' leverage in their cores.

    A user that does not belong can be given a direction of its own; what the others share does not need it.
    """
    r1, r2 = found.cores.shape[1:]  # fewer than the rank where directions reach into the intercept
    given = len(found.history.get("rank_probabilities") or {}) < 2
    if given or not r1 or len(found.cores) * r2 <= 4 * r1:
        return r1
    cores = found.cores.swapaxes(1, 2).reshape(-1, r1)
    left, values, _ = np.linalg.svd(cores, full_matrices=False)
    leverage = ((left * (values > 1e-9 * max(float(values[0]), 1e-300))) ** 2).sum(1).reshape(-1, r2).sum(1)
    return r1 - int((leverage > _ALONE).sum())
