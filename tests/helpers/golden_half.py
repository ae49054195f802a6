"""Full-size reference vectors in half precision, in a process of its own: about 6 GB."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from ldmsid_core.hosts.precision import precise_output, upcast_attention
from ldmsid_core.taming.attach import attach_decoder_taming, attach_unet_taming
from ldmsid_core.wavelet import split_bands

from . import golden as g
from . import released_hosts as hosts

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Largest error over largest value, about 2.5 times what was measured on a CPU: 0.0139, 0.0016,
# 0.0271, 0.0040. bfloat16 rounds at 2**-9 and float16 at 2**-12; errors of some hundred layers add
# up like a random walk, about seven- to eightfold, and the two dtypes stay a factor 8 apart. A
# fault in the kernels or a lost upcast shows as NaN or as an error near 1.
TOLERANCES = {
    "unet-bf16": 0.035,
    "unet-fp16": 0.004,
    "decoder-bf16": 0.07,
    "decoder-fp16": 0.01,
}
CASES = tuple(TOLERANCES)


def _unet(vectors: g.Golden, dtype: torch.dtype) -> Tensor:
    config, encoder = vectors.metadata["unet_config"], vectors.metadata["encoder_config"]
    state = g.weights(vectors.tag, g.manifest("ckpt_unet_full"), "unit")
    for key in state:
        state[key] = state[key].to(dtype)
    taming = hosts.build_taming(hosts.taming_config(encoder, config, state), state)
    unet = hosts.build_unet(config, state)
    shape = (len(vectors["in.x"]), 77, config["context_dim"])
    context = torch.from_numpy(g.recipe().data(vectors.tag, "full.context", shape))
    with upcast_attention(unet), attach_unet_taming(unet, taming) as predict:
        return predict(
            vectors["in.x"].to(dtype),
            vectors["in.t"],
            context.to(dtype),
            vectors["in.struct_x"].to(dtype),
        )


def _decoder(vectors: g.Golden, dtype: torch.dtype) -> Tensor:
    state = g.weights(vectors.tag, g.manifest("ckpt_vae_full"), "unit")
    vae, taming = hosts.build_decoder({key: tensor.to(dtype) for key, tensor in state.items()})
    bands = split_bands(vectors["main.in.raw"], multiple=8).to(torch.device("cpu"), dtype)
    with (
        upcast_attention(vae),
        attach_decoder_taming(vae, taming) as decode,
        precise_output(vae),
    ):
        return decode(vectors["main.in.z"].to(dtype), bands)


def main(case: str) -> None:
    """Compare one part in one dtype with the float32 vectors."""
    part, kind = case.split("-")
    with torch.no_grad():
        if part == "unet":
            vectors = g.load_golden("full")
            found, wanted = _unet(vectors, DTYPES[kind]), vectors["out.eps"]
        else:
            vectors = g.load_golden("decoder_full")
            found, wanted = _decoder(vectors, DTYPES[kind]), vectors["main.out.image"]
    error = (found.double() - wanted.double()).abs().max() / wanted.double().abs().max()
    sys.stdout.write(f"{case}: {float(error):.4g} of max\n")
    g.assert_close(found, wanted, TOLERANCES[case], case)


if __name__ == "__main__":
    main(sys.argv[1])
