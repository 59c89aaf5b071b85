"""The command line, one file per command; each calls one function of the package, imported when it is needed."""

from __future__ import annotations

import gc
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path

import click

from colora_theory.console import Commands


class OneFileEach(Commands):
    """Commands are the modules of this package whose names do not begin with an underscore."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
        command: click.Command = module.command
        command.name = name
        return command


@click.group(cls=OneFileEach, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="colora_theory")
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Python file with estimators or guarantees of your own; its code is run.",
)
def main(plugins: Sequence[Path]) -> None:
    """A theory lab for collaborative low-rank adaptation.

    Exit codes: 0 done; 1 a verdict is violated, or a trial is not reproduced; 2 refused: usage, study or files;
    3 finished with more failed trials than allowed; 4 an unexpected error, which is a defect; 130 interrupted (the
    same command resumes).
    """
    # A command keeps most of what it reads: looking for cycles in it again and again takes a fifth of its time.
    gc.set_threshold(100_000, 20, 20)
    for path in plugins:
        from colora_theory.registry import load_file

        load_file(path)
