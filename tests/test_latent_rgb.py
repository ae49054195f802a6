"""The linear map from latents to preview colours: its fit, and the embedded model's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ldmsid_core.hosts.host import Host, load_host
from ldmsid_core.model_files import EMBEDDED
from ldmsid_core.training.latent_rgb import fit_latent_rgb

KNOWN = [
    [0.51, -0.12, 0.03],
    [0.11, 0.45, -0.15],
    [-0.06, 0.09, 0.46],
    [0.0, 0.25, -0.5],
    [-0.07, 0.13, 0.2],
]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shown(latents: Tensor, rows: list[list[float]]) -> Tensor:
    """Model range, by a plain sum over the latent's channels."""
    table = torch.tensor(rows, dtype=latents.dtype)
    planes = [
        sum(latents[:, c] * table[c, colour] for c in range(4)) + table[4, colour]
        for colour in range(3)
    ]
    return torch.stack(planes, dim=1)  # type: ignore[arg-type]


def test_a_known_map_is_recovered() -> None:
    latents = draw(3, 4, 5, 6, seed=0)
    images = (shown(latents, KNOWN) + 1.0) / 2.0
    images = images.repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2)
    # Texture inside a latent's pixel, without a mean: the map is of averages.
    images[:, :, 0::2] += 0.2
    images[:, :, 1::2] -= 0.2
    # The fit is in float64 and rounded to six places, so these two-place numbers come back as such.
    assert fit_latent_rgb(latents, images) == KNOWN


def test_noisy_pictures_get_the_least_squares_map() -> None:
    latents, images = draw(2, 4, 6, 4, seed=1), draw(2, 3, 48, 32, seed=2)
    inputs = latents.numpy().transpose(0, 2, 3, 1).reshape(-1, 4)
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    blocks = images.numpy().reshape(2, 3, 6, 8, 4, 8).mean(axis=(3, 5)) * 2.0 - 1.0
    targets = blocks.transpose(0, 2, 3, 1).reshape(-1, 3)
    wanted = np.linalg.solve(inputs.T @ inputs, inputs.T @ targets)
    # Six places are kept.
    np.testing.assert_allclose(fit_latent_rgb(latents, images), wanted, atol=1e-6)


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host(EMBEDDED.host)


def preview(host: Host, image: Tensor) -> Tensor:
    """What the header's map shows for a picture, unit range."""
    assert host.header.latent_rgb is not None
    with torch.no_grad():
        latent = host.vae.encode(image * 2.0 - 1.0).latent_dist.mean * host.header.latent_scale
    return (shown(latent, host.header.latent_rgb) + 1.0) / 2.0


def plain(colour: tuple[float, float, float], side: int = 64) -> Tensor:
    return torch.tensor(colour)[None, :, None, None].expand(1, 3, side, side).clone()


@pytest.mark.parametrize(
    "colour",
    [
        (0.25, 0.25, 0.25), (0.5, 0.5, 0.5), (0.75, 0.75, 0.75), (0.8, 0.2, 0.2), (0.2, 0.7, 0.2),
        (0.2, 0.2, 0.8), (0.6, 0.4, 0.2),
    ],
)  # fmt: skip
def test_the_embedded_models_latents_show_their_colours(
    host: Host, colour: tuple[float, float, float]
) -> None:
    found = preview(host, plain(colour))
    assert found.shape == (1, 3, 8, 8)
    # A linear map of a network that is none: 0.12 at most was measured; two channels swapped, or
    # the scale left out, would be off by far more.
    assert torch.allclose(found, plain(colour, 8), atol=0.18)
    assert torch.allclose(found.mean(dim=(0, 2, 3)), torch.tensor(colour), atol=0.15)


def test_the_preview_has_the_pictures_places(host: Host) -> None:
    image = plain((0.2, 0.2, 0.8))
    image[:, :, :32, 32:] = plain((0.8, 0.2, 0.2), 32)
    found = preview(host, image)
    redder = found[:, 0] > found[:, 2]
    assert redder[:, :3, 5:].all()
    assert not redder[:, :, :3].any() and not redder[:, 5:].any()
