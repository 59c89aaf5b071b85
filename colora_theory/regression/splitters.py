"""Cross-validation for many users: rows held out within users, and users held out but for a few rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from colora_theory.errors import InputError
from colora_theory.model.checks import check_integer
from colora_theory.regression.labels import labels_of, numbered

if TYPE_CHECKING:

    class GroupsConsumerMixin:
        """What scikit-learn's routing needs to know: the splitter takes groups."""

else:
    try:
        from sklearn.model_selection._split import GroupsConsumerMixin
    except ImportError:

        class GroupsConsumerMixin:
            """Stands in for scikit-learn's class where that is not installed."""


class _Splitter(GroupsConsumerMixin):
    n_splits: int

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Number of folds."""
        return self.n_splits

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"


class WithinUserSplit(_Splitter):
    """Folds of rows within every user: each fold holds out about one n_splits-th of every user's rows.

    The estimate of how well known users' new rows are predicted. Users of one row are always learned from, since
    a user whose only row is held out is a user never seen.

    Parameters
    ----------
    n_splits : folds, ≥ 2. random_state : seed of the order in which a user's rows are dealt.

    >>> [test.tolist() for _, test in WithinUserSplit(2).split(np.zeros((5, 1)), groups=list("aabbc"))]
    [[0, 2], [1, 3]]
    """

    def __init__(self, n_splits: int = 5, *, random_state: int = 0) -> None:
        self.n_splits = check_integer("n_splits", n_splits, 2)
        self.random_state = check_integer("random_state", random_state, 0)

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Row numbers to learn from and to test, fold by fold. Raises InputError without groups."""
        which = _users(X, groups)
        rng = np.random.default_rng(self.random_state)
        order = rng.permutation(len(which))
        order = order[np.argsort(which[order], kind="stable")]
        counts = np.bincount(which)
        fold = np.empty(len(which), dtype=np.int64)
        # dealt in turn, on from where the user before ended: folds are of one size
        fold[order] = np.arange(len(which)) % self.n_splits
        fold[counts[which] == 1] = -1
        for i in range(self.n_splits):
            yield np.flatnonzero(fold != i), np.flatnonzero(fold == i)


class UserShotsSplit(_Splitter):
    """Folds of users: a fold's users are held out but for `shots` rows each; their other rows are the test.

    The estimate of how well new users are predicted after a few rows; shots=0: before any row.
    Users of no more than `shots` rows have none left to test, and are learned from in their fold.

    Parameters
    ----------
    n_splits : folds, ≥ 2 and at most the number of users. shots : rows of a held-out user to learn from, ≥ 0.
    random_state : seed of the choice of users and rows.
    """

    def __init__(self, n_splits: int = 5, *, shots: int = 4, random_state: int = 0) -> None:
        self.n_splits = check_integer("n_splits", n_splits, 2)
        self.shots = check_integer("shots", shots, 0)
        self.random_state = check_integer("random_state", random_state, 0)

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Row numbers to learn from and to test, fold by fold. Raises InputError without groups."""
        which = _users(X, groups)
        users = int(which.max()) + 1
        if users < self.n_splits:
            raise InputError(f"n_splits must be at most the number of users {users}, got {self.n_splits}.")
        rng = np.random.default_rng(self.random_state)
        fold = rng.permutation(users) % self.n_splits
        order = rng.permutation(len(which))
        order = order[np.argsort(which[order], kind="stable")]
        counts = np.bincount(which)
        starts = np.cumsum(counts) - counts
        turn = np.empty(len(which), dtype=np.int64)
        turn[order] = np.arange(len(which)) - starts[which[order]]
        for i in range(self.n_splits):
            test = (fold[which] == i) & (turn >= self.shots)
            yield np.flatnonzero(~test), np.flatnonzero(test)


def _users(X: Any, groups: Any) -> NDArray[np.int64]:
    if groups is None:
        raise InputError("groups must be given to split: the user of every row.")
    try:
        rows = X.shape[0] if hasattr(X, "shape") else len(X)
    except (TypeError, IndexError):
        raise InputError(f"X must be a table with rows, got {type(X).__name__}.") from None
    if not rows:
        raise InputError("X must have rows to split, got none.")
    return numbered(labels_of("groups", groups, rows))[1]
