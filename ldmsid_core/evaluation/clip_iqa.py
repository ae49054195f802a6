"""CLIP-IQA (Wang, Chan and Loy, AAAI 2023) with a CLIP from a local folder.

The picture's likeness to *Good photo.* against *Bad photo.*: the softmax of the two cosine
similarities times CLIP's own temperature, the paper's single pair. The paper takes CLIP's ResNet-50
without position embedding; the CLIP here is the user's, with fixed input size, so its values
compare only with values of the same folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import CheckpointError

PROMPTS = ("Good photo.", "Bad photo.")
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def clip_input(image: Tensor, side: int) -> Tensor:
    """What CLIP is shown: shorter side to `side` (bicubic), middle square, CLIP's own norm.

    Args:
        image: `(1, 3, H, W)` unit range.
        side: Of the square.

    Returns:
        `(1, 3, side, side)`.
    """
    height, width = image.shape[-2:]
    scale = side / min(height, width)
    size = [max(side, round(edge * scale)) for edge in (height, width)]
    small = functional.interpolate(
        image, size=size, mode="bicubic", antialias=True, align_corners=False
    ).clamp(0.0, 1.0)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    mean, deviation = (torch.tensor(v)[None, :, None, None] for v in (_MEAN, _DEVIATION))
    return (small[:, :, top : top + side, left : left + side] - mean) / deviation


@dataclass(frozen=True)
class ClipIqa:
    """A loaded CLIP with its prompts read.

    Attributes:
        model: A `transformers.CLIPModel`.
        tokens: Of the two prompts.
        name: Of the folder.
    """

    model: Any
    tokens: dict[str, Tensor]
    name: str

    @torch.inference_mode()
    def score(self, image: Tensor) -> float:
        """Share of the good prompt, 0 to 1.

        Args:
            image: `(1, 3, H, W)` unit range.
        """
        side = int(self.model.config.vision_config.image_size)
        found = self.model(pixel_values=clip_input(image, side), **self.tokens)
        return float(found.logits_per_image[0].softmax(dim=0)[0])


def load_clip(folder: Path) -> ClipIqa:
    """Read a CLIP in the layout of transformers: `config.json`, weights, tokenizer files.

    Raises:
        CheckpointError: If the folder is missing or holds no CLIP; nothing is ever downloaded.
    """
    from transformers import CLIPModel, CLIPTokenizer

    if not folder.is_dir():
        raise CheckpointError(
            f"Expected a folder with a CLIP of transformers, but {folder} is none; check it."
        )
    try:
        loaded: Any = CLIPModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
        model, report = loaded
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        tokens = dict(tokenizer(list(PROMPTS), padding=True, return_tensors="pt"))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"Expected a CLIP of transformers with its tokenizer in {folder}, but it cannot be "
            f"read ({reason}); check the folder."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"Expected all weights of a CLIP in {folder}, but {missing[0]} and {len(missing) - 1} "
            "others are missing; fetch the folder again."
        )
    return ClipIqa(model.float().eval(), tokens, folder.resolve().name)
