"""Where half precision does not suffice: attention in float16, the decoder's last convolution."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


@contextlib.contextmanager
def precise_output(vae: nn.Module) -> Iterator[None]:
    """The decoder's last convolution in float32: in bf16 bright levels are 1/512 apart."""
    last = vae.get_submodule("decoder.conv_out")
    before = next(last.parameters()).dtype

    def to_float32(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].float(), *inputs[1:])

    last.float()
    handle = last.register_forward_pre_hook(to_float32)
    try:
        yield
    finally:
        handle.remove()
        last.to(before)


@contextlib.contextmanager
def upcast_attention(*networks: nn.Module) -> Iterator[None]:
    """Attention in float32 wherever a network's projections are float16.

    Products of Stable Diffusion 2.1's queries and keys leave float16's range, and the picture
    comes out black. Other dtypes are left alone.
    """
    handles = []

    def to_float32(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output.float()

    def to_float16(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].half(), *inputs[1:])

    try:
        for network in networks:
            for module in network.modules():
                if isinstance(module, Attention) and module.to_q.weight.dtype == torch.float16:
                    for projection in (module.to_q, module.to_k, module.to_v):
                        handles.append(projection.register_forward_hook(to_float32))
                    handles.append(module.to_out[0].register_forward_pre_hook(to_float16))
        yield
    finally:
        for handle in handles:
            handle.remove()
