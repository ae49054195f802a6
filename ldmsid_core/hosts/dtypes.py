"""Where and in what to compute: devices and dtypes by name."""

from __future__ import annotations

import torch

from ..errors import ConfigError

_DEVICES = ("cpu", "cuda", "mps", "xpu")
DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def choose_device(name: str) -> torch.device:
    """The torch device of `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        ConfigError: If there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in _DEVICES:
            raise RuntimeError(f"{device.type} computes nothing")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"Expected a device that this machine has, found {name!r}; try --device auto or cpu."
        ) from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of `auto`, `fp32`, `bf16`, `fp16`; auto is bf16 where the device computes in it.

    Raises:
        ConfigError: If the name is unknown.
    """
    if name != "auto":
        if name not in DTYPES:
            raise ConfigError(f"Expected a dtype among auto, {', '.join(DTYPES)}, found {name!r}.")
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and _cpu_computes_bf16():
        return torch.bfloat16
    return torch.float32


def _cpu_computes_bf16() -> bool:
    """Whether the CPU has instructions for products of bfloat16, AMX or AVX-512's."""
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    found = (getattr(torch.cpu, name, None) for name in names)
    return any(bool(supported()) for supported in found if callable(supported))
