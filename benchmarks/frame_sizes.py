"""Peak memory and time of `ldmsid enhance` from 12 to 100 MP in tiles, embedded model, CPU.

Goals: memory flat but for the frame itself (3 GB at 61 MP), time linear in the pixels (exponent at
most 1.05). Every frame is one process; time is CPU time without the start of the program.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from frames import ISO, RATIO, photograph_frame

from ldmsid_core.cli_synth import dark_counts
from ldmsid_core.raw.dng import DngHeader, write_dng

SIZES = (12, 24, 45, 61, 100)
SHORT = (3, 12)
_TALL, _WIDE = 2, 3
_COMMAND = "from ldmsid_core.cli import main; main()"


def write_frame(path: Path, megapixels: float) -> None:
    """A dark 3:2 frame of a sensor with so many pixels."""
    unit = math.sqrt(megapixels * 1e6 / 4 / (_TALL * _WIDE))
    truth = photograph_frame(round(_TALL * unit / 2) * 2, round(_WIDE * unit / 2) * 2)
    write_dng(path, dark_counts(truth, ratio=RATIO, iso=ISO, seed=0), DngHeader())


def run(*arguments: str) -> tuple[float, float]:
    """CPU seconds and peak resident gigabytes of a command in a process of its own."""
    watch = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss); sys.exit(done.returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", watch, sys.executable, "-P", "-c", _COMMAND, *arguments],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    seconds, kilobytes = done.stdout.split()[-2:]
    return float(seconds), float(kilobytes) / 1024**2


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Memory and time over the size of the frame."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    sizes = [row["megapixels"] for row in rows]
    left.plot(sizes, [row["gigabytes"] for row in rows], "o-", label="peak of the process")
    left.plot(sizes, [row["frame"] for row in rows], "s--", label="the frame itself")
    left.set(xlabel="sensor, MP", ylabel="GB", ylim=(0, None), title="memory")
    left.legend()
    seconds = [row["seconds"] for row in rows]
    right.loglog(sizes, seconds, "o-")
    right.minorticks_off()
    right.set_xticks(sizes, [f"{size:g}" for size in sizes])
    right.set_yticks(seconds, [f"{value:.0f}" for value in seconds])
    right.set(xlabel="sensor, MP", ylabel="CPU seconds", title="time")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table and the exponent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"Only {SHORT} MP.")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="Draw the table here, PNG.")
    parser.add_argument("--json", type=Path, help="Write the rows here as well.")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start, _ = run("--version")
        for megapixels in SHORT if options.short else SIZES:
            raw = folder / f"frame{megapixels}.dng"
            write_frame(raw, megapixels)
            seconds, gigabytes = run(
                "enhance", str(raw), "-o", str(folder / "out"), "--ratio", f"{RATIO:g}",
                "--steps", str(options.steps), "--tile", "512", "--decode", "bounded", "--quiet",
            )  # fmt: skip
            raw.unlink()
            # Planes, bands and result, float32: 4, 4 * 4/3 and 3 values a pixel of the result.
            frame = megapixels / 4 * 4 * (4 + 16 / 3 + 3) / 1e3
            rows.append(
                {
                    "megapixels": megapixels, "gigabytes": gigabytes, "frame": frame,
                    "seconds": seconds - start,
                }
            )  # fmt: skip
            print(
                f"{megapixels:4d} MP: peak {gigabytes:.2f} GB, the frame itself {frame:.2f} GB, "
                f"{seconds - start:.0f} CPU s, {(seconds - start) / megapixels:.2f} CPU s a MP",
                flush=True,
            )
    logs = np.log([[row["megapixels"], row["seconds"]] for row in rows])
    exponent = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    print(f"time grows with the pixels to the power of {exponent:.3f} (goal 1.05)")
    if options.plot:
        draw(rows, options.plot)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
