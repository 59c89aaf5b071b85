"""Fitted regressors on disk: numbers as npz, everything else as JSON; nothing that is read is executed."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import os
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

import colora_theory
from colora_theory.errors import InputError
from colora_theory.estimators.marginal_likelihood import Hyper, RotatedRows
from colora_theory.model.arrays import read_npz
from colora_theory.model.linalg import Array
from colora_theory.regression.fitted import Fitted, Residuals
from colora_theory.regression.naming import About
from colora_theory.regression.prior import Component, Population
from colora_theory.regression.regressor import CoLoRARegressor
from colora_theory.regression.units import Units

SCHEMA: Final = 2
#: Schemas that can be read; before 2 there was no noise between outputs.
_READ: Final = (1, 2)
_JSON, _NPZ = "model.json", "model.npz"
_ARRAYS = ("coef", "intercept", "input_subspace", "output_subspace", "cores")
_UNITS = ("centre", "scale", "y_centre", "y_scale")


def save(model: CoLoRARegressor, folder: Path | str) -> Path:
    """Write a fitted regressor into a folder: model.json and model.npz.

    Raises InputError for labels other than numbers, text, truth values, dates and tuples of them, and for a folder
    that holds something else.
    """
    found, about = model._state()
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / _JSON).exists())):
        raise InputError(f"{folder} exists and holds no model, so nothing is written there; choose another one.")
    arrays = {name: getattr(found, name) for name in _ARRAYS}
    arrays |= {f"units.{name}": getattr(found.units, name) for name in _UNITS}
    parts = []
    if found.population is not None and found.rows is not None:
        population = found.population
        arrays["population.units"] = population.units
        for i, c in enumerate(population.components):
            arrays |= {f"{i}.factors": c.factors, f"{i}.chances": c.chances}
            for name in ("u", "v", "core", "own", "mean", "sigma2", "stretch"):
                arrays[f"{i}.{name}"] = getattr(c.hyper, name)
            parts.append({"share": c.share, "tau2": c.hyper.tau2, "columns": list(map(int, c.hyper.columns))})
        arrays |= {f"rows.{name}": getattr(found.rows, name) for name in ("x", "y", "squares", "rest", "counts")}
        optional = {"mean_covariance": population.mean_covariance, "noise": found.noise}
        optional |= {"between": found.between, "units.mixing": found.units.mixing}
        arrays |= {name: value for name, value in optional.items() if value is not None}
    if found.residuals is not None:
        arrays |= {f"residuals.{f.name}": getattr(found.residuals, f.name) for f in fields(Residuals)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    content = buffer.getvalue()
    text = {
        "schema": SCHEMA,
        "kind": "colora_theory regressor",
        "version": colora_theory.__version__,
        "sha256": hashlib.sha256(content).hexdigest(),
        "parameters": {name: _told(value) for name, value in model.get_params().items()},
        "users": [_told(user) for user in found.users],
        "features": [_told(name) for name in about.features],
        "names": None if about.names is None else list(about.names),
        "columns": about.columns,
        "outputs": None if about.outputs is None else [_told(name) for name in about.outputs],
        "rank": list(found.rank),
        "status": found.status,
        "history": {name: value for name, value in map(_plain, found.history.items()) if value is not None},
        "intercept": found.units.intercept,
        "population": None if found.population is None else {"size": found.population.size, "parts": parts},
        "freedom": found.freedom if np.isfinite(found.freedom) else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / _NPZ, content)
    _write(folder / _JSON, json.dumps(text, indent=1, ensure_ascii=False).encode())
    return folder


def load(folder: Path | str) -> CoLoRARegressor:
    """Read a regressor that `save` wrote; raises InputError for what is no model, a newer or a damaged one."""
    folder = Path(folder)
    try:
        text = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        content = (folder / _NPZ).read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} holds no model ({error.filename} is missing); fit one with -o {folder}."
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"the model in {folder} cannot be read ({error}); fit it again.") from None
    if not isinstance(text, dict) or text.get("kind") != "colora_theory regressor":
        raise InputError(f"{folder / _JSON} describes no regressor of colora_theory.")
    if text.get("schema") not in _READ:
        raise InputError(
            f"the model in {folder} has schema {text.get('schema')!r}, this version reads "
            f"{' and '.join(map(str, _READ))}; fit it again."
        )
    if hashlib.sha256(content).hexdigest() != text.get("sha256"):
        raise InputError(f"the model in {folder} is damaged: {_NPZ} is not what was written; restore a copy.")
    try:
        return _restored(text, read_npz(content))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"the model in {folder} is damaged ({type(error).__name__}: {error}); fit it again."
        ) from None


def _restored(text: dict[str, Any], arrays: dict[str, Array]) -> CoLoRARegressor:
    parts = {name: arrays[f"units.{name}"] for name in _UNITS}
    units = Units(**parts, intercept=text["intercept"], mixing=arrays.get("units.mixing"))
    population = rows = None
    if text["population"] is not None:
        components = []
        for i, part in enumerate(text["population"]["parts"]):
            names = ("u", "v", "core", "own", "mean", "sigma2", "stretch")
            hyper = Hyper(
                **{name: arrays[f"{i}.{name}"] for name in names},
                tau2=part["tau2"],
                columns=tuple(part["columns"]),
            )
            components.append(Component(part["share"], hyper, arrays[f"{i}.factors"], arrays[f"{i}.chances"]))
        population = Population(
            tuple(components),
            arrays["population.units"],
            text["population"]["size"],
            arrays.get("mean_covariance"),
        )
        data = {name: arrays[f"rows.{name}"] for name in ("x", "y", "squares", "rest", "counts")}
        rows = RotatedRows(**data, d=data["x"].shape[2], p=data["y"].shape[2])
    residuals = None
    if "residuals.std" in arrays:
        residuals = Residuals(**{f.name: arrays[f"residuals.{f.name}"] for f in fields(Residuals)})
    found = Fitted(
        users=[_heard(user) for user in text["users"]],
        **{name: arrays[name] for name in _ARRAYS},
        rank=(int(text["rank"][0]), int(text["rank"][1])),
        status=text["status"],
        history=_keys(text["history"]),
        units=units,
        population=population,
        rows=rows,
        noise=arrays.get("noise"),
        between=arrays.get("between"),
        freedom=np.inf if text["freedom"] is None else text["freedom"],
        residuals=residuals,
    )
    about = About(
        names=None if text["names"] is None else np.array(text["names"], dtype=object),
        features=[_heard(name) for name in text["features"]],
        columns=text["columns"],
        outputs=None if text["outputs"] is None else [_heard(name) for name in text["outputs"]],
    )
    if len(found.coef) != len(found.users) + found.has_population:
        raise ValueError("users and coefficients differ in number")
    model = CoLoRARegressor(**{name: _heard(value) for name, value in text["parameters"].items()})
    model._store(found, about)
    return model


def _told(value: Any) -> Any:
    """A label or parameter with its type, as JSON."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return ["int", str(int(value))]
    if isinstance(value, float):
        return ["float", value.hex()]
    if isinstance(value, pd.Timestamp | pd.Timedelta):
        return [type(value).__name__, value.isoformat()]
    if isinstance(value, datetime.datetime | datetime.date):
        return [type(value).__name__, value.isoformat()]
    if isinstance(value, tuple):
        return ["tuple", [_told(part) for part in value]]
    raise InputError(
        f"a label of type {type(value).__name__} cannot be saved, got {value!r}; use numbers, text or dates."
    )


def _heard(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "tuple":
        return tuple(_heard(part) for part in content)
    made: dict[str, Any] = {
        "int": int,
        "float": float.fromhex,
        "Timestamp": pd.Timestamp,
        "Timedelta": pd.Timedelta,
        "datetime": datetime.datetime.fromisoformat,
        "date": datetime.date.fromisoformat,
    }
    return made[kind](content)


def _plain(entry: tuple[str, Any]) -> tuple[str, Any]:
    """A recorded number as JSON; arrays are left out."""
    name, value = entry
    if isinstance(value, dict):
        return name, {str(key): float(each) for key, each in value.items()}
    return name, float(value) if isinstance(value, float | int | np.number) else None


def _keys(history: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {int(key): each for key, each in value.items()} if isinstance(value, dict) else value
        for name, value in history.items()
    }


def _write(path: Path, content: bytes) -> None:
    """Write beside, then rename: a file is whole or not there."""
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
