"""`PackedRaw`: the planes of one camera file and everything later stages need to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from .cfa import CfaPattern

Triple = tuple[float, float, float]
WhiteBalanceSource = Literal["as shot", "daylight", "none"]


def camera_name(make: str | None, model: str | None) -> str:
    """Maker and model; the model alone where it holds the maker's name; empty without both."""
    make, model = make or "", model or ""
    return model if model.lower().startswith(make.lower()) else f"{make} {model}".strip()


@dataclass(frozen=True)
class RawMetadata:
    """What the camera wrote about a shot; None where the file does not say.

    Attributes:
        make: Camera maker.
        model: Camera model.
        iso: Sensitivity.
        shutter_s: Exposure time in seconds.
        aperture: f-number.
        focal_length_mm: Focal length in millimetres.
        lens: Lens model.
        taken_at: Local time, `YYYY-MM-DDTHH:MM:SS`.
    """

    make: str | None = None
    model: str | None = None
    iso: float | None = None
    shutter_s: float | None = None
    aperture: float | None = None
    focal_length_mm: float | None = None
    lens: str | None = None
    taken_at: str | None = None

    @property
    def camera(self) -> str:
        """As `camera_name`."""
        return camera_name(self.make, self.model)


@dataclass(frozen=True)
class PackedRaw:
    """One camera file as packed planes.

    Attributes:
        planes: `(1, 4, H/2, W/2)` float32, planes R, G1, B, G2,
            `(counts - black) / (white - black)`, not clipped.
        cfa: Layout of the file's mosaic at the top left of the visible area.
        black_level: Counts per plane in packed order.
        white_level: Saturation count.
        white_balance: Multipliers R, G, B with green 1.
        white_balance_source: Where they come from.
        xyz_to_camera: Rows of the XYZ (D65) to camera matrix; None where unknown.
        orientation: LibRaw's flip: 0, 3 (half turn), 5 (quarter turn left), 6 (right); applied
            to the finished image only.
        metadata: What the camera wrote.
        file_name: Without its folder.
        exposure_ratio: Chosen for the file, 1 when fresh; the planes stay as the file has them and
            are amplified when bands are split.
    """

    planes: Tensor
    cfa: CfaPattern
    black_level: tuple[float, float, float, float]
    white_level: float
    white_balance: Triple
    white_balance_source: WhiteBalanceSource
    xyz_to_camera: tuple[Triple, Triple, Triple] | None
    orientation: int
    metadata: RawMetadata
    file_name: str
    exposure_ratio: float = 1.0

    def header(self) -> dict[str, Any]:
        """Everything but the planes, as plain JSON values."""
        values = {k: v for k, v in self.__dict__.items() if k not in ("planes", "metadata")}
        return {**values, "packed_size": list(self.planes.shape[-2:]), **self.metadata.__dict__}


def apply_orientation(image: Tensor, orientation: int) -> Tensor:
    """Turn a finished image upright.

    Args:
        image: `(..., H, W)`.
        orientation: LibRaw's flip bits: 1 mirrors columns, 2 rows, 4 swaps the axes.

    Returns:
        `(..., H, W)` or, after a quarter turn, `(..., W, H)`.
    """
    if orientation & 2:
        image = image.flip(-2)
    if orientation & 1:
        image = image.flip(-1)
    if orientation & 4:
        image = image.transpose(-1, -2)
    return image
