"""pytest plugin: the fixture `colora` and the option --colora-trials."""

from __future__ import annotations

from types import ModuleType

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --colora-trials."""
    parser.getgroup("colora_theory").addoption(
        "--colora-trials",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="multiply the number of trials of every colora_theory assertion (0.1: quick, 10: thorough)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a factor that is not positive; set it before the first test, whichever that is."""
    factor = float(config.getoption("--colora-trials"))
    if not 0 < factor < float("inf"):
        raise pytest.UsageError("--colora-trials must be a positive factor, such as 0.1 or 10.")
    if factor != 1.0:  # otherwise nothing heavy is imported into test suites that do not ask for it
        from colora_theory import testing

        testing.trial_factor = factor


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave the factor as it was for whatever else runs in this process."""
    if float(config.getoption("--colora-trials")) != 1.0:
        from colora_theory import testing

        testing.trial_factor = 1.0


@pytest.fixture
def colora() -> ModuleType:
    """The module `colora_theory.testing`, its trials scaled by --colora-trials."""
    from colora_theory import testing

    return testing
