"""`ldmsid convert` on synthetic released checkpoints of full size: time and memory, ratios.

Conversion against reading every tensor of its files once, memory-mapped (goal: 4), its peak
anonymous memory (goal: twice its output and 500 MB), and what a loaded host and taming file hold
(goal: each weight once). The full size needs 7 GB in the temporary folder and as much memory while
it is made.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from measure import ratio
from synthetic_sd import SMALL, Size, write_released

from ldmsid_core.conversion.importing import convert_released
from ldmsid_core.hosts.dtypes import DTYPES
from ldmsid_core.hosts.engine import ready_engine
from ldmsid_core.hosts.host import load_host
from ldmsid_core.taming.checkpoint import load_taming
from ldmsid_core.weight_file import read_weights

PAIRS, PAIRS_WITH_HOST = 5, 3
_PIECE = 1 << 22
_SAMPLE_SECONDS = 0.02
_ROOM = 500e6


def read_tensors(*paths: Path) -> None:
    """Every tensor of some files once, memory-mapped, as a conversion has them."""
    for path in paths:
        for tensor in read_weights(path).values():
            tensor.sum()


def read_bytes(*paths: Path) -> None:
    """All bytes of some files into one small buffer: no page is mapped, nothing is kept."""
    buffer = bytearray(_PIECE)
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def anonymous_bytes(process: int | str) -> int:
    """Memory of a process that no file backs; 0 once it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def peak_of_command(arguments: list[str]) -> int:
    """Peak anonymous memory of `ldmsid` with these arguments, bytes."""
    command = [sys.executable, "-P", "-c", "from ldmsid_core.cli import run; run()", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SAMPLE_SECONDS)
    if process.returncode:
        raise RuntimeError(f"ldmsid {' '.join(arguments)} ended with {process.returncode}")
    return peak


@contextlib.contextmanager
def sampled_peak() -> Iterator[list[int]]:
    """This process's anonymous memory while a `with` block runs, a sample every 20 ms."""
    samples, done = [anonymous_bytes("self")], threading.Event()

    def sample() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            samples.append(anonymous_bytes("self"))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def held_memory(host_path: Path, taming_path: Path, dtype_name: str) -> dict[str, float]:
    """Anonymous memory over the weights' bytes: loaded, made ready to compute, peak on the way."""
    dtype = DTYPES[dtype_name]
    torch.zeros(8, 8).to(dtype) @ torch.zeros(8, 8).to(dtype)
    gc.collect()
    before = anonymous_bytes("self")
    with sampled_peak() as samples:
        host, taming = load_host(host_path, dtype=dtype), load_taming(taming_path, dtype=dtype)
        gc.collect()
        loaded = anonymous_bytes("self")
        with ready_engine(host, taming, device=torch.device("cpu"), dtype=dtype):
            gc.collect()
            ready = anonymous_bytes("self")
    modules = (host.unet, host.vae, taming.unet, taming.decoder)
    weights = [p for module in modules if module is not None for p in module.parameters()]
    size = sum(w.numel() * w.element_size() for w in [*weights, *taming.decoder_base.values()])
    return {
        "gigabytes": size / 1e9,
        "loaded": (loaded - before) / size,
        "ready": (ready - before) / size,
        "peak": (max(samples) - before) / size,
    }


def held_in_own_process(host: Path, taming: Path, dtype: str) -> dict[str, float]:
    """`held_memory` in a fresh process."""
    command = [sys.executable, __file__, "--held", str(host), str(taming), dtype]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(answer.stdout.splitlines()[-1]))


def measure_time(unet: Path, decoder: Path, output: Path) -> None:
    """CPU time of both ways to convert over that of reading what they are given."""
    for host, pairs in ((None, PAIRS), (unet, PAIRS_WITH_HOST)):
        given = [unet, decoder, *([] if host is None else [host])]

        def convert(host: Path | None = host) -> None:
            convert_released(output, unet=unet, decoder=decoder, host=host, overwrite=True)

        middle, spread = ratio(convert, lambda given=given: read_tensors(*given), pairs=pairs)
        gigabytes = sum(path.stat().st_size for path in given) / 1e9
        print(
            f"convert{' --host' if host else ''} / reading the tensors of its {gigabytes:.1f} GB: "
            f"{middle:.2f} +- {spread:.2f} (goal 4)"
        )
    middle, spread = ratio(
        lambda: read_tensors(unet, decoder), lambda: read_bytes(unet, decoder), pairs=PAIRS
    )
    print(f"reading the tensors / reading the bytes into one buffer: {middle:.2f} +- {spread:.2f}")


def measure_memory(unet: Path, decoder: Path, output: Path) -> None:
    """Peaks of the command, and what loading holds."""
    given = ["--unet", str(unet), "--decoder", str(decoder), "-o", str(output), "--overwrite"]
    for more in ([], ["--host", str(unet)]):
        peak = peak_of_command(["convert", *given, *more])
        size = output.stat().st_size
        print(
            f"convert{' --host' if more else ''}: peak {peak / 1e6:.0f} MB anonymous, output "
            f"{size / 1e6:.0f} MB (goal {(2 * size + _ROOM) / 1e6:.0f} MB)"
        )
    for dtype in ("bf16", "fp32"):
        found = held_in_own_process(unet, output, dtype)
        print(
            f"host and taming in {dtype}, {found['gigabytes']:.2f} GB of weights: loaded "
            f"{found['loaded']:.2f} (goal 1), ready {found['ready']:.2f}, peak "
            f"{found['peak']:.2f} times as much anonymous memory"
        )


def main() -> None:
    """Print all ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="Small widths: only tries it out.")
    parser.add_argument("--held", nargs=3, metavar=("HOST", "TAMING", "DTYPE"),
                        help=argparse.SUPPRESS)  # fmt: skip
    options = parser.parse_args()
    if options.held:
        host, taming, dtype = options.held
        print(json.dumps(held_memory(Path(host), Path(taming), dtype)))
        return
    with tempfile.TemporaryDirectory() as name:
        unet, decoder = write_released(Path(name), SMALL if options.small else Size())
        output = Path(name) / "taming.safetensors"
        measure_time(unet, decoder, output)
        measure_memory(unet, decoder, output)


if __name__ == "__main__":
    main()
