"""Seams of tiled sampling and bounded decoding: a smooth gradient and a photograph, embedded model.

A seam would show as a step between neighbouring pixels where tiles meet. The mean absolute step
across the borders of tiles is divided by that across all other rows and columns. The scene has
steps of its own there: the same quotient of the picture computed in one piece is divided out.
Goal: 1.05. Quality against truth is to be within 0.1 dB of untiled.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

import numpy as np
import torch
from frames import RATIO, Picture, dark_frame, gradient_frame, photograph_frame
from torch import Tensor

from ldmsid_core.decoding.bounded import bounded_layout
from ldmsid_core.hosts.dtypes import choose_dtype
from ldmsid_core.hosts.engine import attached_engine
from ldmsid_core.hosts.host import load_host
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.model_files import EMBEDDED
from ldmsid_core.pipeline import prepare_bands, to_unit_range
from ldmsid_core.taming.checkpoint import load_taming
from ldmsid_core.tiling import LATENT_PIXELS, TileLayout, plan_tiles

SIZE = (1024, 1536)
TILE, OVERLAP = 512, 128


def _borders(starts: Iterable[int], size: int, length: int) -> list[int]:
    """Pixels at which a tile begins or ends within the frame."""
    edges = {edge * LATENT_PIXELS for start in starts for edge in (start, start + size)}
    return sorted(edges - {0, length * LATENT_PIXELS})


def step_quotient(image: Tensor, layout: TileLayout) -> float:
    """Mean absolute step across the borders of tiles over that everywhere else."""
    at, away = [], []
    places = (
        (-2, layout.rows, layout.tile_height, layout.height),
        (-1, layout.columns, layout.tile_width, layout.width),
    )
    for axis, starts, size, length in places:
        steps = image.diff(dim=axis).abs().movedim(axis, 0).flatten(1).mean(1)
        is_border = torch.zeros(len(steps), dtype=torch.bool)
        is_border[[edge - 1 for edge in _borders(starts, size, length)]] = True
        at.append(steps[is_border])
        away.append(steps[~is_border])
    return float(torch.cat(at).mean() / torch.cat(away).mean())


def psnr(found: Tensor, truth: Tensor) -> float:
    """In dB, of unit range."""
    return float(-10.0 * torch.log10((found - truth).square().mean()))


def compare(name: str, truth: Picture, steps: int) -> None:
    """Print seams and quality of one scene."""
    taming = load_taming(EMBEDDED.taming)
    raw = dark_frame(truth, name)
    bands = prepare_bands(raw, taming.header.input_recipe, exposure_ratio=RATIO)
    device = torch.device("cpu")
    height, width = (side // LATENT_PIXELS for side in SIZE)
    own = torch.from_numpy(truth.astype(np.float32) / 255.0).permute(2, 0, 1)[None]

    def run(settings: SamplingSettings) -> Tensor:
        host, modules = load_host(EMBEDDED.host), load_taming(EMBEDDED.taming)
        dtype = choose_dtype("auto", device)
        with (
            torch.inference_mode(),
            attached_engine(host, modules, device=device, dtype=dtype, settings=settings) as e,
        ):
            return to_unit_range(e.decode(e.sample(bands, 0), bands))

    whole = run(SamplingSettings(steps, tile=2 * max(SIZE), decode="exact"))
    print(f"{name}, in one piece: {psnr(whole, own):.2f} dB against truth")
    sampled = plan_tiles(
        height, width, tile=TILE // LATENT_PIXELS, overlap=OVERLAP // LATENT_PIXELS
    )
    cases = (
        ("tiled sampling", SamplingSettings(steps, tile=TILE, overlap=OVERLAP, decode="exact"),
         sampled),
        ("bounded decode",
         SamplingSettings(steps, tile=2 * max(SIZE), decode="bounded", decode_tile=TILE),
         bounded_layout(height, width, TILE // LATENT_PIXELS)),
    )  # fmt: skip
    for what, settings, layout in cases:
        image = run(settings)
        quotient, plain = step_quotient(image, layout), step_quotient(whole, layout)
        print(
            f"{name}, {what}, {len(layout.tiles())} tiles: step at borders / elsewhere "
            f"{quotient:.3f}, in one piece at the same places {plain:.3f}, seam "
            f"{quotient / plain:.3f} (goal 1.05); {psnr(image, own):.2f} dB against truth, "
            f"{psnr(image, whole):.1f} dB against one piece"
        )


def both_scenes(compare: Callable[[str, Picture, int], None], description: str | None) -> None:
    """Compare the gradient and the photograph, as the user's options say."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--short", action="store_true", help="Two steps of the photograph alone.")
    options = parser.parse_args()
    if not options.short:
        compare("gradient", gradient_frame(*SIZE), options.steps)
    compare("photograph", photograph_frame(*SIZE), 2 if options.short else options.steps)


if __name__ == "__main__":
    both_scenes(compare, __doc__)
