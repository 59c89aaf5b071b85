"""pytest plugin: the fixture `colora` and the option --colora-trials."""

from __future__ import annotations

from collections.abc import Iterator
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
    """Refuse a factor that is not positive."""
    if not config.getoption("--colora-trials") > 0:
        raise pytest.UsageError("--colora-trials must be a positive factor, such as 0.1 or 10.")


@pytest.fixture(scope="session")
def _colora_scaled(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    from colora_theory import testing

    before = testing.trial_factor
    testing.trial_factor = float(request.config.getoption("--colora-trials"))
    yield testing
    testing.trial_factor = before


@pytest.fixture
def colora(_colora_scaled: ModuleType) -> ModuleType:
    """The module `colora_theory.testing`, its trials scaled by --colora-trials."""
    return _colora_scaled
