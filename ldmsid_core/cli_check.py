"""`ldmsid check`: what a taming file holds, whether it fits, and how its decoder wants latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from .cli_enhance import parse_ratio
from .hosts.dtypes import choose_device, choose_dtype
from .hosts.engine import ready_engine
from .hosts.fit import check_fit
from .hosts.host import Host, load_host
from .hosts.settings import SamplingSettings
from .model_files import EMBEDDED, find_model
from .pipeline import prepare_bands, to_unit_range
from .raw.exposure import auto_exposure_ratio
from .raw.loader import load_raw
from .raw.packed_raw import PackedRaw
from .sampling_grid import DEFAULT_STEPS
from .taming.checkpoint import Taming, load_taming
from .wavelet import SubBands
from .weight_file import sha256_of

SCALES = ("unscaled", "scaled")
_TONE_GAMMA = 2.2
# Below this difference of the two residuals nobody should decide.
_UNDECIDED = 0.02


def residual_variation(decoded: Tensor, bands: SubBands) -> float:
    """How much of the RAW's low band a decoded picture leaves unexplained, by total variation.

    The level-3 low band, toned, is fitted by the picture's brightness at the same size; what
    remains is measured by its total variation, divided by the band's own. 0 is a perfect
    reconstruction, 1 explains nothing.

    Args:
        decoded: `(1, 3, 8h, 8w)` model range.
        bands: Of the same RAW.
    """
    height, width = (side // 8 for side in bands.content_size)
    low = (bands.structure_input / 8.0 * 0.5 + 0.5).clamp(0.0, 1.0).mean(dim=1)
    wanted = low[0, :height, :width].double() ** (1.0 / _TONE_GAMMA)
    brightness = to_unit_range(decoded).mean(dim=1, keepdim=True)
    found = functional.avg_pool2d(brightness, 8)[0, 0, :height, :width].double()
    wanted, found = wanted - wanted.mean(), found - found.mean()
    slope = ((wanted * found).sum() / found.square().sum().clamp(min=1e-12)).clamp(min=0.0)
    remainder = wanted - slope * found
    return float(_total_variation(remainder) / _total_variation(wanted).clamp(min=1e-12))


def _total_variation(x: Tensor) -> Tensor:
    return x.diff(dim=0).abs().sum() + x.diff(dim=1).abs().sum()


def _middle(raw: PackedRaw, side: int) -> PackedRaw:
    """The middle of a file, at most `side` packed pixels wide and high."""
    height, width = raw.planes.shape[-2:]
    top, left = (max(0, (size - side) // 2) for size in (height, width))
    planes = raw.planes[:, :, top : top + side, left : left + side].contiguous()
    return replace(raw, planes=planes)


def _describe(taming: Taming, path: Path) -> dict[str, Any]:
    header = taming.header
    halves = {"UNet taming": taming.unet, "decoder taming": taming.decoder}
    counts = {
        name: 0 if half is None else sum(p.numel() for p in half.parameters())
        for name, half in halves.items()
    }
    prompt = taming.prompt_embedding
    return {
        "file": str(path),
        "sha256": sha256_of(path),
        "host family": header.host_family,
        "prediction type": header.prediction_type,
        "cross-attention width": header.cross_attention_width,
        **counts,
        "base decoder tensors": len(taming.decoder_base),
        "prompt embedding": "none" if prompt is None else "x".join(map(str, prompt.shape)),
        "white balance": header.input_recipe.white_balance,
        "decoder latent scale": header.decoder_latent_scale,
        "licence": header.licence,
    }


def check_taming(
    taming: Path,
    *,
    host: Path | None = None,
    raw: Path | None = None,
    ratio: str = "auto",
    crop: int = 512,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    quiet: bool = False,
) -> dict[str, Any]:
    """Describe a taming file; fit it to a host; with a RAW decode it with both latent scales.

    Args:
        taming: File, or its name in `$LDMSID_MODELS`.
        host: Stable Diffusion; None is the embedded host, or no check where only a file is asked.
        raw: Dark file; None decodes nothing.
        ratio: Exposure ratio of the RAW, or auto.
        crop: Side of its middle part in packed pixels.
        steps: Sampling steps.
        seed: Of the noise.
        device: As for `enhance`.
        dtype: As for `enhance`.
        quiet: No progress bar.

    Raises:
        CheckpointError: If a file is damaged.
        HostMismatchError: If the two do not fit.
    """
    given = parse_ratio(ratio)
    picture = None if raw is None else _middle(load_raw(raw), crop)
    where = choose_device(device)
    precision = choose_dtype(dtype, where)
    path = find_model(taming, EMBEDDED.taming)
    loaded = load_taming(path, dtype=precision)
    report = _describe(loaded, path)
    if host is None and picture is None and loaded.header.host_family != "tiny":
        return {**report, "host": "not checked: give --host"}
    found = load_host(find_model(host, EMBEDDED.host), dtype=precision)
    check_fit(found, loaded)
    report["host"] = f"{found.name} ({found.header.family}): fits"
    if picture is None:
        return report
    amplification = auto_exposure_ratio(picture) if given is None else given
    settings = SamplingSettings(steps)
    residuals = _decode_both(
        found, loaded, picture, amplification, settings, seed, where, precision, quiet
    )
    report.update({f"residual, {scale}": round(r, 4) for scale, r in residuals.items()})
    return {**report, "verdict": verdict(residuals, loaded.header.decoder_latent_scale)}


def _decode_both(
    host: Host, taming: Taming, raw: PackedRaw, ratio: float, settings: SamplingSettings,
    seed: int, device: torch.device, dtype: torch.dtype, quiet: bool,
) -> dict[str, float]:  # fmt: skip
    """Residual of the picture decoded from the latent in each scale."""
    bands = prepare_bands(raw, taming.header.input_recipe, exposure_ratio=ratio)
    scale = host.header.latent_scale
    with (
        tqdm(total=settings.steps, desc="sample", unit="step", disable=quiet) as bar,
        torch.inference_mode(),
        ready_engine(
            host, taming, device=device, dtype=dtype, settings=settings,
            progress=lambda done, _total: bar.update(done - bar.n),
        ) as (sample, decode),
    ):  # fmt: skip
        latent = sample(bands, seed)
        unscaled = latent if taming.header.decoder_latent_scale == "unscaled" else latent / scale
        factors = {"unscaled": 1.0, "scaled": scale}
        return {
            name: residual_variation(decode(unscaled * factors[name], bands), bands)
            for name in SCALES
        }


def verdict(residuals: dict[str, float], header_scale: str) -> str:
    """What the two residuals say about the header, in words."""
    best = min(residuals, key=lambda name: residuals[name])
    if abs(residuals["unscaled"] - residuals["scaled"]) < _UNDECIDED:
        return "undecided: both reconstruct alike; try another RAW"
    if best == header_scale:
        return f"{best} reconstructs, as the file says"
    return (
        f"{best} reconstructs, but the file says {header_scale}; convert again with "
        f"--decoder-latent-scale {best}"
    )
