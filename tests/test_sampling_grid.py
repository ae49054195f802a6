"""The grid of timesteps against diffusers' schedulers, and the noise that sampling starts from."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ldmsid_core.errors import ConfigError
from ldmsid_core.hosts.sampling import sample_latent
from ldmsid_core.hosts.schedule import make_scheduler
from ldmsid_core.sampling_grid import (
    DEFAULT_STEPS,
    check_start,
    check_steps,
    initial_noise,
    trailing_timesteps,
)

COUNTS = [*range(1, 101), 128, 150, 199, 250, 333, 400, 499, 500, 501, 667, 750, 800, 999, 1000]


@pytest.mark.parametrize("sampler", ["dpmpp-2m", "unipc", "ddim"])
def test_grid_is_diffusers_trailing_one(sampler: str) -> None:
    scheduler = make_scheduler(sampler)
    for steps in COUNTS:
        scheduler.set_timesteps(steps)
        # For some counts, 61 the first, np.arange's rounding gives diffusers one entry more: -1.
        wanted = [t for t in scheduler.timesteps.tolist() if t >= 0]
        assert trailing_timesteps(steps) == wanted, steps


def sample_with_a_perfect_network(
    sampler: str, steps: int, target: torch.Tensor
) -> tuple[torch.Tensor, list[int]]:
    """The latent found, and the timesteps at which the network was asked."""
    alphas = make_scheduler("ddim").alphas_cumprod
    asked: list[int] = []

    def predict(latent: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        asked.append(int(timestep[0]))
        alpha = alphas[int(timestep[0])]
        return (latent - alpha.sqrt() * target) / (1.0 - alpha).sqrt()

    found = sample_latent(predict, initial_noise((1, 4, 8, 8), 1), steps=steps, sampler=sampler)
    return found, asked


@pytest.mark.parametrize("sampler", ["dpmpp-2m", "unipc", "ddim"])
@pytest.mark.parametrize(
    "steps",
    [
        5,
        DEFAULT_STEPS,
        61,
    ],
)
def test_sampling_asks_the_network_at_the_grid_alone(sampler: str, steps: int) -> None:
    _, asked = sample_with_a_perfect_network(sampler, steps, torch.zeros(1, 4, 8, 8))
    assert asked == trailing_timesteps(steps)


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [
        (sampler, steps)
        for sampler in ("dpmpp-2m", "unipc", "ddim")
        for steps in (5, 6, 7, DEFAULT_STEPS, 61)
    ],
)
def test_no_noise_is_left_at_the_end(sampler: str, steps: int) -> None:
    target = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    found, _ = sample_with_a_perfect_network(sampler, steps, target)
    # float32 through a few steps; noise of the first timestep alone would be 0.03 and more.
    assert torch.allclose(found, target, atol=1e-4)


def test_grid_starts_at_pure_noise_and_falls() -> None:
    for steps in range(1, 1001):
        grid = trailing_timesteps(steps)
        assert len(grid) == steps
        assert grid[0] == 999 and grid[-1] >= 0
        assert all(later < earlier for earlier, later in pairwise(grid)), steps


def test_grids_worked_out_by_hand() -> None:
    assert trailing_timesteps(1) == [999]
    assert trailing_timesteps(4) == [999, 749, 499, 249]
    assert trailing_timesteps(3) == [999, 666, 332]
    assert trailing_timesteps(1000) == list(range(999, -1, -1))
    assert len(trailing_timesteps(DEFAULT_STEPS)) == DEFAULT_STEPS


def test_later_starts_worked_out_by_hand() -> None:
    assert trailing_timesteps(3, start=0.6) == [599, 399, 199]
    assert trailing_timesteps(1, start=0.25) == [249]
    assert trailing_timesteps(4, start=0.1) == [99, 74, 49, 24]
    assert trailing_timesteps(5, start=0.005) == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("start", [0.001, 0.05, 0.3, 1 / 3, 0.6, 0.999, 1.0])
def test_a_later_start_is_a_shorter_grid_of_the_same_kind(start: float) -> None:
    top = 1000 * start
    for steps in range(1, int(top) + 1):
        grid = trailing_timesteps(steps, start=start)
        assert len(grid) == steps and grid[0] == round(top) - 1
        assert all(later < earlier for earlier, later in pairwise((*grid, -1))), steps
        # The last step is as long as the others, within rounding.
        assert abs(grid[-1] + 1 - top / steps) <= 0.5 + 1e-6
    assert trailing_timesteps(int(top)) == trailing_timesteps(int(top), start=1.0)


@pytest.mark.parametrize("start", [0.0, -0.5, 1.001, float("nan")])
def test_starts_out_of_range_are_refused(start: float) -> None:
    for check in (check_start, lambda value: trailing_timesteps(1, start=value)):
        with pytest.raises(ConfigError, match=f"above 0 and at most 1, found {start}"):
            check(start)
    assert check_start(1.0) == 1.0 and check_start(0.001) == 0.001


def test_more_steps_than_timesteps_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"at most 100 sampling steps from start 0\.1, found 101"):
        trailing_timesteps(101, start=0.1)


@pytest.mark.parametrize("steps", [-1, 0, 1001])
def test_step_counts_out_of_range_are_refused(steps: int) -> None:
    for check in (check_steps, trailing_timesteps):
        with pytest.raises(ConfigError, match=f"1 to 1000 sampling steps, found {steps}"):
            check(steps)


@pytest.mark.parametrize("steps", [1, 1000])
def test_step_counts_at_the_ends_pass(steps: int) -> None:
    assert check_steps(steps) == steps


def test_noise_is_that_of_the_seed_whatever_was_drawn_before() -> None:
    shape = (2, 4, 24, 16)
    first = initial_noise(shape, 7)
    with torch.random.fork_rng(devices=[]):
        # The way ComfyUI draws the noise of a seed.
        torch.manual_seed(7)
        wanted = torch.randn(shape)
        assert torch.equal(initial_noise(shape, 7), wanted)
    assert torch.equal(first, wanted)
    assert first.dtype == torch.float32 and first.device.type == "cpu"
    assert not torch.equal(first, initial_noise(shape, 8))
    assert not torch.equal(first[0], first[1])


def test_noise_is_standard_normal() -> None:
    noise = initial_noise((1, 4, 100, 100), 0)
    # 40 000 draws: mean and deviation are known to 0.005; five times that.
    assert abs(float(noise.mean())) < 0.025
    assert abs(float(noise.std()) - 1.0) < 0.025
