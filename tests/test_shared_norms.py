"""Norms of tiles with the statistics of a frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldmsid_core.hosts.sampling import sample_latent
from ldmsid_core.hosts.stand_in import StandIn
from ldmsid_core.hosts.tiled_sampling import tiled_prediction
from ldmsid_core.shared_norms import SharedNorms
from ldmsid_core.tiling import Tile, merge_tiles, plan_tiles


class Pointwise(nn.Module):
    """Knows no neighbours but by its norms, of which one is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 1)
        self.first, self.second = nn.GroupNorm(4, 16, eps=1e-5), nn.GroupNorm(16, 16, eps=1e-2)
        self.idle = nn.GroupNorm(2, 4)
        for norm in (self.first, self.second):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sin(self.first(self.into(x)))
        found: Tensor = self.out(self.second(y.flatten(2)).reshape(y.shape))
        return found


@pytest.fixture
def net() -> Pointwise:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Pointwise().requires_grad_(requires_grad=False)


def frame(rows: int, *, seed: int = 0) -> Tensor:
    """A picture whose brightness and contrast change from one side to the other."""
    slope = torch.linspace(-1.0, 4.0, 40).expand(rows, 4, 24, 40)
    noise = torch.randn(rows, 4, 24, 40, generator=torch.Generator().manual_seed(seed))
    return slope + noise * (1.0 + slope.abs()) * torch.arange(1, rows + 1).reshape(-1, 1, 1, 1)


def in_tiles(net: nn.Module, x: Tensor, *, batch: int) -> Tensor:
    layout = plan_tiles(24, 40, tile=16, overlap=4, batch=batch)

    def compute(tiles: tuple[Tile, ...]) -> Tensor:
        found: Tensor = net(torch.cat([tile.cut(x) for tile in tiles]))
        return found

    return merge_tiles(layout, compute)


def measured(net: nn.Module, *frames: Tensor) -> SharedNorms:
    norms = SharedNorms(net)
    for timestep, x in enumerate(frames):
        with norms.measured(timestep):
            net(x)
    return norms


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_tiles_get_what_the_frame_gets(net: Pointwise, rows: int, batch: int) -> None:
    x = frame(rows)
    whole = net(x)
    norms = SharedNorms(net)
    with norms.measured(0):
        torch.testing.assert_close(net(x), whole, atol=1e-5, rtol=1e-5)
    with norms.applied(0):
        found = in_tiles(net, x, batch=batch)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
    assert (in_tiles(net, x, batch=batch) - whole).abs().max() > 0.3, "norms made no difference"


def test_every_timestep_has_its_own(net: Pointwise) -> None:
    frames = [frame(1, seed=seed) * (seed + 1) for seed in range(3)]
    norms = measured(net, *frames)
    for timestep, x in enumerate(frames):
        with norms.applied(timestep):
            torch.testing.assert_close(net(x), net_alone(net, x), atol=1e-5, rtol=1e-5)
    # Samplers that choose their own timesteps get the nearest.
    for timestep, place in ((7.5, 2), (1.4, 1), (-3.0, 0)):
        with norms.applied(timestep):
            wanted = net_alone(net, frames[place])
            torch.testing.assert_close(net(frames[place]), wanted, atol=1e-5, rtol=1e-5)
    with norms.applied(0):
        assert (net(frames[2]) - net_alone(net, frames[2])).abs().max() > 0.1


def net_alone(net: Pointwise, x: Tensor) -> Tensor:
    """A copy of the network with the same weights, never touched."""
    with torch.random.fork_rng(devices=[]):
        copy = Pointwise()
    copy.load_state_dict(net.state_dict())
    with torch.no_grad():
        return copy(x)


def test_half_precision_stays_close(net: Pointwise) -> None:
    x = frame(2)
    whole = net(x)
    half = net.bfloat16()
    norms = measured(half, x.bfloat16())
    with norms.applied(0):
        found = in_tiles(half, x.bfloat16(), batch=2)
    assert (found - whole).square().mean().sqrt() < 0.02 * whole.square().mean().sqrt()


def test_modules_are_left_as_they_were(net: Pointwise) -> None:
    def own(x: Tensor) -> Tensor:
        return nn.GroupNorm.forward(net.second, x)

    vars(net.second)["forward"] = own
    norms = measured(net, frame(1))
    places: tuple[Callable[[float], Any], ...] = (norms.measured, norms.applied)
    for place in places:
        with pytest.raises(KeyboardInterrupt), place(0):
            assert "forward" in vars(net.first) and vars(net.second)["forward"] is not own
            raise KeyboardInterrupt
        assert "forward" not in vars(net.first) and vars(net.second)["forward"] is own
    # What was cut short does not count.
    with norms.applied(1):
        torch.testing.assert_close(net(frame(1)), net_alone(net, frame(1)), atol=1e-5, rtol=1e-5)


def test_a_norm_that_the_stand_in_did_not_use_is_left_alone(net: Pointwise) -> None:
    norms = measured(net, frame(1))
    x = frame(1)
    with norms.applied(0):
        assert torch.equal(net.idle(x), nn.GroupNorm.forward(net.idle, x))


def test_tiles_of_a_sampling_loop_get_those_of_their_timestep(net: Pointwise) -> None:
    noise = torch.randn(1, 4, 24, 40, generator=torch.Generator().manual_seed(0)) * frame(1).abs()
    layout = plan_tiles(24, 40, tile=16, overlap=4)
    norms, empty = SharedNorms(net), torch.zeros(1)
    whole = sample_latent(lambda x, _: net(x), noise, steps=4, around=norms.measured)
    tiled = tiled_prediction(lambda x, *_: net(x), layout)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return tiled(x, t, empty[None, None], x)

    found = sample_latent(predict, noise, steps=4, around=norms.applied)
    # As where tiles are pointwise: rounding grows some 15 times from timestep 999.
    torch.testing.assert_close(found, whole, atol=2e-4, rtol=1e-4)
    apart = sample_latent(predict, noise, steps=4)
    assert (apart - whole).abs().max() > 0.1


def test_a_graph_serves_frames_of_one_batch_alone(net: Pointwise) -> None:
    stand_in = StandIn(lambda x, *_: net(x), net)
    stand_in.begin(1)
    norms, predict = stand_in.norms, stand_in.predict
    with norms.measured(0):
        net(frame(1))
    stand_in.begin(1)
    assert stand_in.norms is norms and stand_in.predict is predict
    with pytest.raises(ValueError, match="empty"), norms.applied(0):
        pytest.fail("the frame before was not forgotten")
    stand_in.begin(2)
    assert stand_in.norms is not norms and stand_in.predict is not predict
