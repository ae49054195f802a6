"""Which layer classes the taming modules are built from: PyTorch's own, or a runtime's.

ComfyUI passes its `comfy.ops`, whose layers it casts and offloads one by one.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

# A namespace with the classes Conv2d, Linear and GroupNorm, like the module torch.nn.
Operations = Any
PLAIN: Operations = cast(Operations, nn)


def blend(h: Tensor, tamed: Tensor, strength: float) -> Tensor:
    """`h + strength * (tamed - h)`; strength 1 is `tamed` itself, bit for bit."""
    return tamed if strength == 1.0 else h + strength * (tamed - h)
