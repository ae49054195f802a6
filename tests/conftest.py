"""Fixtures that several test files share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _global_random_state_is_untouched() -> object:
    """No function of the package may draw from or seed torch's global generator."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state())
