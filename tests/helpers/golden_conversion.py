"""Reference vectors through a converted file: recipe weights -> .ckpt -> convert -> taming.

As a program it does one full-size part in a process of its own.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldmsid_core.conversion.importing import convert_released
from ldmsid_core.hosts.decoder_base import replaced_decoder
from ldmsid_core.taming.attach import attach_decoder_taming, attach_unet_taming
from ldmsid_core.taming.checkpoint import Taming, load_taming
from ldmsid_core.wavelet import split_bands

from . import golden as g
from . import released_hosts as hosts
from .released_layout import save_lightning

# As in test_golden: two float32 implementations of the same formulas.
TOLERANCE = 2e-5
CASES = ("unet", "decoder")
State = dict[str, Tensor]


def encoder_heads(config: dict[str, Any]) -> int:
    """Of the structure encoder, which no tensor shows."""
    return hosts.encoder_config(config).heads


def convert_states(
    folder: Path, *, unet: State | None = None, decoder: State | None = None, heads: int = 4
) -> Taming:
    """Taming of recipe weights that went through files."""
    paths = {
        name: save_lightning(folder / f"{name}.ckpt", state)
        for name, state in (("unet", unet), ("decoder", decoder))
        if state is not None
    }
    made = convert_released(
        folder / "taming.safetensors", **paths, dtype=torch.float32, encoder_heads=heads,
        overwrite=True,
    )  # fmt: skip
    for path in paths.values():
        path.unlink()
    return load_taming(made.path)


def decode_with_base(taming: Taming, host: State, z: Tensor, raw: Tensor) -> Tensor:
    """Decode with a host of other weights, the file's own base decoder put in."""
    vae, _ = hosts.build_decoder(host)
    assert taming.decoder is not None
    with (
        replaced_decoder(vae, taming.decoder_base),
        attach_decoder_taming(vae, taming.decoder) as decode,
    ):
        return decode(z, split_bands(raw, multiple=8))


def main(part: str) -> None:
    """Compare one full-size part with the folder's vectors."""
    name = "full" if part == "unet" else "decoder_full"
    vectors = g.load_golden(name)
    kind = "unet" if part == "unet" else "vae"
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        folder = Path(temporary)
        state = g.weights(vectors.tag, g.manifest(f"ckpt_{kind}_full"), "unit")
        if part == "decoder":
            taming = convert_states(folder, decoder=state)
            host = {key: tensor * 0.5 for key, tensor in state.items()}
            found = decode_with_base(taming, host, vectors["main.in.z"], vectors["main.in.raw"])
            g.assert_close(found, vectors["main.out.image"], TOLERANCE, "image")
            return
        heads = encoder_heads(vectors.metadata["encoder_config"])
        taming = convert_states(folder, unet=state, heads=heads)
        assert taming.unet is not None and taming.header.host_family == "sd21-base"
        config = vectors.metadata["unet_config"]
        shape = (len(vectors["in.x"]), 77, config["context_dim"])
        context = torch.from_numpy(g.recipe().data(vectors.tag, "full.context", shape))
        unet = hosts.build_unet(config, state)
        with attach_unet_taming(unet, taming.unet) as predict:
            eps = predict(vectors["in.x"], vectors["in.t"], context, vectors["in.struct_x"])
        g.assert_close(eps, vectors["out.eps"], TOLERANCE, "eps")


if __name__ == "__main__":
    main(sys.argv[1])
