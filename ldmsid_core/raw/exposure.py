"""The exposure ratio: by hand, from the file's own brightness, or from an EXIF pair."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..errors import ConfigError
from .packed_raw import PackedRaw, RawMetadata
from .packing import check_exposure_ratio

log = logging.getLogger(__name__)

AUTO_TARGET = 0.16
AUTO_MAXIMUM = 300.0
_BLOCK = 16
_BLOCK_TRIM = 0.03
_SCENE_TRIM = 0.08


def _trimmed_mean(values: Tensor, share: float) -> Tensor:
    """Mean along the last axis without the lowest and the highest `share` of it."""
    ordered = values.sort(dim=-1).values
    cut = round(ordered.shape[-1] * share)
    kept = ordered[..., cut : ordered.shape[-1] - cut]
    return kept.mean(dim=-1)


def scene_brightness(raw: PackedRaw) -> float:
    """Mean luminance of the white-balanced planes without hot pixels, lamps and black holes.

    Means of 16x16 blocks are taken without their most extreme pixels (both ends, so that
    symmetric noise leaves no bias); of these means the darkest and brightest 8 % are dropped.

    Returns:
        0 is black, 1 saturation; can be <= 0 where the file holds no light at all.
    """
    gains = torch.tensor([0.25 * g for g in (raw.white_balance[0], 1.0, raw.white_balance[2], 1.0)])
    light = (raw.planes[0] * gains[:, None, None]).sum(dim=0)
    block = min(_BLOCK, *light.shape)
    height, width = (side // block * block for side in light.shape)
    tiles = light[:height, :width].reshape(height // block, block, width // block, block)
    flat = tiles.permute(0, 2, 1, 3).reshape(-1, block * block)
    return float(_trimmed_mean(_trimmed_mean(flat, _BLOCK_TRIM), _SCENE_TRIM))


def auto_exposure_ratio(raw: PackedRaw) -> float:
    """The ratio that brings the scene's brightness to that of a well-exposed photograph.

    Returns:
        From 1 (never darkens) to 300 (what the embedded model was trained for).
    """
    brightness = scene_brightness(raw)
    if brightness <= AUTO_TARGET / AUTO_MAXIMUM:
        log.info("%s is darker than any ratio up to %g serves", raw.file_name, AUTO_MAXIMUM)
        return AUTO_MAXIMUM
    return max(1.0, AUTO_TARGET / brightness)


def _light(metadata: RawMetadata, other: RawMetadata, role: str, name: str) -> float:
    """Relative exposure of one file of a pair; what both leave out counts as equal."""
    value = 1.0
    for label, mine, theirs, power in (
        ("exposure time", metadata.shutter_s, other.shutter_s, 1),
        ("ISO", metadata.iso, other.iso, 1),
        ("aperture", metadata.aperture, other.aperture, -2),
    ):
        if mine is None and (theirs is not None or label == "exposure time"):
            raise ConfigError(
                f"Expected {label} in the EXIF data of the {role} {name}, found none; "
                "give the ratio by hand instead of a reference."
            )
        if mine is not None and theirs is not None:
            value *= mine**power
    return value


def reference_exposure_ratio(raw: PackedRaw, reference: RawMetadata, reference_name: str) -> float:
    """The ratio of a longer reference exposure to this file: shutter x ISO / f-number squared.

    Raises:
        ConfigError: If either file lacks what the other has, or the reference is not longer.
    """
    dark = _light(raw.metadata, reference, "file", raw.file_name)
    bright = _light(reference, raw.metadata, "reference", reference_name)
    ratio = bright / dark
    if ratio <= 1.0:
        raise ConfigError(
            f"Expected a reference with more exposure than {raw.file_name}, but {reference_name} "
            f"has {ratio:.3g} times its shutter x ISO / f-number squared."
        )
    return check_exposure_ratio(ratio)
