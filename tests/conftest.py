"""Fixtures that several test files share, and what a run says about its surroundings."""

from __future__ import annotations

import pytest
import torch
from helpers.browser import describe_frontends
from helpers.comfy_hosts import describe_hosts


def pytest_report_header() -> list[str]:
    """Which real hosts and frontends are used."""
    return [describe_hosts(), *describe_frontends()]


@pytest.fixture(autouse=True)
def _global_random_state_is_untouched() -> object:
    """No function of the package may draw from or seed torch's global generator."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state())
