"""How a command ends: exit codes, one sentence for whatever goes wrong, and signals."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import sys
from typing import Any, Final, NoReturn

import click

from colora_theory.errors import EngineError, InputError

DONE: Final = 0
VIOLATED: Final = 1
REFUSED: Final = 2
TOO_MANY_FAILURES: Final = 3
UNEXPECTED: Final = 4
INTERRUPTED: Final = 130


class Commands(click.Group):
    """Turns what can go wrong into one sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):  # a console that cannot show a sign shows its number
            if isinstance(stream, io.TextIOWrapper) and (stream.encoding or "").lower().replace("-", "") != "utf8":
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except (InputError, EngineError) as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(REFUSED)
        except BrokenPipeError:
            raise  # `… | head`: click ends quietly
        except (sqlite3.Error, OSError) as error:
            click.echo(f"Error: {error}; what is stored is kept, the same command resumes.", err=True)
            ctx.exit(REFUSED)
        except KeyboardInterrupt:
            click.echo("interrupted; everything finished so far is stored, the same command resumes.", err=True)
            ctx.exit(INTERRUPTED)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except Exception as error:
            if os.environ.get("COLORA_THEORY_TRACEBACK"):
                raise
            text = " ".join(str(error).split())[:500]
            click.echo(
                f"Error: unexpected {type(error).__name__}: {text}. This is a defect of colora_theory; what is "
                "stored is kept. COLORA_THEORY_TRACEBACK=1 shows where it happened.",
                err=True,
            )
            ctx.exit(UNEXPECTED)


def end_on_signals() -> None:
    """Let Ctrl-C and a batch system's SIGTERM end the program, also where a shell started it in the background."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)


def _interrupt(signum: int, frame: Any) -> NoReturn:
    """Ctrl-C, or a batch system's SIGTERM: end once, and let nothing interrupt the ending."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
