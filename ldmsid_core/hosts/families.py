"""Which Stable Diffusion some weights are: family, prediction type, latent scale.

Shapes tell 1.x (prompts 768 wide) from 2.x (1024). 1.x predicts noise. Whether a 2.x UNet predicts
noise or velocity shows in one bias that velocity training drove far from zero, which ComfyUI's
detection reads too.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import HostMismatchError

LATENT_SCALE = 0.18215
_TELLING = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_VELOCITY_SPREAD = 0.09
_FIRST_WIDTH = 768
_FAMILIES = {
    (768, "epsilon"): "sd1",
    (768, "v_prediction"): "sd1-v",
    (1024, "epsilon"): "sd21-base",
    (1024, "v_prediction"): "sd21-768",
}


def family_name(cross_attention_width: int, prediction_type: str) -> str:
    """The family of a host; taming modules name the one they were trained for.

    `sd21-base` are 2.1-base, 2.0-base and SD-Turbo; `sd21-768` are the 768 pixel models, which
    predict velocity; `sd1` are 1.1 to 1.5.
    """
    other = f"unet-{cross_attention_width}"
    return _FAMILIES.get((cross_attention_width, prediction_type), other)


def prediction_type(unet: Mapping[str, Tensor]) -> str:
    """`epsilon` or `v_prediction`, guessed from a UNet's weights.

    Args:
        unet: In the original layout, without prefix.
    """
    bias = unet.get(_TELLING)
    if cross_attention_width(unet) == _FIRST_WIDTH:
        return "epsilon"
    if bias is not None and float(bias.float().std(unbiased=False)) > _VELOCITY_SPREAD:
        return "v_prediction"
    return "epsilon"


def cross_attention_width(unet: Mapping[str, Tensor]) -> int | None:
    """Width of a prompt token; None where nothing attends to prompts.

    Args:
        unet: In the original layout, without prefix.
    """
    keys = (k for k, v in unet.items() if k.endswith("attn2.to_k.weight") and v.ndim == 2)
    key = next(keys, None)
    return None if key is None else int(unet[key].shape[1])


def refuse_other_families(unet: Mapping[str, Tensor], *, source: str) -> None:
    """Refuse a UNet that is no Stable Diffusion 1.x or 2.x for plain latents.

    Args:
        unet: In the original layout, without prefix.
        source: Names the file in the error.

    Raises:
        HostMismatchError: If it is SDXL, an inpainting or depth model, or another network.
    """
    expected = f"Expected Stable Diffusion 1.x or 2.x in {source}, found "
    advice = "; use the base model that the taming file was trained with, such as 2.1-base."
    first = unet.get("input_blocks.0.0.weight")
    if first is None or first.ndim != 4 or cross_attention_width(unet) is None:
        raise HostMismatchError(expected + "no Stable Diffusion UNet" + advice)
    if any(key.startswith("label_emb.") for key in unet):
        raise HostMismatchError(
            expected + "a UNet with a second conditioning, as SDXL has" + advice
        )
    if first.shape[1] != 4:
        raise HostMismatchError(
            f"{expected}a UNet with {first.shape[1]} input channels, as inpainting and depth "
            f"models have{advice}"
        )
