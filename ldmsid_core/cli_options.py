"""What the commands share: options, and errors as one clear line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from .errors import LdmSidError

_Command = TypeVar("_Command", bound=Callable[..., Any])


def one_clear_line(command: _Command) -> _Command:
    """Turn our errors into one line on stderr and exit code 1, Ctrl-C into 130."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except LdmSidError as error:
            click.echo(f"ldmsid: {' '.join(str(error).split())}", err=True)
            sys.exit(1)
        except ModuleNotFoundError as error:
            click.echo(
                f"ldmsid: this command needs the package {error.name}; install it with "
                "pip install 'ldmsid[train]'.",
                err=True,
            )
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("ldmsid: interrupted; nothing half-written is left.", err=True)
            sys.exit(130)

    return wrapped  # type: ignore[return-value]


def set_threads(threads: int | None) -> None:
    """Use this many CPU threads; None leaves PyTorch's choice."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), default=None, help="CPU threads; default: all."
)
quiet_option = click.option("--quiet", is_flag=True, help="No progress bars, no chatter.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace results that exist already."
)
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="Of the noise."
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="What to compute in.",
)
host_option = click.option(
    "--host",
    type=click.Path(path_type=Path),
    help="Stable Diffusion: file, folder or name in $LDMSID_MODELS; default: embedded.",
)
taming_option = click.option(
    "--taming",
    type=click.Path(path_type=Path),
    help="Taming file or its name in $LDMSID_MODELS; default: embedded.",
)
steps_option = click.option(
    "--steps", type=click.IntRange(1, 1000), default=None, help="Sampling steps; default 12."
)


_TILES = (
    click.option("--tile", type=int, default=0,
                 help="Sample in tiles of this side, in pixels; default: chosen by work and "
                 "memory."),
    click.option("--overlap", type=int, default=None,
                 help="Of neighbouring tiles, in pixels; default: a quarter, at most 128."),
    click.option("--tile-batch", type=click.IntRange(0, 64), default=0,
                 help="Tiles computed in one call; default: 1 on a CPU, on a GPU by its memory."),
    click.option("--decode", default="auto", show_default=True,
                 type=click.Choice(["auto", "exact", "bounded"]),
                 help="exact: all layers over the whole frame; bounded: in tiles, for any size."),
    click.option("--decode-tile", type=int, default=0,
                 help="Side of the tiles of bounded decoding, in pixels; default: 768."),
    click.option("--start", type=float, default=1.0, show_default=True,
                 help="Part of the noise schedule to begin at; below 1 with the low band."),
    click.option("--compile", is_flag=True, help="Run the UNet through torch.compile."),
)  # fmt: skip


def tile_options(command: _Command) -> _Command:
    """Options of how a frame is cut and where sampling begins."""
    for option in reversed(_TILES):
        command = option(command)
    return command
