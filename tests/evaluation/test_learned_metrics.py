"""LPIPS, CLIP-IQA and NIMA with files of random weights, made here."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.clip_model import write_clip
from helpers.lpips_weights import State, random_state, written
from torch import Tensor, nn
from torch.nn import functional

from ldmsid_core.errors import CheckpointError
from ldmsid_core.evaluation.learned import LearnedFiles, build_ruler
from ldmsid_core.evaluation.lpips import ALEX, VGG, Backbone, load_lpips
from ldmsid_core.evaluation.nima import load_nima


def pair(height: int = 64, width: int = 72) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.rand((1, 3, height, width), generator=generator) for _ in range(2))
    return first, second


def oracle_features(state: State, layout: list[Any], x: Tensor) -> list[Tensor]:
    """The network spelt out: numbers are convolutions, "pool" and "tap" what they say."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x = (2 * x - 1 - shift) / scale
    taps = []
    for step in layout:
        if step == "tap":
            taps.append(x)
        elif isinstance(step, nn.Module):
            x = step(x)
        else:
            number, stride, padding = step
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            x = functional.conv2d(x, weight, bias, stride, padding).clamp(min=0)
    return taps


ALEX_LAYOUT = [
    (0, 4, 2), "tap", nn.MaxPool2d(3, 2), (3, 1, 2), "tap", nn.MaxPool2d(3, 2), (6, 1, 1), "tap",
    (8, 1, 1), "tap", (10, 1, 1), "tap",
]  # fmt: skip
VGG_LAYOUT = [
    (0, 1, 1), (2, 1, 1), "tap", nn.MaxPool2d(2), (5, 1, 1), (7, 1, 1), "tap", nn.MaxPool2d(2),
    (10, 1, 1), (12, 1, 1), (14, 1, 1), "tap", nn.MaxPool2d(2), (17, 1, 1), (19, 1, 1), (21, 1, 1),
    "tap", nn.MaxPool2d(2), (24, 1, 1), (26, 1, 1), (28, 1, 1), "tap",
]  # fmt: skip


@pytest.mark.parametrize(("backbone", "layout"), [(ALEX, ALEX_LAYOUT), (VGG, VGG_LAYOUT)])
def test_lpips_against_the_network_spelt_out(
    tmp_path: Path, backbone: Backbone, layout: list[Any]
) -> None:
    state = random_state(backbone)
    network = load_lpips(written(tmp_path, state))
    assert network.backbone is backbone
    first, second = pair()
    expected = 0.0
    taps = zip(*(oracle_features(state, layout, x) for x in (first, second)), strict=True)
    for level, (a, b) in enumerate(taps):
        a, b = (functional.normalize(f, dim=1, eps=1e-10) for f in (a, b))
        head = state[f"lin{level}.model.1.weight"][0]
        expected += float(((a - b) ** 2 * head).sum(dim=1).mean())
    # Two float32 orders of the same sums.
    assert network.distance(first, second) == pytest.approx(expected, rel=1e-4)
    assert network.distance(first, first) == 0.0


def test_lpips_by_hand(tmp_path: Path) -> None:
    """One channel that copies red: normalised it is 1 where red is above the shift, else 0."""
    state = {name: torch.zeros(shape) for name, shape in ALEX.shapes().items()}
    state["features.0.weight"][0, 0, 5, 5] = 1.0
    state["lin0.model.1.weight"][0, 0] = 0.5
    network = load_lpips(written(tmp_path, state))
    # Stride 4, padding 2, kernel 11: position n looks at pixel 4n + 3; 64 pixels give 15.
    dark, half = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    half[:, 0, :, :32] = 1.0
    # Red pixels 3, 7, ..., 31 are lit: 8 of 15 columns differ, each by 1, times the head's 0.5.
    assert network.distance(half, dark) == pytest.approx(0.5 * 8 / 15, abs=1e-6)


def test_lpips_takes_pickled_files_and_classifiers_and_small_pictures(tmp_path: Path) -> None:
    state = random_state(ALEX)
    path = tmp_path / "lpips.pth"
    torch.save({**state, "classifier.1.weight": torch.zeros(4, 4)}, path)
    network = load_lpips(path)
    safe = load_lpips(written(tmp_path, state))
    assert network.distance(*pair()) == safe.distance(*pair())
    assert network.distance(*pair(31, 31)) is not None
    assert network.distance(*pair(30, 64)) is None


def _changed(**changes: Tensor | None) -> State:
    state = random_state(ALEX)
    for key, value in changes.items():
        name = key.replace("__", ".")
        state.pop(name, None)
        if value is not None:
            state[name] = value
    return state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lin2__model__1__weight": None}, "lin2.model.1.weight is missing"),
        ({"features__3__bias": torch.zeros(7)}, r"features.3.bias is \(7,\) instead of \(192,\)"),
        ({"features__1__weight": torch.zeros(2)}, "features.1.weight is .* instead of absent"),
        ({"features__0__weight": None}, "found none in"),
        ({"features__0__weight": torch.zeros(8, 3, 3, 3)}, r"found \(8, 3, 3, 3\)"),
        ({"features__0__bias": torch.full((64,), float("nan"))}, "NaN or infinity"),
    ],
)
def test_lpips_of_another_layout_is_refused(
    tmp_path: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_lpips(written(tmp_path, _changed(**changes)))


class _Bins(nn.Module):
    """The same ten values for every picture, times its mean brightness."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor([values]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.values + 0.0 * x.mean()


class _Brightness(nn.Module):
    """Opinion 10 with the share of brightness, else 1."""

    def forward(self, x: Tensor) -> Tensor:
        share = x.mean().reshape(1, 1)
        return torch.cat([1.0 - share, torch.zeros(1, 8), share], dim=1)


def save_script(path: Path, module: nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script: Callable[..., Any] = torch.jit.script
        torch.jit.save(script(module), str(path))
    return path


def test_nima_is_the_mean_opinion(tmp_path: Path) -> None:
    shares = [0.1, 0, 0, 0.2, 0, 0, 0.3, 0, 0, 0.4]
    network = load_nima(save_script(tmp_path / "nima.pt", _Bins(shares)))
    # 0.1 * 1 + 0.2 * 4 + 0.3 * 7 + 0.4 * 10.
    assert network.score(torch.rand(1, 3, 9, 9, generator=torch.Generator())) == pytest.approx(7.0)
    bright = load_nima(save_script(tmp_path / "bright.pt", _Brightness()))
    assert bright.score(torch.full((1, 3, 8, 8), 0.25)) == pytest.approx(1 + 9 * 0.25)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (_Bins([0.1] * 9), r"it returns \(1, 9\)"),
        (_Bins([0.3] * 10), "add up to 3"),
        (_Bins([-0.5, 0.6] + [0.1125] * 8), "the lowest is -0.5"),
        (_Bins([float("nan")] * 10), "add up to nan"),
        (nn.Sequential(nn.Linear(5, 10)), "it fails on"),
    ],
)
def test_nima_of_another_kind_is_refused(tmp_path: Path, module: nn.Module, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_nima(save_script(tmp_path / "nima.pt", module))


def test_nima_files_that_are_no_torchscript(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_nima(tmp_path / "absent.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="Expected a TorchScript file"):
        load_nima(tmp_path / "state.pt")


def test_absent_metrics_are_said_and_given_ones_are_used(tmp_path: Path) -> None:
    nothing = build_ruler(None, LearnedFiles())
    assert nothing.absent[0] == "LPIPS: not computed, no weight file given; --lpips-weights FILE"
    assert [text.split(":")[0] for text in nothing.absent] == ["LPIPS", "CLIP-IQA", "NIMA"]
    write_clip(tmp_path / "clip")
    files = LearnedFiles(
        written(tmp_path, random_state(ALEX)), tmp_path / "clip",
        save_script(tmp_path / "nima.pt", _Brightness()),
    )  # fmt: skip
    ruler = build_ruler("psnr_rgb", files)
    assert ruler.absent == ()
    assert [m.key for m in ruler.metrics] == ["psnr_rgb", "lpips", "clip_iqa", "nima"]
    assert '"Good photo." against "Bad photo."' in ruler.metrics[2].definition
    found, truth = (p[0].permute(1, 2, 0).numpy() for p in pair())
    values = ruler.measure([found], truth)
    assert values["lpips"] == load_lpips(files.lpips).distance(*pair())  # type: ignore[arg-type]
    assert values["nima"] == pytest.approx(1 + 9 * float(found.mean()), abs=1e-4)


def test_no_metric_imports_torchvision() -> None:
    code = (
        "import sys\nfrom ldmsid_core.evaluation import learned, clip_iqa\n"
        "from transformers import CLIPModel, CLIPTokenizer\n"
        "print([m for m in ('torchvision', 'torchmetrics', 'lpips') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
