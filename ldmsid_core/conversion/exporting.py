"""A taming file -> checkpoints in the released key layout (`ldmsid convert --to-released`)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigError, OutputError
from ..output.atomic import check_folder, refuse_existing, written_atomically
from ..taming.checkpoint import read_taming_state
from ..taming.header import TamingHeader
from ..taming.released import decoder_taming_names, unet_taming_names
from .released_file import HEADER_KEY, PROMPT_KEY, State

_DECODER, _BASE = "decoder.", "decoder_base."


def _released_unet(state: State, header: TamingHeader, name: str) -> State:
    config = header.unet
    if config is None:
        return {}
    if config.kind != "released" or config.encoder.heads == 0:
        raise ConfigError(
            f"Expected taming modules of the released kind in {name}, found SFT layers of kind "
            f"{config.kind!r}, which the released layout cannot hold; train with kind 'released'."
        )
    names = unet_taming_names(config)
    return {
        theirs: _as_convolution(state[ours], theirs)
        for theirs, ours in names.items()
        if ours in state
    }


def _as_convolution(tensor: Tensor, key: str) -> Tensor:
    """Attention's projections are 1x1 convolutions in the released layout."""
    is_projection = key.endswith((".qkv.weight", ".proj_out.weight")) and tensor.ndim == 2
    return tensor.unsqueeze(-1) if is_projection else tensor


def _released_decoder(state: State, header: TamingHeader) -> State:
    if header.decoder is None:
        return {}
    fusions = {
        k: f"{_DECODER}{v.removeprefix('levels.')}" for k, v in decoder_taming_names().items()
    }
    ready = {theirs: state[ours] for theirs, ours in fusions.items() if ours in state}
    ready.update({k.removeprefix(_BASE): v for k, v in state.items() if k.startswith(_BASE)})
    return ready


def export_released(taming: Path, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write a taming file's halves as checkpoints with the released keys.

    Beside `state_dict` each carries our header and the prompt embedding, so that converting back
    loses nothing. The host's own weights are not in them.

    Args:
        taming: Taming file, of SFT kind `released`.
        folder: For `NAME_unet.ckpt` and `NAME_decoder.ckpt`.
        overwrite: Replace existing files.

    Returns:
        The files written.

    Raises:
        CheckpointError: If the taming file is damaged.
        ConfigError: If its modules have no released form.
        OutputError: If a file exists or cannot be written.
    """
    state, header = read_taming_state(taming)
    halves = {
        folder / f"{taming.stem}_unet.ckpt": _released_unet(state, header, taming.name),
        folder / f"{taming.stem}_decoder.ckpt": _released_decoder(state, header),
    }
    written = [path for path, half in halves.items() if half]
    for path in written:
        refuse_existing(path, overwrite=overwrite)
    check_folder(folder)
    for path in written:
        content = {"state_dict": halves[path], HEADER_KEY: header.to_json()}
        if PROMPT_KEY in state:
            content[PROMPT_KEY] = state[PROMPT_KEY]
        with written_atomically(path, overwrite=overwrite) as partial:
            try:
                with partial.open("wb") as stream:  # by name, torch stores the random name inside
                    torch.save(content, stream)
            except RuntimeError as error:  # how torch reports a full disk
                raise OutputError(f"Cannot write {path}: {error}; make room.") from error
    return written
