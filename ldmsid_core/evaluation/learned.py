"""Metrics that need weights: computed where the user gives a file, said to be absent where not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .clip_iqa import PROMPTS, load_clip
from .lpips import load_lpips
from .metrics import FloatImage
from .nima import load_nima
from .ruler import Metric, Ruler, choose_metrics


@dataclass(frozen=True)
class LearnedFiles:
    """What the user has; None where nothing was given.

    Attributes:
        lpips: File of backbone and heads, see `lpips`.
        clip: Folder of a CLIP, see `clip_iqa`.
        nima: TorchScript file, see `nima`.
    """

    lpips: Path | None = None
    clip: Path | None = None
    nima: Path | None = None


def _tensor(image: FloatImage) -> Tensor:
    """`(H, W, 3)` -> `(1, 3, H, W)` float32."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))[None]


def _lpips_metric(path: Path) -> Metric:
    network = load_lpips(path)
    return Metric(
        "lpips", f"LPIPS ({network.backbone.name})", False, 4,
        "Learned perceptual distance (Zhang et al., 2018, version 0.1) with "
        f"{network.backbone.name} from {path.name}; sRGB in model range, no resizing.",
        lambda found, truth: network.distance(_tensor(found), _tensor(truth)),
    )  # fmt: skip


def _clip_metric(folder: Path) -> Metric:
    network = load_clip(folder)
    return Metric(
        "clip_iqa", "CLIP-IQA", True, 4,
        f'Share of "{PROMPTS[0]}" against "{PROMPTS[1]}" (Wang et al., 2023, its single pair of '
        f"prompts) by the CLIP in {network.name}; shorter side to the network's size, middle "
        "square; needs no truth. The paper takes another CLIP (ResNet-50 without position "
        "embedding) at full size: compare within this report only.",
        lambda found, _truth: network.score(_tensor(found)),
    )  # fmt: skip


def _nima_metric(path: Path) -> Metric:
    network = load_nima(path)
    return Metric(
        "nima", "NIMA", True, 3,
        "Mean opinion from 1 to 10, the sum of i times p(i) (Talebi and Milanfar, 2018), by the "
        f"network in {path.name}; needs no truth.",
        lambda found, _truth: network.score(_tensor(found)),
    )  # fmt: skip


def build_ruler(names: str | None, files: LearnedFiles) -> Ruler:
    """The metrics asked for, those of the weight files given, and what is absent.

    Args:
        names: Comma-separated weight-free metrics; None is all.
        files: For the learned ones.

    Raises:
        ConfigError: If a name is unknown.
        CheckpointError: If a weight file is of another layout.
    """
    metrics = list(choose_metrics(names))
    absent = []
    for label, option, given, build in (
        ("LPIPS", "--lpips-weights FILE", files.lpips, _lpips_metric),
        ("CLIP-IQA", "--clip-folder FOLDER", files.clip, _clip_metric),
        ("NIMA", "--nima-weights FILE", files.nima, _nima_metric),
    ):
        if given is None:
            what = "folder" if "FOLDER" in option else "file"
            absent.append(f"{label}: not computed, no weight {what} given; {option}")
        else:
            metrics.append(build(given))
    return Ruler(tuple(metrics), tuple(absent))
