"""Whether a taming checkpoint was made for a host."""

from __future__ import annotations

import logging

from ..errors import HostMismatchError
from ..taming.attach import check_decoder, check_unet
from ..taming.checkpoint import Taming
from .decoder_base import check_decoder_base
from .host import Host

log = logging.getLogger(__name__)


def check_fit(host: Host, taming: Taming) -> None:
    """Refuse a taming checkpoint that was trained for another host.

    Raises:
        HostMismatchError: If family, prompt width, prediction or scale differ, or a half is
            missing.
    """
    header = taming.header
    pairs = (
        ("host family", header.host_family, host.header.family),
        ("prediction type", header.prediction_type, host.header.prediction_type),
        ("cross-attention width", header.cross_attention_width, host.cross_attention_width),
        ("latent scale", round(header.latent_scale, 4), round(host.header.latent_scale, 4)),
    )
    for what, wanted, found in pairs:
        if wanted != found:
            raise HostMismatchError(
                f"{taming.name} was trained for {what} {wanted}, but the host {host.name} has "
                f"{found}; use the host it was trained with."
            )
    if taming.unet is None or taming.decoder is None or taming.prompt_embedding is None:
        raise HostMismatchError(
            f"Expected UNet taming, decoder taming and a prompt embedding in {taming.name}, "
            "found only a part; enhancing needs all three."
        )
    try:
        check_unet(host.unet, taming.unet)
        check_decoder(host.vae, taming.decoder)
        check_decoder_base(host.vae, taming.decoder_base, header.decoder_base_sample)
    except HostMismatchError as error:
        raise HostMismatchError(
            f"{taming.name} does not fit the host {host.name}: {error} Use the host it was trained "
            "with."
        ) from error
    if header.host_sha256 not in (None, host.sha256):
        log.warning(
            "%s was trained with other weights of the family %s than those of %s",
            taming.name, header.host_family, host.name,
        )  # fmt: skip
