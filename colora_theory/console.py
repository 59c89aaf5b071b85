"""How a command speaks and ends: progress, exit codes, one sentence for whatever goes wrong, and signals."""

from __future__ import annotations

import io
import logging
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import click

from colora_theory.errors import EngineError, InputError

DONE: Final = 0
VIOLATED: Final = 1
REFUSED: Final = 2
TOO_MANY_FAILURES: Final = 3
UNEXPECTED: Final = 4
INTERRUPTED: Final = 130

#: Seconds after which a computation tells how far it is, and between two lines where nothing can be overwritten.
PATIENCE: Final = 2.0
LINE_SECONDS: Final = 30.0


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


class _Progress(logging.Handler):
    """Shows the last message on one line of the terminal; elsewhere a line every `LINE_SECONDS`."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.due = time.monotonic() + PATIENCE
        self.shown = False

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message, unless it comes too early."""
        now = time.monotonic()
        if now < self.due:
            return
        if sys.stderr.isatty():
            print(f"\r\x1b[K{record.getMessage()}", end="", file=sys.stderr, flush=True)
            self.shown = True
        else:
            print(record.getMessage(), file=sys.stderr, flush=True)
            self.due = now + LINE_SECONDS

    def clear(self) -> None:
        """Leave a clean line."""
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def progress_shown() -> Iterator[None]:
    """Show on stderr what the package says (logger "colora_theory", level INFO) about a long computation."""
    logger, handler = logging.getLogger("colora_theory"), _Progress()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.clear()


def end_on_signals() -> None:
    """Let Ctrl-C and a batch system's SIGTERM end the program, also where a shell started it in the background."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)


def _interrupt(signum: int, frame: Any) -> NoReturn:
    """Ctrl-C, or a batch system's SIGTERM: end once, and let nothing interrupt the ending."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
