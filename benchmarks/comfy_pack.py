"""The pack inside a real ComfyUI: tamed step, graph against command line, loading a taming file.

The host is the first that the test-suite finds; `inside_comfy.py` runs in its Python.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.comfy_hosts import ROOT, ComfyHost, find_hosts

from ldmsid_core.cli_enhance import EnhanceOptions, enhance_files
from ldmsid_core.model_files import SAMPLE_RAW
from ldmsid_core.taming.checkpoint import save_taming, taming_state
from ldmsid_core.taming.configs import DecoderTamingConfig, UNetTamingConfig
from ldmsid_core.taming.fusion import DecoderTaming
from ldmsid_core.taming.header import TamingHeader
from ldmsid_core.taming.unet_taming import UNetTaming

PAIRS = 9


class Worker:
    """A process of the host's Python that does one named job per line it is sent."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Keep the process."""
        self._process = process

    def ask(self, job: str, **settings: Any) -> Any:
        """The job's answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"job": job, **settings}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith('{"answer"'):
                return json.loads(line)["answer"]
        raise RuntimeError("the host's process ended early")


@contextmanager
def worker(host: ComfyHost, base: Path) -> Iterator[Worker]:
    """Start `inside_comfy.py`."""
    command = [str(host.python), str(Path(__file__).with_name("inside_comfy.py")), str(host.path)]
    process = subprocess.Popen(
        [*command, str(ROOT), str(base)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=host.environment(), cwd=base,
    )  # fmt: skip
    try:
        yield Worker(process)
    finally:
        process.kill()


def write_full_size_taming(path: Path) -> None:
    """A taming file of the released shape with random weights, float16."""
    torch.manual_seed(0)
    unet, decoder = UNetTaming(UNetTamingConfig()), DecoderTaming(DecoderTamingConfig())
    header = TamingHeader(
        host_family="sd21-base", cross_attention_width=1024, unet=unet.config,
        decoder=decoder.config,
    )  # fmt: skip
    state = taming_state(unet, decoder, torch.zeros(77, 1024))
    save_taming(path, header, state, dtype=torch.float16)


def graph_against_command_line(inside: Worker, folder: Path) -> None:
    """The same file, settings and dtype by both ways, everything imported, files loaded anew."""
    options = EnhanceOptions(
        output=folder, ratio="250", dtype="fp32", device="cpu", overwrite=True, quiet=True
    )

    def command_line() -> float:
        started = time.process_time()
        (report,) = enhance_files([str(SAMPLE_RAW)], options)
        assert "error" not in report, report
        return time.process_time() - started

    taken: dict[str, list[float]] = {"graph": [], "command": []}
    inside.ask("graph"), command_line()
    for _ in range(PAIRS):
        taken["graph"].append(float(inside.ask("graph")))
        taken["command"].append(command_line())
    found = sorted(a / b for a, b in zip(taken["graph"], taken["command"], strict=True))
    print(f"graph / command line, 0.2 MP, float32: {found[PAIRS // 2]:.2f} (goal 1.10)")


def main() -> None:
    """Print all ratios."""
    hosts = find_hosts()
    if not hosts:
        print("no ComfyUI found (set COMFYUI_PATH): nothing measured")
        return
    for host in hosts:
        print(f"ComfyUI {host.version}")
        with tempfile.TemporaryDirectory() as name, worker(host, Path(name)) as inside:
            folder = Path(name)
            graph_against_command_line(inside, folder / "out")
            path = folder / "full.safetensors"
            write_full_size_taming(path)
            loaded = inside.ask("load", path=str(path))
            print(
                f"loading a taming file of {loaded['mb']} MB / reading its bytes: "
                f"{loaded['time']} (goal 1.5); memory held / bytes: {loaded['memory']}"
            )
            for side, goal in ((32, 1.15), (64, 1.18)):
                found = inside.ask("step", path=str(path), side=side, pairs=PAIRS)
                print(f"tamed step / untamed step, {side} x {side} latent: {found} (goal {goal})")


if __name__ == "__main__":
    main()
