"""The linear map that shows a latent as a small picture while sampling runs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def fit_latent_rgb(latents: Tensor, images: Tensor) -> list[list[float]]:
    """Least squares from latents to the pictures they stand for.

    Args:
        latents: `(N, 4, h, w)` as the UNet sees them.
        images: `(N, 3, 8h, 8w)` unit range.

    Returns:
        Four rows of RGB and a row of biases, in model range: `rgb = latent @ rows[:4] + rows[4]`.
    """
    small = functional.avg_pool2d(images, 8) * 2.0 - 1.0
    inputs = latents.movedim(1, -1).reshape(-1, latents.shape[1]).double()
    targets = small.movedim(1, -1).reshape(-1, 3).double()
    ones = torch.ones(len(inputs), 1, dtype=torch.float64)
    rows = torch.linalg.lstsq(torch.cat([inputs, ones], dim=1), targets).solution
    return [[round(float(value), 6) for value in row] for row in rows]
