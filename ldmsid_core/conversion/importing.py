"""Released checkpoints -> one taming file (`ldmsid convert`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, HostMismatchError
from ..hosts.empty_prompt import empty_prompt_embedding, has_text_encoder
from ..hosts.families import (
    LATENT_SCALE,
    cross_attention_width,
    family_name,
    prediction_type,
)
from ..output.atomic import check_folder, refuse_existing
from ..taming.base_sample import sample_of
from ..taming.checkpoint import save_taming
from ..taming.header import InputRecipe, TamingHeader
from ..weight_file import sha256_of
from .base_weights import BaseWeights, read_base_weights
from .released_file import (
    ReleasedDecoder,
    ReleasedUNet,
    State,
    open_released_decoder,
    open_released_unet,
)
from .shapes import RELEASED_HEADS

LICENCE = "See the authors of LDM-ISP (arXiv 2312.01027); not covered by this project's licence."
_PROMPT = "prompt_embedding"
# Fine-tuning moves every number, so the start of each tensor tells whether a UNet was fine-tuned.
_UNET_SAMPLE = 4096


@dataclass(frozen=True)
class Conversion:
    """What a conversion made.

    Attributes:
        path: Of the taming file.
        header: Its header.
        parameters: Numbers in it.
        decoder_base: Tensors of the base decoder that were kept.
        notes: What the user should know, a line each.
        sha256: Of the file.
    """

    path: Path
    header: TamingHeader
    parameters: int
    decoder_base: int
    notes: list[str] = field(default_factory=list)
    sha256: str = ""

    def report(self) -> dict[str, Any]:
        """For machines."""
        return {
            "output": str(self.path),
            "sha256": self.sha256,
            "parameters": self.parameters,
            "host_family": self.header.host_family,
            "decoder_base": self.decoder_base,
            "notes": self.notes,
        }


@dataclass
class _Draft:
    """What the parts add up to."""

    state: State = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    exported: TamingHeader | None = None


def convert_released(
    output: Path,
    *,
    unet: Path | None = None,
    decoder: Path | None = None,
    host: Path | None = None,
    dtype: torch.dtype = torch.float16,
    decoder_latent_scale: str | None = None,
    encoder_heads: int = RELEASED_HEADS,
    overwrite: bool = False,
) -> Conversion:
    """Convert released checkpoints to a taming file, deterministically.

    Args:
        output: Taming file, `.safetensors`.
        unet: Released UNet checkpoint: structure encoder, SFT layers, text encoder.
        decoder: Released decoder checkpoint: fusions and a base decoder.
        host: Stable Diffusion, single file or diffusers folder; base tensors that equal its own
            are then left out.
        dtype: Of the stored tensors.
        decoder_latent_scale: `unscaled` or `scaled`; None is what an exported file says, else
            `unscaled`, as the released inference decodes.
        encoder_heads: Of the structure encoder's attention.
        overwrite: Replace an existing file.

    Raises:
        CheckpointError: If a file is damaged, asks to run code or is not in the released layout.
        HostMismatchError: If the host is of another family.
        ConfigError: If neither part is given, or the output is no safetensors name.
        OutputError: If the output exists or cannot be written.
    """
    if unet is None and decoder is None:
        raise ConfigError("Expected --unet, --decoder or both, found neither.")
    if output.suffix.lower() != ".safetensors":
        raise ConfigError(f"Expected an output name that ends in .safetensors, found {output}.")
    refuse_existing(output, overwrite=overwrite)
    base = None if host is None else read_base_weights(host)
    first = None if unet is None else open_released_unet(unet, heads=encoder_heads)
    second = None if decoder is None else open_released_decoder(decoder)
    if first is not None and second is not None:
        _check_halves(first, second)
    check_folder(output.parent)
    draft = _Draft()
    if first is not None:
        _add_unet(draft, first, str(unet), base)
    if second is not None:
        _add_decoder(draft, second, base)
    if decoder_latent_scale is not None:
        draft.values["decoder_latent_scale"] = decoder_latent_scale
    header = _header(draft, base)
    try:
        save_taming(output, header, draft.state, dtype=dtype, overwrite=overwrite)
    except CheckpointError as error:
        name = str(dtype).removeprefix("torch.")
        raise CheckpointError(f"{error} Values beyond {name}'s range: try --dtype bf16.") from error
    return Conversion(
        output, header, sum(t.numel() for t in draft.state.values()),
        len(header.decoder_base), draft.notes, sha256_of(output),
    )  # fmt: skip


def _check_halves(unet: ReleasedUNet, decoder: ReleasedDecoder) -> None:
    """Refuse two exported halves of different taming files, or one of ours with one of theirs."""
    shared = [
        None if half.header is None else replace(
            half.header, unet=None, decoder=None, decoder_base=(), decoder_base_sample={}
        )
        for half in (unet, decoder)
    ]  # fmt: skip
    if shared[0] != shared[1]:
        raise CheckpointError(
            "Expected --unet and --decoder from one taming file, or both as released, found halves "
            "whose descriptions differ; convert them one by one."
        )


def _add_unet(draft: _Draft, released: ReleasedUNet, source: str, host: BaseWeights | None) -> None:
    draft.state.update(released.taming)
    draft.values["unet"] = released.config
    draft.exported = draft.exported or released.header
    width = cross_attention_width(released.base)
    if width is not None:
        draft.values["cross_attention_width"] = width
        draft.values["prediction_type"] = prediction_type(released.base)
    if released.prompt_embedding is not None:
        draft.state[_PROMPT] = released.prompt_embedding
    elif has_text_encoder(released.rest):
        draft.state[_PROMPT] = empty_prompt_embedding(released.rest, source=source)
    elif host is not None and (embedding := host.prompt_embedding()) is not None:
        draft.state[_PROMPT] = embedding
        draft.notes.append("The empty prompt's embedding is the host's: no text encoder in --unet.")
    else:
        draft.notes.append(
            f"No text encoder in {source}: the result has no prompt embedding, which `ldmsid "
            "enhance` needs; convert again with --host."
        )
    if host is not None and released.base:
        theirs = host.unet(released.base, blocks=released.config.blocks)
        changed = _differing(released.base, theirs, most=_UNET_SAMPLE)
        if changed:
            draft.notes.append(
                f"{len(changed)} tensors of the UNet in {source} differ from the host's, such as "
                f"{changed[0]}; taming files do not carry them."
            )


def _add_decoder(draft: _Draft, released: ReleasedDecoder, host: BaseWeights | None) -> None:
    draft.state.update(released.taming)
    draft.values["decoder"] = released.config
    draft.exported = draft.exported or released.header
    kept = sorted(released.base)
    if host is not None and released.header is None:
        changed = _differing(released.base, host.decoder(released.base))
        always = [key for key in kept if key.startswith("post_quant_conv.")]
        kept = sorted({*changed, *always})
        left = {key: tensor for key, tensor in released.base.items() if key not in kept}
        draft.values["decoder_base_sample"] = sample_of(left)
        draft.notes.append(
            f"{len(changed)} of {len(released.base)} tensors of the base decoder differ from the "
            "host's and were kept."
        )
    elif kept and released.header is None:
        draft.notes.append(
            f"All {len(kept)} tensors of the base decoder were kept; with --host those that equal "
            "Stable Diffusion's are left out."
        )
    draft.values["decoder_base"] = tuple(kept)
    draft.state.update({f"decoder_base.{key}": released.base[key] for key in kept})


def _differing(
    mine: Mapping[str, Tensor], host: Mapping[str, Tensor], *, most: int | None = None
) -> list[str]:
    """Keys whose tensors are not the host's, at the precision of the coarser of the two.

    Args:
        mine: Of the checkpoint.
        host: Of the host, same names.
        most: Numbers of a tensor to look at; None looks at all.
    """
    changed = []
    for key, tensor in mine.items():
        other = host.get(key)
        if other is None or other.shape != tensor.shape:
            changed.append(key)
            continue
        if not (tensor.is_floating_point() and other.is_floating_point()):
            changed.append(key)
            continue
        coarse = min((tensor.dtype, other.dtype), key=lambda d: torch.finfo(d).bits)
        first, second = (t.reshape(-1)[:most].to(coarse) for t in (tensor, other))
        if not torch.equal(first, second):
            changed.append(key)
    return sorted(changed)


def _header(draft: _Draft, host: BaseWeights | None) -> TamingHeader:
    """Of an exported file its own, with the parts that are here; else what the weights show."""
    if draft.exported is not None:
        _check_host(draft.exported, host)
        parts: dict[str, Any] = {"unet": None, "decoder": None, "decoder_base": ()}
        if "decoder" not in draft.values:
            parts["decoder_base_sample"] = {}
        return replace(draft.exported, **{**parts, **draft.values})
    _describe_host(draft, host)
    header = TamingHeader(
        input_recipe=InputRecipe(white_balance="none"),
        training={"converted_from": "LDM-ISP, released checkpoints"},
        licence=LICENCE,
        **draft.values,
    )
    _check_host(header, host)
    return header


def _describe_host(draft: _Draft, host: BaseWeights | None) -> None:
    """Family and prediction type, from the checkpoint's own UNet or from the host."""
    values = draft.values
    if host is not None:
        values.setdefault("cross_attention_width", host.source.cross_attention_width)
        values.setdefault("prediction_type", host.source.prediction_type)
        values["latent_scale"] = host.source.latent_scale
    if "cross_attention_width" not in values:
        values["cross_attention_width"] = 1024
        draft.notes.append(
            "No UNet in the checkpoint tells the host: taken for Stable Diffusion 2.1-base; give "
            "--host if it is another."
        )
    values.setdefault("prediction_type", "epsilon")
    values.setdefault("latent_scale", LATENT_SCALE)
    values["host_family"] = family_name(values["cross_attention_width"], values["prediction_type"])


def _check_host(header: TamingHeader, host: BaseWeights | None) -> None:
    """Refuse a host of another family than the checkpoint was trained on."""
    if host is None:
        return
    trained = (header.cross_attention_width, header.prediction_type)
    given = (host.source.cross_attention_width, host.source.prediction_type)
    if trained != given:
        raise HostMismatchError(
            f"The checkpoint was trained on a UNet with prompt width {trained[0]} and "
            f"{trained[1]}, but {host.path} has {given[0]} and {given[1]}; give the host it was "
            "trained with, or leave --host out."
        )
