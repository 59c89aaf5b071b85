"""Problem: the frozen scalars that theorems speak about. No arrays, no randomness."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from colora_theory.errors import InputError, nearest
from colora_theory.model.checks import check_integer, check_real, check_square, check_word
from colora_theory.model.covariates import LAWS, Law
from colora_theory.model.ranks import rank_pair

#: Users beyond this have no list of their counts, which would fill the memory.
MOST_LISTED: Final = 10**8
#: Allowed words, field by field.
CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "design": ("regression", "sensing"),
    "sampling": ("rows", "sufficient"),
    "covariates": tuple(LAWS),
    "core_distribution": ("gaussian", "orthogonal", "unit", "equal", "clustered", "ladder"),
    "deviation": ("none", "dense", "sparse", "low_rank"),
    "draws": ("own", "duan_wang_2023", "tian_gu_feng_as_coded", "tian_gu_feng_as_stated"),
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Many related linear regressions, W_i = W_0 + U C_i Vᵀ + D_i, described by scalars.

    Parameters
    ----------
    num_users : k, number of users (≥ 1).
    num_samples : n, samples per user (≥ 0). A tuple is dealt to the users in turn: (20, 60) alternates.
    dim_in, dim_out : d and p, numbers of inputs and outputs; dim_out = 1 is the vector model θ_i = U c_i.
    rank : one number r, or (rank_in, rank_out). rank_out defaults to min(rank, dim_out).
    noise_std : σ, standard deviation of the noise of each response.
    design : "regression", y = W_iᵀx + ξ ∈ R^p; or "sensing", y = ⟨A, W_i⟩ + ξ ∈ R.
    sampling : "rows" draws every sample; "sufficient" draws the sufficient statistics as
        dim_in + dim_out effective rows (sensing: dim_in·dim_out + 1), equal in distribution for everything
        that least squares uses, at a cost that does not depend on n. Gaussian covariates with n ≥ dim_in only.
    covariates : "gaussian" (isotropic), "ar1", "power_law" (correlated Gaussian), "rademacher", "student_t",
        "one_hot" (±√d times a random unit vector: a response is a noisy entry of W_i; regression only).
        All have mean zero and average variance one.
    covariate_parameter : AR(1) correlation (default 0.5), spectral decay exponent (1.0), or degrees of
        freedom (5.0), for the three distributions that have one.
    core_distribution : "gaussian" (iid entries), "orthogonal" (Σ C_iC_iᵀ and Σ C_iᵀC_i have exactly the
        condition number `condition_number`²), "unit" (all ‖C_i‖_F equal, direction uniform), "equal" (one core for
        everybody: identical tasks; needs rank_in = rank_out), "clustered" (rank_in groups of users, as equal as
        they can be, each with one core along a direction of its own; needs rank_in ≥ rank_out),
        "ladder" (directions uniform, norms of the users as 1 : 2 : … : k).
    condition_number : κ ≥ 1, ratio of the extreme singular values of both unfoldings of orthogonal cores.
    incoherence : μ = k max‖C_i‖²/Σ‖C_i‖² ∈ [1, k], set exactly by scaling the users' cores: one user is as
        heavy as μ asks for, the others share the rest equally. None leaves the norms as drawn.
    signal_norm : root mean square over users of ‖U C_i Vᵀ‖_F (exact for "orthogonal" and "unit").
    pretrained_norm : ‖W_0‖_F of the known pretrained weight (0: no pretrained weight).
    similarity_angle : φ in radians, [0, π/2]; user i's own subspace is U cos φ + E_i sin φ with E_i ⟂ U.
    deviation : personal part D_i: "none", "dense", "sparse" (`deviation_level` non-zero entries) or
        "low_rank" (rank `deviation_level`).
    deviation_norm : ‖D_i‖_F.
    deviation_level : number of non-zero entries or rank of D_i.
    outlier_fraction, outlier_norm : share of users whose weight is replaced by an unrelated one of
        Frobenius norm `outlier_norm`. outlier_covariate_scale : their covariates are so many times as large.
    intercept_std : standard deviation of the users' personal intercepts (regression only; 0: no intercepts).
    new_user_samples : samples of a new user, who takes no part in the fit and gets a core in the subspaces that
        were learned (regression only; 0: no new user).
    draws : "own", or the name of a paper whose random numbers are drawn again, seed by seed
        (`model.repeated_draws`).

    Raises InputError for impossible values.

    >>> Problem(num_users=50, num_samples=50, dim_in=100, rank=5).degrees_of_freedom
    725
    """

    num_users: int
    num_samples: int | tuple[int, ...]
    dim_in: int
    rank: int | tuple[int, int]
    dim_out: int = 1
    noise_std: float = 0.0
    design: str = "regression"
    sampling: str = "rows"
    covariates: str = "gaussian"
    covariate_parameter: float | None = None
    core_distribution: str = "gaussian"
    condition_number: float = 1.0
    incoherence: float | None = None
    signal_norm: float = 1.0
    pretrained_norm: float = 0.0
    similarity_angle: float = 0.0
    deviation: str = "none"
    deviation_norm: float = 0.0
    deviation_level: int = 1
    outlier_fraction: float = 0.0
    outlier_norm: float = 1.0
    outlier_covariate_scale: float = 1.0
    intercept_std: float = 0.0
    new_user_samples: int = 0
    draws: str = "own"

    def __post_init__(self) -> None:
        given = {name for name, value in vars(self).items() if value is not _DEFAULTS[name]}
        for name, words in CHOICES.items():
            if name in given:  # a default needs no check by itself
                check_word(name, getattr(self, name), words)
        for name in ("num_users", "dim_in", "dim_out", "deviation_level"):
            if name in given:
                self._set(name, check_integer(name, getattr(self, name), 1))
        self._set("num_samples", _counts(self.num_samples, self.num_users))
        if "new_user_samples" in given:
            self._set("new_user_samples", check_integer("new_user_samples", self.new_user_samples, 0))
        self._check_rank()
        for name, low, high in (
            ("noise_std", 0.0, math.inf),
            ("condition_number", 1.0, 1e7),  # its square is the condition of a matrix in double precision
            ("signal_norm", 0.0, math.inf),
            ("pretrained_norm", 0.0, math.inf),
            ("similarity_angle", 0.0, math.pi / 2),
            ("deviation_norm", 0.0, math.inf),
            ("outlier_fraction", 0.0, 1.0),
            ("outlier_norm", 0.0, math.inf),
            ("outlier_covariate_scale", 0.0, 1e6),
            ("intercept_std", 0.0, math.inf),
        ):
            if name in given:
                self._set(name, check_real(name, getattr(self, name), low, high))
                if name.endswith(("_std", "_norm")):
                    check_square(name, getattr(self, name))
        if self.incoherence is not None:
            self._set("incoherence", check_real("incoherence", self.incoherence, 1.0, float(self.num_users)))
        self._check_covariates()
        self._check_combinations()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_rank(self) -> None:
        rank_in, rank_out = rank_pair(self.rank, self.dim_in, self.dim_out, self.num_users)
        # One spelling for one problem: seeds are derived from the fields.
        self._set("rank", rank_in if rank_out == min(rank_in, self.dim_out) else (rank_in, rank_out))

    def _check_covariates(self) -> None:
        if self.covariate_law.vectors and self.design == "sensing":
            raise InputError(f"covariates = {self.covariates!r} are vectors; use design = 'regression'.")
        parameter = self.covariate_law.parameter
        if parameter is None:
            if self.covariate_parameter is not None:
                raise InputError(
                    f"covariate_parameter has no meaning for covariates = {self.covariates!r}, "
                    f"got {self.covariate_parameter!r}; leave it out."
                )
            return
        meaning, low, high = parameter.meaning, parameter.low, parameter.high
        value = parameter.default if self.covariate_parameter is None else self.covariate_parameter
        value = check_real(f"covariate_parameter ({meaning})", value, low, high)
        if value in (low, high) and low != 0.0:
            raise InputError(
                f"covariate_parameter ({meaning}) must lie strictly between {low:g} and {high:g}, got {value:g}."
            )
        self._set("covariate_parameter", value)

    def _check_combinations(self) -> None:
        if self.core_distribution != "orthogonal" and self.condition_number != 1.0:
            raise InputError(
                f"condition_number needs core_distribution = 'orthogonal', got {self.core_distribution!r}; "
                "set it, or leave condition_number out."
            )
        if self.core_distribution in ("orthogonal", "ladder") and self.incoherence is not None:
            raise InputError(
                f"incoherence and core_distribution = {self.core_distribution!r} both fix the users' norms; "
                "choose one of them."
            )
        if self.core_distribution == "equal":
            if self.rank_in != self.rank_out:
                raise InputError(
                    "core_distribution = 'equal' determines both subspaces only when rank_in = rank_out, got "
                    f"({self.rank_in}, {self.rank_out})."
                )
            if self.incoherence is not None:
                raise InputError("equal cores have incoherence 1; leave incoherence out.")
        if self.core_distribution == "clustered":
            if self.rank_in < self.rank_out or self.num_users < self.rank_in:
                raise InputError(
                    "core_distribution = 'clustered' needs rank_in ≥ rank_out and a user in every group, "
                    f"got rank ({self.rank_in}, {self.rank_out}) and {self.num_users} users."
                )
            if self.incoherence is not None:
                raise InputError("clustered cores have incoherence 1; leave incoherence out.")
        self._check_new_user()
        if self.sampling == "sufficient":
            if not self.covariate_law.gaussian:
                raise InputError(
                    f"sampling = 'sufficient' needs Gaussian covariates, got {self.covariates!r}; "
                    "use sampling = 'rows'."
                )
            if self.intercept_std:
                raise InputError(
                    "sampling = 'sufficient' has no intercepts, got "
                    f"intercept_std = {self.intercept_std:g}; use sampling = 'rows'."
                )
            least = self.num_samples if isinstance(self.num_samples, int) else min(self.num_samples)
            if least < self.num_features:
                raise InputError(
                    f"sampling = 'sufficient' needs num_samples ≥ {self.num_features} (the unknowns of one "
                    f"user's regression), got {least}; use sampling = 'rows'."
                )
        if self.design == "sensing" and self.intercept_std:
            raise InputError("intercept_std needs design = 'regression', got 'sensing'.")
        if self.deviation == "none" and self.deviation_norm:
            raise InputError(
                "deviation_norm needs a deviation ('dense', 'sparse' or 'low_rank'), got 'none'; choose one."
            )
        most = {"sparse": self.dim_in * self.dim_out, "low_rank": min(self.dim_in, self.dim_out)}
        if self.deviation_level > most.get(self.deviation, self.deviation_level):
            raise InputError(
                f"deviation_level must be at most {most[self.deviation]} for a {self.deviation} deviation, "
                f"got {self.deviation_level}."
            )
        if self.similarity_angle and self.dim_in < 2 * self.rank_in:
            raise InputError(
                f"similarity_angle needs dim_in ≥ 2 * rank = {2 * self.rank_in} to leave room outside the "
                f"shared subspace, got dim_in = {self.dim_in}."
            )

    def _check_new_user(self) -> None:
        if not self.new_user_samples:
            return
        if self.design == "sensing" or self.intercept_std or self.pretrained_norm:
            raise InputError(
                "new_user_samples needs design = 'regression' without intercepts and pretrained weight; "
                "leave them out, or set new_user_samples = 0."
            )
        if self.core_distribution in ("orthogonal", "ladder") or self.incoherence is not None:
            raise InputError(
                "new_user_samples needs cores that a new user can have too ('gaussian', 'unit', 'equal' or "
                "'clustered', no incoherence); choose one of them."
            )

    # --- what follows from the fields -------------------------------------------------------------------

    @property
    def covariate_law(self) -> Law:
        """The record of the covariates' law."""
        return LAWS[self.covariates]

    @property
    def rank_in(self) -> int:
        """Dimension r1 of the shared input subspace U."""
        return self.rank if isinstance(self.rank, int) else self.rank[0]

    @property
    def rank_out(self) -> int:
        """Dimension r2 of the shared output subspace V."""
        return min(self.rank, self.dim_out) if isinstance(self.rank, int) else self.rank[1]

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples of each user; InputError for more users than can be listed."""
        if self.num_users > MOST_LISTED:
            raise InputError(f"counts of {self.num_users} users cannot be listed; take at most {MOST_LISTED}.")
        each, rounds, rest = self._dealt
        return each * rounds + each[:rest]

    @property
    def users_by_count(self) -> Counter[int]:
        """How many users have how many samples: what sums over any number of users need."""
        each, rounds, rest = self._dealt
        return Counter({n: rounds * times for n, times in Counter(each).items()}) + Counter(each[:rest])

    @property
    def _dealt(self) -> tuple[tuple[int, ...], int, int]:
        each = (self.num_samples,) if isinstance(self.num_samples, int) else self.num_samples
        return each, *divmod(self.num_users, len(each))

    @property
    def num_features(self) -> int:
        """Unknowns of one least-squares regression: dim_in, or dim_in·dim_out for sensing."""
        return self.dim_in if self.design == "regression" else self.dim_in * self.dim_out

    @property
    def core_unknowns(self) -> int:
        """Samples that a user needs for its own core: rank_in, or rank_in·rank_out for sensing."""
        return self.rank_in * (1 if self.design == "regression" else self.rank_out)

    @property
    def num_observations(self) -> int:
        """Scalar responses of all users together."""
        return sum(self.counts) * (self.dim_out if self.design == "regression" else 1)

    @property
    def degrees_of_freedom(self) -> int:
        """Free parameters of the shared model: r1(d − r1) + r2(p − r2) + k r1 r2."""
        r1, r2 = self.rank_in, self.rank_out
        return r1 * (self.dim_in - r1) + r2 * (self.dim_out - r2) + self.num_users * r1 * r2

    @property
    def homogeneous(self) -> bool:
        """Whether every weight is exactly in the shared model. What the fields come to counts: a share of outliers
        that rounds to no user is none, nor does a subspace tilt without a signal in it."""
        tilted = self.similarity_angle and self.signal_norm
        return not (tilted or self.deviation_norm or self.num_outliers or self.intercept_std)

    @property
    def num_outliers(self) -> int:
        """Users that are outliers: outlier_fraction · num_users, rounded."""
        return round(self.outlier_fraction * self.num_users)

    def replace(self, **changes: Any) -> Problem:
        """Return the problem with some fields changed (validated again)."""
        for name in changes:
            if name not in _DEFAULTS:
                raise InputError(f"unknown problem field {name!r}; {nearest(name, _DEFAULTS)}")
        if "covariates" in changes and "covariate_parameter" not in changes:
            changes["covariate_parameter"] = None
        return dataclasses.replace(self, **changes)

    def content(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults: what seeds are derived from.

        A field that a later version adds leaves this, and so every old random stream, unchanged.
        """
        return {name: value for name, value in vars(self).items() if value != _DEFAULTS[name]}


#: Every field and its default; MISSING, which equals nothing else, where there is none.
_DEFAULTS: Final = {field.name: field.default for field in dataclasses.fields(Problem)}


def covariance_factor(problem: Problem) -> NDArray[np.float64] | None:
    """Return L with Cov(x) = LᵀL, shape (dim_in, dim_in); None when the covariance is the identity."""
    law = problem.covariate_law
    return None if law.factor is None else law.factor(problem.dim_in, problem.covariate_parameter or 0.0)


def _counts(value: Any, num_users: int) -> int | tuple[int, ...]:
    if not isinstance(value, int | str) and isinstance(value, Sequence):  # the ordinary types first
        counts = tuple(check_integer("num_samples", n, 0) for n in value)
        if not 1 <= len(counts) <= num_users:
            raise InputError(
                f"num_samples must be one integer, or 1 to num_users = {num_users} of them, got {len(counts)}."
            )
        return counts[0] if len(set(counts)) == 1 else counts
    return check_integer("num_samples", value, 0)
