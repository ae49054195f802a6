"""Result files: values, profile, metadata, and that nothing is ever lost or half-written."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
import torch
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
    assert settings is not None and json.loads(settings) == INFO.settings
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


@pytest.mark.parametrize("output_format", ["png", "png16"])
def test_gps_is_written_only_when_given(tmp_path: Path, output_format: str) -> None:
    info = OutputInfo(METADATA, {}, GPS)
    write_image(tmp_path / "a.png", ramp(), info, output_format=output_format)
    with Image.open(tmp_path / "a.png") as picture:
        place = picture.getexif().get_ifd(0x8825)
    assert place[1] == "N" and float(place[2][2]) == pytest.approx(36.5)


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
