"""A stand-in for Stable Diffusion 2.1 and its taming file: right shape, small, random weights."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch
from helpers.comfy_hosts import ComfyHost

from ldmsid_core.taming.checkpoint import save_taming, taming_state
from ldmsid_core.taming.configs import (
    DecoderTamingConfig,
    StructureEncoderConfig,
    UNetTamingConfig,
)
from ldmsid_core.taming.fusion import DecoderTaming
from ldmsid_core.taming.header import TamingHeader
from ldmsid_core.taming.unet_taming import UNetTaming

_MAKER = Path(__file__).parents[1] / "comfy_checks" / "make_standin.py"
_UNET = UNetTamingConfig(
    encoder=StructureEncoderConfig(
        width=64, multipliers=(1, 1, 1, 1), blocks=1, attention_levels=(), heads=4, features=64
    ),
    widths=(320, 320, 320, 320),
    blocks=1,
    hidden=8,
    kind="released",
)
_DECODER = DecoderTamingConfig(widths=(512, 512, 512))


def write_standin(host: ComfyHost, base: Path) -> None:
    """Put checkpoint and taming file where the bundled workflow looks for them; once."""
    checkpoint = base / "models" / "checkpoints" / "v2-1_512-ema-pruned.safetensors"
    taming = base / "models" / "ldmsid" / "ldm-isp-sd21.safetensors"
    if checkpoint.exists() and taming.exists():
        return
    for path in (checkpoint, taming):
        path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [host.python, _MAKER, host.path, checkpoint],
        check=True, env=host.environment(), cwd=base, capture_output=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet, decoder = UNetTaming(_UNET), DecoderTaming(_DECODER)
        prompt = torch.randn(77, 1024)
    header = TamingHeader(
        host_family="sd21-base", cross_attention_width=1024, unet=_UNET, decoder=_DECODER
    )
    state = taming_state(unet, decoder, prompt)
    save_taming(taming, header, state, dtype=torch.float16, overwrite=True)
