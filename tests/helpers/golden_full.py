"""The full-size reference vectors, in a process of their own: about 4 GB of weights."""

from __future__ import annotations

import sys

import torch

from ldmsid_core.taming.attach import attach_unet_taming

from . import golden as g
from . import released_hosts as hosts

CASES = ("encoder", "unet")
_TOLERANCE = 2e-5


def main(part: str) -> None:
    """Compare one part with the folder's vectors."""
    vectors = g.load_golden("full")
    encoder_config = vectors.metadata["encoder_config"]
    unet_config = vectors.metadata["unet_config"]
    keys = g.manifest("ckpt_unet_full")
    if part == "encoder":
        keys = {k: v for k, v in keys.items() if "structcond" in k or ".sft_layer." in k}
    state = g.weights(vectors.tag, keys, "unit")
    taming = hosts.build_taming(hosts.taming_config(encoder_config, unet_config, state), state)
    with torch.no_grad():
        if part == "encoder":
            found = taming.structure_encoder(vectors["in.struct_x"], vectors["in.t"])
            for feature in found:
                name = f"out.struct_cond.{feature.shape[-1]}"
                g.assert_close(feature, vectors[name], _TOLERANCE, name)
            return
        unet = hosts.build_unet(unet_config, state)
        width = unet_config["context_dim"]
        shape = (len(vectors["in.x"]), 77, width)
        context = torch.from_numpy(g.recipe().data(vectors.tag, "full.context", shape))
        head = vectors["in.context_head"]
        g.assert_close(context[:, : head.shape[1]], head, 1e-7, "context")
        with attach_unet_taming(unet, taming) as predict:
            found_eps = predict(vectors["in.x"], vectors["in.t"], context, vectors["in.struct_x"])
        g.assert_close(found_eps, vectors["out.eps"], _TOLERANCE, "eps")


if __name__ == "__main__":
    main(sys.argv[1])
