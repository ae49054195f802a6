"""`ldmsid enhance` on a 12 MP file: wall seconds and peak memory (goal: 4 minutes, 4 GB)."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ldmsid_core.cli_synth import dark_counts
from ldmsid_core.raw.dng import DngHeader, write_dng
from ldmsid_core.training.photographs import load_photograph

PACKED = (1424, 2128)


def write_dark_frame(path: Path) -> None:
    """A dark frame of the A7S II's size, tiled from a photograph."""
    photograph = load_photograph("astronaut")
    repeats = [-(-wanted // have) for wanted, have in zip(PACKED, photograph.shape, strict=False)]
    large = np.tile(photograph, (*repeats, 1))[: PACKED[0], : PACKED[1]]
    write_dng(path, dark_counts(large, ratio=250.0, iso=1600.0, seed=0), DngHeader())


def main() -> None:
    """Run the command in a process of its own and print what it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dark_frame(folder / "frame.dng")
        command = [
            sys.executable, "-P", "-c", "from ldmsid_core.cli import main; main()", "enhance",
            str(folder / "frame.dng"), "-o", str(folder / "out"), "--ratio", "250", "--quiet",
        ]  # fmt: skip
        started = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
    megapixels = 4 * PACKED[0] * PACKED[1] / 1e6
    cores = torch.get_num_threads()
    print(f"enhance, {megapixels:.1f} MP, {cores} cores: {seconds:.0f} s, peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
