"""`ldmsid convert` and `ldmsid check`: other people's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .cli_options import (
    device_option,
    dtype_option,
    host_option,
    json_option,
    one_clear_line,
    overwrite_option,
    quiet_option,
    seed_option,
    set_threads,
    steps_option,
    threads_option,
)
from .errors import ConfigError


@click.command()
@click.option("--unet", type=click.Path(path_type=Path),
              help="Released UNet checkpoint, such as LDM_ISP_UNet_epoch=000100.ckpt.")  # fmt: skip
@click.option("--decoder", type=click.Path(path_type=Path),
              help="Released decoder file, such as LDM_ISP_VAE_epoch=000030.ckpt.")  # fmt: skip
@click.option("--to-released", "to_released", type=click.Path(path_type=Path), metavar="TAMING",
              help="The other way: this taming file to checkpoints in the folder -o.")  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path),
              help="Taming file to write, .safetensors; with --to-released a folder.")  # fmt: skip
@click.option("--host", type=click.Path(path_type=Path),
              help="Stable Diffusion: what of the decoder equals it is left out.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["fp16", "bf16", "fp32"]), default=None,
              help="What the weights are stored in; default: fp16.")  # fmt: skip
@click.option("--decoder-latent-scale", type=click.Choice(["unscaled", "scaled"]), default=None,
              help="What the tamed decoder takes; `ldmsid check` tells.")  # fmt: skip
@overwrite_option
@json_option
@one_clear_line
def convert(**options: Any) -> None:
    """Turn released LDM-ISP checkpoints into one taming file, or back.

    The files are read without running anything they hold, memory-mapped, and left as they are.
    """
    as_json, taming = options.pop("as_json"), options.pop("to_released")
    if taming is not None:
        files = _export(taming, options)
        click.echo(json.dumps([str(f) for f in files]) if as_json else "\n".join(map(str, files)))
        return
    from .conversion.importing import convert_released
    from .hosts.dtypes import DTYPES
    from .model_files import find_model

    if options["host"] is not None:
        options["host"] = find_model(options["host"], options["host"])
    options["dtype"] = DTYPES[options["dtype"] or "fp16"]
    made = convert_released(**options)
    if as_json:
        click.echo(json.dumps(made.report()))
        return
    click.echo(f"{made.path}  {made.parameters / 1e6:.1f} M parameters  sha256 {made.sha256}")
    for note in made.notes:
        click.echo(note)


def _export(taming: Path, options: dict[str, Any]) -> list[Path]:
    from .conversion.exporting import export_released
    from .model_files import find_model

    others = ("unet", "decoder", "host", "dtype", "decoder_latent_scale")
    given = [name for name in others if options[name] is not None]
    if given:
        name = given[0].replace("_", "-")
        raise ConfigError(f"Expected --to-released alone, found --{name} beside it; leave it out.")
    return export_released(
        find_model(taming, taming), options["output"], overwrite=options["overwrite"]
    )


@click.command()
@click.argument("taming", type=click.Path(path_type=Path))
@host_option
@click.option("--raw", type=click.Path(path_type=Path),
              help="A dark RAW: decode it both ways and tell which reconstructs.")  # fmt: skip
@click.option("--ratio", default=None, help="Exposure ratio of the RAW; default: auto.")
@click.option("--crop", type=click.IntRange(64, 8192), default=None,
              help="Side of the RAW's middle part, packed pixels; default: 512.")  # fmt: skip
@steps_option
@seed_option
@device_option
@dtype_option
@threads_option
@quiet_option
@json_option
@one_clear_line
def check(taming: Path, **options: Any) -> None:
    """Say what a TAMING file holds, whether it fits a host, and how its decoder wants latents."""
    from .cli_check import check_taming

    set_threads(options.pop("threads"))
    as_json = options.pop("as_json")
    asked = {k: options.pop(k) for k in ("ratio", "crop", "steps") if options[k] is not None}
    for name in ("ratio", "crop", "steps"):
        options.pop(name, None)
    if asked and options["raw"] is None:
        raise ConfigError(f"Expected --raw with --{next(iter(asked))}, found none: name a RAW.")
    found = check_taming(taming, **options, **asked)
    if as_json:
        click.echo(json.dumps(found))
        return
    width = max(map(len, found))
    for name, value in found.items():
        click.echo(f"{name.ljust(width)}  {value}")
