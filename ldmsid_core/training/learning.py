"""What learns and what must not: its optimiser; checks before a taming stage and after it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import ConfigError, HostMismatchError
from .stage import StageConfig


def set_trainable(module: nn.Module, *, trainable: bool) -> None:
    """Let a module learn, or freeze it and put it in evaluation mode."""
    module.train(trainable)
    for parameter in module.parameters():
        parameter.requires_grad_(trainable)


def build_optimiser(module: nn.Module, config: StageConfig) -> torch.optim.Optimizer:
    """The stage's optimiser over the parameters that learn."""
    kinds: dict[str, type[torch.optim.Adam] | type[torch.optim.AdamW]] = {
        "adam": torch.optim.Adam, "adamw": torch.optim.AdamW,
    }  # fmt: skip
    parameters = [p for p in module.parameters() if p.requires_grad]
    return kinds[config.optimiser](
        parameters,
        lr=config.learning_rate,
        betas=config.adam_betas,
        weight_decay=config.weight_decay,
    )


def check_only_taming_learns(taming: nn.Module, *hosts: nn.Module) -> None:
    """Refuse a taming stage in which a host would learn, or taming would not.

    Raises:
        ConfigError: Naming the parameter.
    """
    own = {id(parameter) for parameter in taming.parameters()}
    for host in hosts:
        for name, parameter in host.named_parameters():
            if parameter.requires_grad or id(parameter) in own:
                raise ConfigError(
                    f"Expected a frozen host, but {name} of the {type(host).__name__} would learn; "
                    "freeze it before the stage."
                )
    for name, parameter in taming.named_parameters():
        if not parameter.requires_grad:
            raise ConfigError(
                f"Expected all of {type(taming).__name__} to learn, but {name} is frozen."
            )


def weights_sha256(*modules: nn.Module) -> str:
    """Of names, shapes and values of all tensors, whatever device they are on."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def unchanged_hosts(stage: str, *hosts: nn.Module) -> Iterator[None]:
    """Compare the hosts' weights before and after a `with` block.

    Raises:
        HostMismatchError: If a weight changed.
    """
    before = weights_sha256(*hosts)
    yield
    if weights_sha256(*hosts) != before:
        raise HostMismatchError(
            f"The host's weights changed in stage {stage}, which trains taming alone; the taming "
            "it trained does not belong to the host. Train the stage again from its start."
        )


@contextmanager
def checkpointed(*networks: nn.Module, enabled: bool) -> Iterator[None]:
    """Gradient checkpointing of diffusers' networks for the length of a `with` block."""
    for network in networks if enabled else ():
        network.enable_gradient_checkpointing()  # type: ignore[operator]
    try:
        yield
    finally:
        for network in networks if enabled else ():
            network.disable_gradient_checkpointing()  # type: ignore[operator]
