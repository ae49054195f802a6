"""Loss terms against independent implementations, by hand, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from torch import Tensor

from ldmsid_core.raw.simulate import srgb_to_linear
from ldmsid_core.training.losses import (
    LossConfig,
    ReconstructionLoss,
    colour_anchor,
    gmsd,
    gradient_l1,
    l1,
    multiscale_l1,
    ssim_distance,
    weight_free_perceptual,
)

TERMS = (l1, multiscale_l1, gradient_l1, ssim_distance, gmsd, weight_free_perceptual, colour_anchor)


def pictures(seed: int = 0, size: int = 64) -> tuple[Tensor, Tensor]:
    """A smooth picture and a noisy one, model range."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(2, 3, 8, 8, generator=generator) * 2.0 - 1.0
    smooth = torch.nn.functional.interpolate(small, size=(size, size), mode="bicubic").clamp(-1, 1)
    noise = torch.randn(smooth.shape, generator=generator)
    return (smooth + 0.1 * noise).clamp(-1, 1), smooth


@pytest.mark.parametrize("term", TERMS)
def test_equal_pictures_cost_nothing_and_other_ones_do(term: object) -> None:
    found, wanted = pictures()
    # GMSD adds 1e-8 under its root so that its slope is finite: 1e-4.
    assert float(term(wanted, wanted)) == pytest.approx(0.0, abs=1.1e-4)  # type: ignore[operator]
    assert float(term(found, wanted)) > 1e-3  # type: ignore[operator]


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("equal", [False, True])
def test_gradients_are_finite_and_lead_down(term: object, equal: bool) -> None:
    found, wanted = pictures()
    start = (wanted * 1.3 if equal else found).clone().requires_grad_()
    if equal:
        start = wanted.clone().requires_grad_()
    value = term(start, wanted)  # type: ignore[operator]
    value.backward()
    assert torch.isfinite(start.grad).all()  # type: ignore[arg-type]
    if not equal:
        assert start.grad is not None
        step = 1e-3 * start.grad / start.grad.norm()
        assert float(term((start - step).detach(), wanted)) < float(value)  # type: ignore[operator]


def test_ssim_is_scikit_images() -> None:
    from skimage.metrics import structural_similarity

    found, wanted = pictures()
    per_image = [
        structural_similarity(
            w.numpy() * 0.5 + 0.5, f.numpy() * 0.5 + 0.5, data_range=1.0, channel_axis=0,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )
        for f, w in zip(found, wanted, strict=True)
    ]  # fmt: skip
    # scikit-image crops 5 pixels off its map, as our window does by fitting whole.
    assert float(ssim_distance(found, wanted)) == pytest.approx(1 - np.mean(per_image), abs=1e-5)


def test_gmsd_is_a_plain_loops() -> None:
    found, wanted = pictures()
    kernel = np.array([[1, 0, -1]] * 3) / 3.0

    def magnitude(image: Tensor) -> np.ndarray:
        luma = (image.double().numpy() * 0.5 + 0.5).mean(axis=0)
        small = luma.reshape(32, 2, 32, 2).mean(axis=(1, 3))
        across, along = (convolve(small, k, mode="nearest") for k in (kernel, kernel.T))
        return np.sqrt(across**2 + along**2)

    values = []
    for f, w in zip(found, wanted, strict=True):
        x, y = magnitude(f), magnitude(w)
        values.append(((2 * x * y + 0.0026) / (x**2 + y**2 + 0.0026)).std())
    assert float(gmsd(found, wanted)) == pytest.approx(np.mean(values), abs=1e-4)


def test_the_colour_anchor_sees_casts_and_no_texture() -> None:
    grey = torch.zeros(1, 3, 64, 64)
    cast = grey.clone()
    cast[:, 0] += 0.2
    light = srgb_to_linear(torch.tensor([0.6, 0.5]))
    assert float(colour_anchor(cast, grey)) == pytest.approx(
        float(light[0] - light[1]) / 3, rel=1e-5
    )
    # The same light in other places of a block of 32 pixels.
    rows = grey.clone()
    rows[:, :, ::2], rows[:, :, 1::2] = 0.3, -0.3
    assert float(colour_anchor(rows.flip(2), rows)) == pytest.approx(0.0, abs=1e-7)
    assert float(l1(rows.flip(2), rows)) == pytest.approx(0.6, rel=1e-5)


def test_linear_light_is_continued_outside_the_range() -> None:
    steps = torch.linspace(-1.5, 1.5, 301).reshape(1, 1, 1, -1).expand(1, 3, 32, -1)[..., :288]
    image = steps.clone().requires_grad_()
    colour_anchor(image, torch.zeros_like(image)).backward()
    assert torch.isfinite(image.grad).all()  # type: ignore[arg-type]


def test_the_default_loss_is_the_embedded_models() -> None:
    found, wanted = pictures()
    losses = ReconstructionLoss(LossConfig())(found, wanted)
    areas, edges = multiscale_l1(found, wanted), gradient_l1(found, wanted)
    assert list(losses) == ["loss", "areas", "edges"]
    assert torch.equal(losses["loss"], areas + 0.3 * edges)


def test_a_perceptual_network_is_used_where_there_is_one() -> None:
    found, wanted = pictures()
    config = LossConfig(l1=1.0, areas=0.0, edges=0.0, perceptual=2.0)
    without = ReconstructionLoss(config)(found, wanted)
    assert torch.equal(without["perceptual"], weight_free_perceptual(found, wanted))
    with_one = ReconstructionLoss(config, lambda f, w: (f - w).pow(2).mean())(found, wanted)
    wanted_sum = l1(found, wanted) + 2.0 * (found - wanted).pow(2).mean()
    assert float(with_one["loss"]) == pytest.approx(float(wanted_sum), rel=1e-6)


def test_a_mean_over_parts_is_the_mean_of_the_whole() -> None:
    found, wanted = pictures()
    every = LossConfig(l1=1, areas=1, edges=1, ssim=1, gmsd=1, perceptual=1, colour_anchor=1)
    measure = ReconstructionLoss(every)
    whole = measure(found, wanted)
    parts = [measure(found[i : i + 1], wanted[i : i + 1]) for i in range(2)]
    for name, value in whole.items():
        mean = sum(float(part[name]) for part in parts) / 2
        assert float(value) == pytest.approx(mean, rel=1e-5), name
