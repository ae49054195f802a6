"""CLIP-IQA against its formula, with a small random CLIP; what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.clip_model import write_clip
from torch.nn import functional
from transformers import CLIPModel

from ldmsid_core.errors import CheckpointError
from ldmsid_core.evaluation.clip_iqa import clip_input, load_clip


def test_clip_iqa_is_the_softmax_of_two_cosines(tmp_path: Path) -> None:
    model = write_clip(tmp_path / "clip")
    network = load_clip(tmp_path / "clip")
    image = torch.rand(1, 3, 48, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        vision = model.vision_model(pixel_values=clip_input(image, 32)).pooler_output
        seen = model.visual_projection(vision)
        text = model.text_model(**network.tokens).pooler_output
        read = model.text_projection(text)
    cosines = functional.cosine_similarity(seen, read)
    good, bad = (model.logit_scale.exp() * cosines).double().tolist()
    expected = 1 / (1 + np.exp(bad - good))
    assert network.score(image) == pytest.approx(expected, abs=1e-5)  # float32
    assert expected != pytest.approx(0.5, abs=1e-4)


def test_clip_input_is_the_middle_square() -> None:
    image = torch.zeros(1, 3, 64, 128)
    image[..., 32:96] = 1.0
    shown = clip_input(image, 32)
    assert shown.shape == (1, 3, 32, 32)
    # White in CLIP's norm; the edge columns blend with the black beyond them.
    white = (1 - 0.48145466) / 0.26862954
    assert shown[0, 0, :, 2:-2].min() == pytest.approx(white, abs=1e-4)


def test_a_clip_that_fails_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(CLIPModel, "from_pretrained", fail)
    with pytest.raises(CheckpointError, match=r"cannot be read \(OSError\)"):
        load_clip(tmp_path)


def test_clip_folders_that_serve_not(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"but .* is none; check it"):
        load_clip(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_clip(tmp_path)
