"""A verdict: whether a claim holds, with the numbers that say so."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

STATUSES: Final = ("holds", "violated", "inconclusive", "vacuous", "not applicable")
#: Level of the family of all tests of a study, where the study sets none.
ALPHA: Final = 0.01


@dataclass(frozen=True)
class Verdict:
    """One verdict, for one cell or (cell "") for all cells together.

    tightness is claim/observed for upper bounds and predictions, observed/claim for lower ones: 1 is tight.
    form is what was tested: "always", "share", "mean" (see `Requirement`), or "rate"; "" where nothing was.
    interval bounds the observed mean, the share of violations or the slope. p_value is before Holm's method,
    adjusted after it.
    """

    guarantee: str
    status: str
    kind: str = ""
    standing: str = ""
    side: str = ""
    metric: str = ""
    estimator: str = ""
    cell: str = ""
    where: str = "overall"
    form: str = ""
    trials: int = 0
    failures: int = 0
    undefined: int = 0
    violations: int = 0
    observed: float = math.nan
    claimed: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    tightness: float = math.nan
    p_value: float | None = None
    adjusted: float | None = None
    alpha: float = ALPHA
    family: int = 1
    worst: int | None = None
    reason: str = ""
    source: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        raise TypeError("a verdict has five values; compare verdict.status with 'holds' or 'violated'.")

    @property
    def broken_in(self) -> int | None:
        """In how many trials the claim was broken; None for a claim that single trials cannot break."""
        return self.violations if self.kind == "certificate" or self.form in ("always", "share") else None

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as plain values (numbers that are not finite become None)."""
        out: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, tuple):
                out[name] = [x if math.isfinite(x) else None for x in value]
            else:
                out[name] = None if isinstance(value, float) and not math.isfinite(value) else value
        return out

    def __str__(self) -> str:
        who = ", ".join(text for text in (self.estimator, self.where) if text)
        parts = [self.reason]
        if self.trials:
            parts.append(f"{self.trials} trials, {self.failures} failed")
        if self.undefined:
            parts.append(f"{self.undefined} trials without a claim")
        if math.isfinite(self.tightness):
            parts.append(f"tightness {self.tightness:.3g}")
        if self.adjusted is not None and self.p_value is not None:
            parts.append(
                f"p = {self.p_value:.2g}, Holm over {self.family} tests {self.adjusted:.2g}, level {self.alpha:g}"
            )
        return f"{self.guarantee} [{who}]: {self.status} – {'; '.join(p for p in parts if p)}"
