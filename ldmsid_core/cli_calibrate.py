"""`ldmsid calibrate`: the noise of one's own camera, from its own frames."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_options import json_option, one_clear_line, overwrite_option
from .errors import ConfigError, UnsupportedRawError

if TYPE_CHECKING:
    from .raw.noise_calibration import Calibration
    from .raw.noise_profile import IsoEntry

_COLUMNS = (
    "ISO", "dark", "flat pairs", "black R,G1,B,G2", "K", "read TL scale", "shape",
    "read sigma", "row",
)  # fmt: skip


@click.command()
@click.option(
    "--dark",
    multiple=True,
    metavar="FILES",
    help="Frames with the lens cap on: a file, folder or glob; may be repeated.",
)
@click.option(
    "--flat",
    multiple=True,
    metavar="FILES",
    help="Evenly lit frames, two of each brightness, at several; for K.",
)
@click.option(
    "--masked",
    multiple=True,
    metavar="FILES",
    help="Instead of --dark: any pictures, of which the masked border is used.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The noise profile to write, .json.",
)
@click.option(
    "--iso",
    type=float,
    default=None,
    help="ISO of all frames; default: from each file's EXIF data.",
)
@click.option(
    "--gain",
    type=float,
    default=None,
    help="K, counts per electron, where there are no flat frames; one ISO only.",
)
@click.option(
    "--gain-step",
    type=float,
    multiple=True,
    metavar="ISO",
    help="Last ISO of a gain stage; nothing is interpolated across. May be repeated.",
)
@click.option(
    "--read-noise",
    default="tukey-lambda",
    show_default=True,
    type=click.Choice(["tukey-lambda", "gaussian"]),
    help="What the profile uses; both are measured and stored.",
)
@click.option(
    "--law",
    is_flag=True,
    help="Store a joint law fitted to the ISOs instead of the ISOs themselves.",
)
@overwrite_option
@json_option
@one_clear_line
def calibrate(**options: Any) -> None:
    """Measure the sensor noise of your own camera into a noise profile.

    Take dark frames (lens cap on, short exposure) and pairs of flat frames (an even surface out of
    focus, nothing changed between the two) at each ISO; several ISOs in one run are told apart by
    EXIF. From masked borders alone, or without flat frames, K stays missing unless --gain says it.
    """
    as_json = options.pop("as_json")
    found = run_calibration(**options)
    if as_json:
        entries = [asdict(entry) for entry in found.entries]
        click.echo(json.dumps({"camera": found.profile.name, "profile": str(options["output"]),
                               "entries": entries, "notes": found.notes}))  # fmt: skip
        return
    click.echo(f"{found.profile.name}: {found.profile.method}")
    click.echo(measured_table(found))
    for note in found.notes:
        click.echo(note)
    click.echo(str(options["output"]))


def run_calibration(
    *,
    dark: tuple[str, ...] = (),
    flat: tuple[str, ...] = (),
    masked: tuple[str, ...] = (),
    output: Path,
    iso: float | None = None,
    gain: float | None = None,
    gain_step: tuple[float, ...] = (),
    read_noise: Any = "tukey-lambda",
    law: bool = False,
    overwrite: bool = False,
) -> Calibration:
    """Measure and write a profile; the options of the command.

    Raises:
        ConfigError: If the frames do not belong together or are not what they should be.
        OutputError: If the profile exists or cannot be written.
        UnsupportedRawError: If a file cannot be read.
    """
    from .output.atomic import refuse_existing
    from .raw.noise_calibration import CalibrationSettings, calibrate_camera
    from .raw.noise_profile_file import save_noise_profile

    if output.suffix.lower() != ".json":
        raise ConfigError(f"Expected an output name that ends in .json, found {output}.")
    refuse_existing(output, overwrite=overwrite)
    if bool(dark) == bool(masked):
        found = "both; leave one out" if dark else "neither; name frames with the lens cap on"
        raise ConfigError(f"Expected either --dark or --masked, found {found}.")
    settings = CalibrationSettings(
        masked=bool(masked), iso=iso, shot_gain=gain, gain_steps=tuple(sorted(gain_step)),
        read_kind=read_noise, fit_law=law,
    )  # fmt: skip
    measured = calibrate_camera(_files(dark or masked), _files(flat), settings)
    save_noise_profile(measured.profile, output, overwrite=overwrite)
    return measured


def _files(names: tuple[str, ...]) -> list[Path]:
    from .cli_files import find_raws

    files, failed = find_raws(names)
    if failed:
        raise UnsupportedRawError(failed[0]["error"])
    return files


def measured_table(found: Calibration) -> str:
    """What was measured and from how many frames, one ISO a line."""
    black = found.profile.levels.black
    rows = [_COLUMNS, *(_cells(entry, black) for entry in found.entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def _cells(entry: IsoEntry, black: tuple[int, ...]) -> tuple[str, ...]:
    measured = (level + bias for level, bias in zip(black, entry.colour_bias, strict=True))
    gain = "missing" if entry.shot_gain is None else f"{entry.shot_gain:.4f}"
    return (
        f"{entry.iso:g}", str(entry.dark_frames), str(entry.flat_pairs),
        ",".join(f"{level:.2f}" for level in measured),
        f"{gain} (given)" if entry.gain_source == "given" else gain,
        f"{entry.read_scale:.4f}", f"{entry.read_shape:+.4f}", f"{entry.read_deviation:.4f}",
        f"{entry.row_noise:.4f}",
    )  # fmt: skip
