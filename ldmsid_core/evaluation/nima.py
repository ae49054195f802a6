"""NIMA (Talebi and Milanfar, 2018): mean opinion of a network that the user has."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError

BINS = 10
# Ten probabilities in half precision or after rounding.
_SUM_TOLERANCE = 1e-2
_PROBE_SIDE = 224


@dataclass(frozen=True)
class Nima:
    """A TorchScript network from pictures to the distribution of opinions 1 to 10.

    Attributes:
        network: `(1, 3, H, W)` unit range -> `(1, 10)` probabilities.
        path: Where it comes from.
    """

    network: Any
    path: Path

    @torch.inference_mode()
    def score(self, image: Tensor) -> float:
        """Mean opinion, 1 to 10.

        Raises:
            CheckpointError: If the network gives no distribution over ten bins.
        """
        try:
            bins = self.network(image)
        except (RuntimeError, TypeError, ValueError) as error:
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise self._refusal(f"it fails on {tuple(image.shape)} ({last})") from error
        if not isinstance(bins, Tensor) or tuple(bins.shape) != (1, BINS):
            shape = tuple(bins.shape) if isinstance(bins, Tensor) else type(bins).__name__
            raise self._refusal(f"it returns {shape}")
        shares = bins[0].double()
        total = float(shares.sum())
        if not abs(total - 1.0) <= _SUM_TOLERANCE or bool((shares < 0).any()):
            lowest = float(shares.min())
            raise self._refusal(f"its values add up to {total:.4g}, the lowest is {lowest:.4g}")
        return float((shares * torch.arange(1, BINS + 1)).sum() / total)

    def _refusal(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"Expected a NIMA network from (1, 3, H, W) in unit range to (1, {BINS}) probabilities "
            f"in {self.path}, but {what}; export it again with its preprocessing and softmax."
        )


def load_nima(path: Path) -> Nima:
    """Read a TorchScript file and try it once.

    Raises:
        CheckpointError: If the file is missing, is no TorchScript, or gives no distribution.
    """
    if not path.is_file():
        raise CheckpointError(f"Expected a weight file, but {path} does not exist; check it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            load: Callable[..., Any] = torch.jit.load
            network = load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"Expected a TorchScript file, but {path} is none or damaged; export NIMA with "
            "torch.jit.save."
        ) from error
    loaded = Nima(network, path)
    loaded.score(torch.full((1, 3, _PROBE_SIDE, _PROBE_SIDE), 0.5))
    return loaded
