"""Named classes found without a list: one registry for estimators, one for guarantees."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeVar

from colora_theory.errors import InputError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects by name: those of every module of `package`, and those of installed plugins.

    A module registers by decorating its class; the modules are imported on the first question, so that
    `import colora_theory` stays cheap. A plugin names its module under the entry point group `package`
    (for example `[project.entry-points."colora_theory.guarantees"]`), which registers when it is imported.
    """

    def __init__(self, package: str, noun: str) -> None:
        self._package, self._noun = package, noun
        self._items: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str, item: T) -> None:
        """Add `item`; a second one of the same name is refused."""
        if name in self._items and self._items[name] is not item:
            raise InputError(f"the {self._noun} name {name!r} is taken already; choose another name.")
        self._items[name] = item

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # set first: modules ask for names while they are imported
        for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        for plugin in entry_points(group=self._package):
            try:
                plugin.load()
            except Exception as error:
                self._loaded = False
                raise InputError(
                    f"the plugin {plugin.name!r} cannot be loaded ({type(error).__name__}: "
                    f"{' '.join(str(error).split())}); mend or uninstall it."
                ) from error

    def names(self) -> list[str]:
        """Return all registered names in alphabetical order."""
        self._load()
        return sorted(self._items)

    def get(self, name: str) -> T:
        """Return the object registered as `name`; raise InputError with the nearest name otherwise."""
        self._load()
        if not isinstance(name, str) or name not in self._items:
            raise InputError(f"unknown {self._noun} {name!r}; {nearest(str(name), self._items)}")
        return self._items[name]

    def all(self) -> list[T]:
        """Return all registered objects, ordered by name."""
        return [self._items[name] for name in self.names()]


def load_file(path: Path) -> None:
    """Run a Python file, whose decorators register what it defines; workers get its classes by value.

    Raises InputError for a file that cannot be read or run.
    """
    from cloudpickle import register_pickle_by_value

    if not path.is_file():
        raise InputError(f"--plugin must be a Python file, got {path}.")
    name = f"colora_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"--plugin must be a Python file (.py), got {path}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        text = " ".join(str(error).split())[:300]
        raise InputError(f"the plugin {path} cannot be loaded ({type(error).__name__}: {text}).") from error
    register_pickle_by_value(module)
