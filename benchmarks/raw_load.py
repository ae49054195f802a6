"""Loading and packing a RAW against LibRaw's bare unpack (goal: at most 1.3 times its CPU time)."""

from __future__ import annotations

import os
from pathlib import Path

import rawpy
import torch
from measure import ratio

from ldmsid_core.raw.loader import load_raw

FOLDER = Path(os.environ.get("LDMSID_RAWS", Path(__file__).parents[2] / "shared" / "raws"))
FILES = (
    ("real/canon_eos30d_iso100_IMG_0848.CR2", "compressed, 8 MP"),
    ("real/nikon_d5000_bracket_short_1-640s.dng", "compressed, 12 MP"),
    ("real/nikon_d5000_bracket_mid_1-160s.dng", "compressed, 12 MP"),
    ("derived/d750_rose_rggb.dng", "uncompressed, 0.4 MP"),
)


def unpack(path: Path) -> None:
    """LibRaw alone: open and unpack."""
    with rawpy.imread(str(path)) as raw:
        raw.unpack()


def main() -> None:
    """Print one ratio a file."""
    torch.set_num_threads(1)
    for name, kind in FILES:
        path = FOLDER / name
        if not path.exists():
            print(f"{name}: not there; set LDMSID_RAWS")
            continue
        middle, spread = ratio(lambda p=path: load_raw(p), lambda p=path: unpack(p))
        print(f"load_raw / bare unpack  {middle:.2f} +- {spread:.2f}  {path.name} ({kind})")


if __name__ == "__main__":
    main()
