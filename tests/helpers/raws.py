"""Synthetic camera files, and access to the folder of real ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ldmsid_core.raw.cfa import CfaPattern, packed_places
from ldmsid_core.raw.dng import DngHeader, write_dng

ROOT = Path(__file__).resolve().parents[2]
# Per plane in packed order, all different, so that a swapped plane shows.
PLANE_BLACK = (500, 510, 520, 530)


def raws_folder() -> Path:
    """The folder named by `LDMSID_RAWS`, or the usual place beside the repository."""
    return Path(os.environ.get("LDMSID_RAWS", ROOT.parent / "shared" / "raws"))


def raw_facts() -> list[dict[str, Any]]:
    """What a loader must report of each file of the folder; empty where there is none."""
    path = raws_folder() / "facts.json"
    return list(json.loads(path.read_text())) if path.exists() else []


def need_raw(name: str) -> Path:
    """A file of the folder; skips the test where it is absent."""
    path = raws_folder() / name
    if not path.exists():
        pytest.skip(f"no camera file {path}: set LDMSID_RAWS")
    return path


def random_mosaic(
    height: int, width: int, *, seed: int = 0, low: int = 600, high: int = 9000
) -> NDArray[np.uint16]:
    """Counts without structure."""
    return np.random.default_rng(seed).integers(low, high, (height, width)).astype(np.uint16)


def tile_black(cfa: CfaPattern) -> tuple[int, int, int, int]:
    """`PLANE_BLACK` in the order of a DNG tile: row by row."""
    tile = np.zeros((2, 2), int)
    for level, place in zip(PLANE_BLACK, packed_places(cfa), strict=True):
        tile[place] = level
    first, second, third, fourth = (int(v) for v in tile.flat)
    return first, second, third, fourth


def write_test_dng(
    path: Path,
    *,
    cfa: CfaPattern = "RGGB",
    height: int = 48,
    width: int = 64,
    overwrite: bool = False,
    **header: Any,
) -> NDArray[np.uint16]:
    """Write a DNG with a black level per plane; returns its mosaic."""
    mosaic = random_mosaic(height, width)
    values = DngHeader(cfa=cfa, black_level=tile_black(cfa), **header)
    write_dng(path, mosaic, values, overwrite=overwrite)
    return mosaic
