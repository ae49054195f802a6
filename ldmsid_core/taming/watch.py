"""Which module first computed NaN or infinity: asked only after it has happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..finite import is_finite


class _Found(Exception):  # noqa: N818  carries a name out of a forward pass; never seen outside
    """Stops a forward pass."""


def first_non_finite(roots: Mapping[str, nn.Module], run: Callable[[], Any]) -> str | None:
    """The module whose output was the first to hold NaN or infinity.

    Args:
        roots: What to call each network, and the network; it is hooked while `run` runs.
        run: The computation once more.

    Returns:
        Such as `UNet: up_blocks.3.attentions.0.proj_in`; None if all outputs were finite.
    """
    handles = []

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not is_finite(output):
                raise _Found(name)

        return hook

    try:
        for title, root in roots.items():
            for path, module in root.named_modules():
                if not list(module.children()):
                    hook = hook_for(f"{title}: {path}")
                    handles.append(module.register_forward_hook(hook))
        run()
    except _Found as found:
        return str(found)
    finally:
        for handle in handles:
            handle.remove()
    return None
