"""Fixtures that several test files share, and what a run says about its surroundings."""

from __future__ import annotations

import pytest
import torch
from helpers.browser import pytest_report_header as describe_frontends
from helpers.comfy_hosts import describe_hosts


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Which real hosts and frontends are used."""
    frontends = describe_frontends(config)
    lines = [frontends] if isinstance(frontends, str) else list(frontends)
    return [describe_hosts(), *lines]


@pytest.fixture(autouse=True)
def _global_random_state_is_untouched() -> object:
    """No function of the package may draw from or seed torch's global generator."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state())
