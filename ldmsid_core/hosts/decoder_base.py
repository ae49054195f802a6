"""A taming file's own base decoder in place of the host's, for the length of a `with` block.

Released decoder taming was trained together with a decoder that learned as well; its tensors
travel in the taming file under `decoder_base.*`, in the original layout.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ..errors import HostMismatchError
from ..taming.base_sample import other_tensor
from .layout import to_diffusers, vae_names


def _placed(vae: nn.Module, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The base decoder's tensors under diffusers' names, checked against the VAE."""
    own = dict(vae.named_parameters())
    ready = to_diffusers(base, vae_names(base))
    for name, tensor in ready.items():
        if name not in own or own[name].shape != tensor.shape:
            found = tuple(own[name].shape) if name in own else "no such tensor"
            raise HostMismatchError(
                f"Expected {name} of shape {tuple(tensor.shape)} in the host's VAE, found {found}."
            )
    return ready


def check_decoder_base(
    vae: nn.Module, base: Mapping[str, Tensor], sample: Mapping[str, list[float]]
) -> None:
    """Refuse a VAE of another shape, or whose other tensors are not those that were left out.

    Args:
        vae: diffusers' `AutoencoderKL`.
        base: Tensors by their names in the original layout; may be empty.
        sample: The header's `decoder_base_sample`.

    Raises:
        HostMismatchError: If a tensor has no place there, or is another decoder's.
    """
    _placed(vae, base)
    own, names = dict(vae.named_parameters()), vae_names(sample)
    other = other_tensor(sample, lambda name: own.get(names[name]))
    if other is not None:
        raise HostMismatchError(
            f"{other} of the host's VAE is not what the taming file was converted against; use "
            "that host, or convert again without --host."
        )


@contextlib.contextmanager
def replaced_decoder(vae: nn.Module, base: Mapping[str, Tensor]) -> Iterator[None]:
    """Put a base decoder in; afterwards the host's own tensors are back, bit for bit.

    Args:
        vae: diffusers' `AutoencoderKL`.
        base: Tensors by their names in the original layout; may be empty.

    Raises:
        HostMismatchError: If a tensor has no place in the VAE.
    """
    parameters, before = dict(vae.named_parameters()), {}
    try:
        for name, tensor in _placed(vae, base).items():
            parameter = parameters[name]
            before[name] = parameter.data
            placed = tensor.to(parameter.device, parameter.dtype)
            if placed.ndim == 4:
                placed = placed.contiguous(memory_format=torch.channels_last)
            parameter.data = placed
        yield
    finally:
        for name, data in before.items():
            parameters[name].data = data
