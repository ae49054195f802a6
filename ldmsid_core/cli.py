"""The `ldmsid` command and its subcommands."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from .cli_calibrate import calibrate
from .cli_evaluate_command import evaluate
from .cli_options import (
    device_option,
    dtype_option,
    json_option,
    one_clear_line,
    overwrite_option,
    quiet_option,
    seed_option,
    set_threads,
    steps_option,
    threads_option,
    tile_options,
)
from .cli_prepare import prepare
from .cli_train import ablate, train
from .cli_weights import check, convert


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ldmsid")
@click.option("--verbose", is_flag=True, help="Log what is loaded.")
def main(verbose: bool) -> None:
    """See in the dark: dark camera RAW files become clean photographs."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s"
    )


@main.command()
@click.argument("raws", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path),
              help="Folder for the results, made if needed.")  # fmt: skip
@click.option("--ratio", default="auto", show_default=True,
              help="Exposure ratio: 250 means 1/250 of the light needed; or auto.")  # fmt: skip
@click.option("--reference", type=click.Path(path_type=Path),
              help="A longer exposure of the scene: ratio from the EXIF pair.")  # fmt: skip
@click.option("--format", "output_format", default="png", show_default=True,
              type=click.Choice(["png", "png16", "tiff16"]), help="8 or 16 bits.")  # fmt: skip
@click.option("--sampler", default=None, show_default="dpmpp-2m",
              type=click.Choice(["dpmpp-2m", "unipc", "ddim", "ddim-released", "ddpm-released"]),
              help="Solver; the released ones reproduce published numbers.")  # fmt: skip
@click.option(
    "--host",
    type=click.Path(path_type=Path),
    help="Stable Diffusion: file, folder or name; default: embedded.",
)
@click.option("--taming", type=click.Path(path_type=Path),
              help="Taming file or its name; default: embedded.")  # fmt: skip
@click.option("--keep-gps", is_flag=True, help="Keep the place where the picture was taken.")
@steps_option
@seed_option
@device_option
@dtype_option
@threads_option
@click.option("--strength", type=click.FloatRange(0.0, 2.0), default=1.0, show_default=True,
              help="Of UNet taming: 0 leaves the host untamed.")  # fmt: skip
@click.option("--decoder-strength", type=click.FloatRange(0.0, 2.0), default=1.0,
              show_default=True, help="The same of decoder taming.")  # fmt: skip
@tile_options
@click.option("--crop", default=None, metavar="X,Y,W,H",
              help="Only this part of the picture, in pixels: a quick test.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what it would take.")
@click.option("--recipe", default="default", show_default=True,
              type=click.Choice(["default", "released"]),
              help="released: the authors' 200 steps and tiles, to compare with.")  # fmt: skip
@click.option("--rounding", default="nearest", show_default=True,
              type=click.Choice(["nearest", "released"]),
              help="released cuts fractions off, as published numbers do.")  # fmt: skip
@overwrite_option
@quiet_option
@json_option
@one_clear_line
def enhance(**options: Any) -> None:
    """Turn dark RAWS (files, folders, globs) into photographs.

    A file that fails is reported and the others go on; the exit code is then 1.
    """
    from .cli_enhance import enhance_files
    from .cli_enhance_options import EnhanceOptions

    set_threads(options.pop("threads"))
    as_json, quiet = options.pop("as_json"), options["quiet"]
    raws = options.pop("raws")
    settings = EnhanceOptions(**options)
    reports = enhance_files(raws, settings)
    failed = [r for r in reports if "error" in r]
    if as_json:
        click.echo(json.dumps(reports))
    for report in reports:
        if "error" in report:
            click.echo(f"ldmsid: {report['error']}", err=True)
        elif not as_json and (settings.dry_run or not quiet):
            click.echo(
                f"{report['raw']}: {report['estimate']}"
                if settings.dry_run
                else f"{report['output']}  ratio {report['exposure_ratio']:.4g}  "
                f"{report['seconds']:.1f} s"
            )
    if failed:
        sys.exit(1)


@main.command()
@click.argument("raw", type=click.Path(path_type=Path))
@json_option
@one_clear_line
def info(raw: Path, as_json: bool) -> None:
    """Print what a RAW file says about itself."""
    from .raw.exposure import auto_exposure_ratio, scene_brightness
    from .raw.loader import load_raw

    loaded = load_raw(raw)
    values = {
        **loaded.header(),
        "brightness": scene_brightness(loaded),
        "auto_ratio": auto_exposure_ratio(loaded),
    }
    if as_json:
        click.echo(json.dumps(values))
        return
    width = max(map(len, values))
    for name, value in values.items():
        shown = "not in the file" if value is None else value
        click.echo(f"{name.ljust(width)}  {shown}")


@main.command()
@click.argument("photograph")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path),
              help="The DNG to write.")  # fmt: skip
@click.option("--ratio", type=float, default=250.0, show_default=True, help="Exposure ratio.")
@click.option("--iso", type=float, default=None,
              help="Of the camera's calibration; default: 1600.")  # fmt: skip
@click.option("--noise", default="a7s2", show_default=True, metavar="FILE_OR_NAME",
              help="Noise profile, or a7s2, phone, a7s2-law, d850, 5d4, 70d, 700d.")  # fmt: skip
@click.option("--size", type=click.IntRange(64, 8192), default=None,
              help="Scale the longer side to this many pixels first.")  # fmt: skip
@seed_option
@overwrite_option
@one_clear_line
def synth(photograph: str, **options: Any) -> None:
    """Make a dark, noisy DNG with known truth from a PHOTOGRAPH.

    PHOTOGRAPH is a picture file, or the name of a bundled one: astronaut, chelsea, coffee,
    rocket. Beside the DNG lies the truth, as NAME_truth.png.

    Which gain an ISO has is not known of a7s2-law, d850, 5d4, 70d and 700d: the seed draws a
    sensor from the camera's joint law, and --iso is refused. Their levels are 14 bit.
    """
    from .cli_synth import synthesise

    for path in synthesise(photograph, **options):
        click.echo(str(path))


@main.command()
@click.argument("raw", type=click.Path(path_type=Path))
@click.argument("result", type=click.Path(path_type=Path))
@click.argument("truth", type=click.Path(path_type=Path))
@click.option("--sheet", type=click.Path(path_type=Path), default=None,
              help="Write a sheet: naively amplified | enhanced | truth.")  # fmt: skip
@overwrite_option
@json_option
@one_clear_line
def score(raw: Path, result: Path, truth: Path, as_json: bool, **options: Any) -> None:
    """Score the RESULT of enhancing RAW against its TRUTH."""
    from .cli_score import score_result

    scores = score_result(raw, result, truth, **options)
    if as_json:
        click.echo(json.dumps(scores))
        return
    for name, values in scores.items():
        click.echo(f"{name.ljust(10)} PSNR {values['psnr']:.2f} dB  SSIM {values['ssim']:.3f}")


main.add_command(convert)
main.add_command(train)
main.add_command(ablate)
main.add_command(check)
main.add_command(calibrate)
main.add_command(prepare)
main.add_command(evaluate)


def run() -> None:
    """Entry point: keeps what C libraries print of damaged files off the user's screen.

    LibRaw writes to the process's standard error before we can say in one line what is wrong.
    """
    try:
        kept = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace")
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 2)
        os.close(silent)
        sys.stderr = kept
    except OSError:  # started without a standard error
        pass
    main()
