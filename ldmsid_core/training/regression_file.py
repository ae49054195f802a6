"""The baseline's weight file: one safetensors file with its description in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError
from ..safetensors_file import read_safetensors, write_safetensors
from ..taming.configs import config_from_dict
from ..taming.header import InputRecipe
from .regression import LEVELS, RegressionNet

_HEADER_KEY = "ldmsid_regression"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class RegressionHeader:
    """What a baseline's file says about itself.

    Attributes:
        input_recipe: What the planes undergo.
        widths: Channels of the levels, finest first.
        training: Free summary.
        licence: Of the weights.
        format_version: Of this header.
    """

    input_recipe: InputRecipe
    widths: tuple[int, ...]
    training: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Refuse what no network can be built of."""
        whole = all(isinstance(width, int) for width in self.widths)
        if len(self.widths) != LEVELS or not whole or min(self.widths) < 1:
            raise ConfigError(
                f"Expected {LEVELS} widths, whole numbers above 0, found {self.widths}."
            )


@dataclass(frozen=True)
class Regression:
    """A loaded baseline: in evaluation mode, frozen.

    Attributes:
        header: Its description.
        network: The network.
        name: Of the file.
    """

    header: RegressionHeader
    network: RegressionNet
    name: str


def save_regression(
    path: Path,
    header: RegressionHeader,
    network: RegressionNet,
    *,
    dtype: torch.dtype,
    overwrite: bool = False,
) -> None:
    """Write a baseline; the file appears whole or not at all.

    Raises:
        OutputError: If it exists or cannot be written.
    """
    state = {name: tensor.detach().to(dtype) for name, tensor in network.state_dict().items()}
    text = json.dumps(asdict(header), sort_keys=True)
    write_safetensors(path, state, {_HEADER_KEY: text}, overwrite=overwrite)


def _parse_header(text: str, source: str) -> RegressionHeader:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{source}: its header is not readable JSON: {error}.") from error
    version = values.get("format_version") if isinstance(values, Mapping) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{source}: expected regression format version {FORMAT_VERSION}, found {version}; "
            "update LDM-SID or train the baseline again."
        )
    recipe = config_from_dict(InputRecipe, values.get("input_recipe", {}), source=source)
    return config_from_dict(RegressionHeader, {**values, "input_recipe": recipe}, source=source)


def load_regression(path: Path) -> Regression:
    """Read a baseline strictly, in float32.

    Raises:
        CheckpointError: If the file is missing, damaged, no baseline, does not hold what its
            header says, or holds NaN.
        ConfigError: If the header has an unknown setting or one out of range.
    """
    state, metadata = read_safetensors(path)
    if _HEADER_KEY not in metadata:
        raise CheckpointError(
            f"Expected a regression baseline with an '{_HEADER_KEY}' header, but {path} has none; "
            "choose a file that `ldmsid train` wrote of a configuration with regression stages."
        )
    header = _parse_header(metadata[_HEADER_KEY], str(path))
    with torch.device("meta"):
        network = RegressionNet(header.widths)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    odd = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
    if odd:
        raise CheckpointError(
            f"{path}: expected the tensors of widths {header.widths}, but {odd[0]} is "
            f"{found.get(odd[0], 'missing')} instead of {wanted.get(odd[0], 'absent')}; train the "
            "baseline again."
        )
    network.load_state_dict(state, assign=True)
    network.requires_grad_(False).eval()
    return Regression(header, network, path.name)
