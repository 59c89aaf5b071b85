"""How far a run is: a bar on a terminal, one line every 30 s elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from typing import Final

from colora_theory.results.text import duration

LINE_SECONDS: Final = 30.0


class Progress:
    """Counts finished trials and tells about it on stderr."""

    def __init__(self, total: int, *, quiet: bool = False, seconds: float = LINE_SECONDS) -> None:
        self._total, self._done, self._failed = total, 0, 0
        self._start = self._told = time.monotonic()
        self._seconds, self._quiet = seconds, quiet
        self._bar = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="trial", smoothing=0.1, dynamic_ncols=True)

    def update(self, left: int, failed: int) -> None:
        """Report that `left` trials are still to do, and `failed` more rows are failures."""
        done = max(self._done, self._total - left)
        news, self._done = done - self._done, done
        self._failed += failed
        if self._bar is not None:
            if self._failed:
                self._bar.set_postfix_str(f"{self._failed} failed", refresh=False)
            self._bar.update(news)
        elif not self._quiet and time.monotonic() - self._told >= self._seconds:
            self._told = time.monotonic()
            rate = self._done / (self._told - self._start)
            rest = duration(left / rate) if rate else "unknown"
            self.say(f"{self._done} of {self._total} trials, {rate:.1f} per s, {self._failed} failed, {rest} left")

    def say(self, text: str) -> None:
        """Print a line beside the bar."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.close()
