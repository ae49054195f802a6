"""Looking for NaN and infinity in tensors as large as a frame."""

from __future__ import annotations

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """No NaN or infinity; one pass without a mask of the tensor's size.

    Args:
        tensor: Of any type and shape; whole numbers and empty tensors are finite.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.element_size() == 1:  # 8-bit floats know no comparison
        tensor = tensor.float()
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())
