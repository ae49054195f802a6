"""Writing results where ComfyUI keeps them, with the graph inside unless the user forbids it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from torch import Tensor

from ..ldmsid_core.errors import OutputError
from ..ldmsid_core.output.settings import OutputInfo
from ..ldmsid_core.output.writers import suffix_of, write_image
from ..ldmsid_core.raw.packed_raw import PackedRaw, RawMetadata


def graph_texts(hidden: Any) -> dict[str, str]:
    """The graph as the frontend reads it back from a picture; empty with --disable-metadata.

    Args:
        hidden: A node's hidden inputs: `prompt` and `extra_pnginfo`.
    """
    if args.disable_metadata or hidden is None:
        return {}
    texts = {} if hidden.prompt is None else {"prompt": json.dumps(hidden.prompt)}
    extra = hidden.extra_pnginfo or {}
    return {**texts, **{name: json.dumps(value) for name, value in extra.items()}}


def describe(raw: PackedRaw | None, texts: dict[str, str]) -> OutputInfo:
    """What a result says about itself; the place where it was taken is never kept."""
    if raw is None:
        return OutputInfo(RawMetadata(), {}, texts=texts)
    settings = {
        "raw": raw.file_name,
        "exposure_ratio": raw.exposure_ratio,
        "white_balance": list(raw.white_balance),
    }
    return OutputInfo(raw.metadata, settings, texts=texts)


def _place(prefix: str, folder: str, width: int, height: int) -> tuple[str, str, int, str]:
    """Folder, file name, next number and subfolder of a prefix, made if needed.

    Raises:
        OutputError: If the prefix leaves the folder, or the folder cannot be made.
    """
    try:
        place, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            prefix, folder, width, height
        )
    except OSError as error:
        raise OutputError(
            f"Cannot write {prefix} into {folder}: {error.strerror or error}. Check that the "
            "folder may be written to and has room."
        ) from error
    except Exception as error:  # the host raises a bare Exception for a prefix that leaves
        raise OutputError(
            f"Expected a file name prefix inside {folder}, found {prefix!r}; leave out '..' and "
            "drive letters."
        ) from error
    return place, name, counter, subfolder


def save_pictures(
    images: Tensor, info: OutputInfo, *, prefix: str, output_format: str, kind: str
) -> list[dict[str, str]]:
    """Write every picture of a batch under the next free numbers.

    Args:
        images: `(B, 3, H, W)` unit range.
        info: What to keep inside.
        prefix: File name prefix; may hold subfolders, %year%, %month%, %day%, %width%, %height%.
        output_format: One of `OUTPUT_FORMATS`.
        kind: `output` or `temp`.

    Returns:
        One entry a file, as the frontend wants them: filename, subfolder, type.

    Raises:
        OutputError: If a file cannot be written; those before stay, whole.
    """
    folder = (
        folder_paths.get_output_directory()
        if kind == "output"
        else folder_paths.get_temp_directory()
    )
    height, width = images.shape[-2:]
    place, name, counter, subfolder = _place(prefix, folder, width, height)
    saved = []
    for number, image in enumerate(images):
        own = name.replace("%batch_num%", str(number))
        file_name = _free_name(place, own, counter + number, suffix_of(output_format))
        path = Path(place) / file_name
        write_image(path, image[None], info, output_format=output_format)
        saved.append({"filename": file_name, "subfolder": subfolder, "type": kind})
    return saved


def _free_name(folder: str, name: str, counter: int, suffix: str) -> str:
    """The first number from `counter` on whose name is free."""
    while os.path.exists(os.path.join(folder, f"{name}_{counter:05}_{suffix}")):
        counter += 1
    return f"{name}_{counter:05}_{suffix}"
