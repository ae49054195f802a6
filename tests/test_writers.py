"""Result files: values, profile, metadata, and that nothing is ever lost or half-written."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import png
import pytest
import tifffile
import torch
from helpers.raws import need_raw
from PIL import Image, ImageCms

from ldmsid_core.errors import ConfigError, OutputError
from ldmsid_core.output.atomic import check_folder, written_atomically
from ldmsid_core.output.settings import OutputInfo
from ldmsid_core.output.writers import (
    OUTPUT_FORMATS,
    quantise,
    read_settings,
    suffix_of,
    write_image,
)
from ldmsid_core.raw.metadata import parse_exif, read_gps
from ldmsid_core.raw.packed_raw import RawMetadata

METADATA = RawMetadata(
    make="Sony", model="ILCE-7SM2", iso=1600, shutter_s=0.04, aperture=5.6, focal_length_mm=35.0,
    lens="FE 35mm", taken_at="2024-05-06T07:08:09",
)  # fmt: skip
GPS = {1: "N", 2: (33.0, 7.0, 36.5), 3: "W", 4: (117.0, 19.0, 36.0)}
INFO = OutputInfo(METADATA, {"exposure_ratio": 250.0, "seed": 3}, None, {"workflow": "{ü}"})


def ramp() -> torch.Tensor:
    values = torch.linspace(0.0, 1.0, 40 * 60, dtype=torch.float64).reshape(40, 60)
    return torch.stack([values, values.flip(0), values.flip(1)])[None].float()


def read_back(path: Path) -> np.ndarray:
    if path.suffix == ".tif":
        return np.asarray(tifffile.imread(path))
    width, height, rows, _ = png.Reader(filename=str(path)).read()
    return np.vstack([np.asarray(row) for row in rows]).reshape(height, width, 3)


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_values_are_rounded_and_all_levels_survive(tmp_path: Path, output_format: str) -> None:
    path = tmp_path / f"a{suffix_of(output_format)}"
    write_image(path, ramp(), INFO, output_format=output_format)
    bits = 8 if output_format == "png" else 16
    found = read_back(path)
    wanted = np.round(ramp()[0].permute(1, 2, 0).double().numpy() * (2**bits - 1))
    assert np.array_equal(found, wanted)
    if bits == 16:
        assert len(np.unique(found)) > 2000


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_profile_settings_and_camera_metadata(tmp_path: Path, output_format: str) -> None:
    path = tmp_path / f"a{suffix_of(output_format)}"
    write_image(path, ramp(), INFO, output_format=output_format)
    settings = read_settings(path)
    assert settings is not None
    assert json.loads(settings).items() >= INFO.settings.items()
    if output_format == "tiff16":
        with tifffile.TiffFile(path) as stored:
            tags = {tag.code: tag.value for tag in stored.pages.first.tags}
        profile = tags[34675]
        assert (tags[271], tags[272], tags[34855]) == ("Sony", "ILCE-7SM2", 1600)
        assert tags[33434] == (1, 25)
        assert tags[306] == "2024:05:06 07:08:09"
    else:
        with Image.open(path) as picture:
            picture.load()
            profile, exif = picture.info["icc_profile"], picture.getexif()
            assert picture.text["workflow"] == "{ü}"  # type: ignore[attr-defined]
        inner = exif.get_ifd(0x8769)
        assert (exif[271], exif[272], exif[274]) == ("Sony", "ILCE-7SM2", 1)
        assert (inner[0x8827], inner[0xA434]) == (1600, "FE 35mm")
        assert float(inner[0x829A]) == pytest.approx(0.04)
        assert not exif.get_ifd(0x8825)
    name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    assert "sRGB" in name


def _place_of(path: Path) -> dict[int, Any]:
    if path.suffix == ".tif":
        with path.open("rb") as stream:
            return read_gps(parse_exif(stream, path.name)) or {}
    with Image.open(path) as picture:
        return dict(picture.getexif().get_ifd(0x8825))


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_gps_is_written_only_when_given(tmp_path: Path, output_format: str) -> None:
    path = tmp_path / f"a{suffix_of(output_format)}"
    write_image(path, ramp(), OutputInfo(METADATA, {}, GPS), output_format=output_format)
    place = _place_of(path)
    assert place[1] == "N" and float(place[2][2]) == pytest.approx(36.5)
    assert read_back(path).shape == (40, 60, 3)
    write_image(path, ramp(), INFO, output_format=output_format, overwrite=True)
    assert not _place_of(path)


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_the_place_of_a_real_file_can_be_written(tmp_path: Path, output_format: str) -> None:
    source = need_raw("negative/gopro_hero6_GOPR0024.GPR")
    with source.open("rb") as stream:
        gps = read_gps(parse_exif(stream, source.name))
    assert gps is not None and gps[2][0] == pytest.approx(33.0)
    path = tmp_path / f"a{suffix_of(output_format)}"
    write_image(path, ramp(), OutputInfo(METADATA, {}, gps), output_format=output_format)
    assert float(_place_of(path)[4][0]) == pytest.approx(117.0)


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_odd_metadata_is_no_obstacle(tmp_path: Path, output_format: str) -> None:
    odd = RawMetadata(make="Caméra", lens="Zöom – 35mm", shutter_s=1e-5, iso=204800.0)
    path = tmp_path / f"a{suffix_of(output_format)}"
    write_image(path, ramp(), OutputInfo(odd, {}), output_format=output_format)
    assert read_back(path).shape == (40, 60, 3)


def test_released_rounding_cuts_the_fraction_off() -> None:
    image = torch.full((1, 3, 1, 1), 0.999)
    assert quantise(image, bits=8).flatten().tolist() == [255] * 3
    assert quantise(image, bits=8, rounding="released").flatten().tolist() == [254] * 3
    with pytest.raises(ConfigError, match="upward"):
        quantise(image, bits=8, rounding="upward")


def test_existing_files_are_kept_unless_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        write_image(path, ramp(), INFO)
    assert path.read_text() == "mine"
    write_image(path, ramp(), INFO, overwrite=True)
    assert read_settings(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_half_written_stays(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.png"
    with pytest.raises((KeyboardInterrupt, OutputError)) as caught:  # noqa: SIM117
        with written_atomically(path, overwrite=False) as partial:
            partial.write_bytes(b"half")
            raise error
    assert not list(tmp_path.iterdir())
    if isinstance(error, OSError):
        assert "No space left" in str(caught.value) and "a.png" in str(caught.value)


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file"):
        check_folder(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="file"):
        write_image(tmp_path / "file" / "a.png", ramp(), INFO)
    with pytest.raises(OutputError, match="is a folder"):
        write_image(tmp_path, ramp(), INFO)
    with pytest.raises(ConfigError, match="jpeg"):
        write_image(tmp_path / "a.jpg", ramp(), INFO, output_format="jpeg")


def test_quantise_rounds_half_up_and_clips() -> None:
    image = torch.tensor([-1.0, 0.0, 0.5, 2.0]).reshape(1, 1, 1, 4).expand(1, 3, 1, 4)
    assert quantise(image, bits=8)[0, :, 0].tolist() == [0, 0, 128, 255]
