"""Tamed decoding with the host's own VAE: temporary hooks, memory asked for, progress, cancel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import comfy.model_management as mm
import comfy.utils
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..ldmsid_core.errors import LdmSidError, NonFiniteError, ShapeError
from ..ldmsid_core.pipeline import RawBands, finish_image
from ..ldmsid_core.taming.fusion import DecoderTaming
from ..ldmsid_core.taming.sites import DECODER_SITES, DecoderSite
from ..ldmsid_core.taming.watch import first_non_finite
from ..ldmsid_core.wavelet import SubBands
from .host_check import check_vae
from .taming_model import TamingModel
from .unet_binding import KEY

_LAST = "decoder.conv_out"


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is the device's or the CPU allocator's lack of memory."""
    known = getattr(mm, "is_oom", None)
    if callable(known) and known(error):
        return True
    return isinstance(error, (mm.OOM_EXCEPTION, MemoryError)) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def _hook(
    taming: DecoderTaming,
    site: DecoderSite,
    bands: SubBands,
    strength: float,
    fused: Callable[[], None],
) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    fusion, index = taming.fusion(site.level), site.level - 1

    def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        h: Tensor = inputs[0]
        ll = bands.ll[index].to(h.device, h.dtype)
        detail = bands.detail[index].to(h.device, h.dtype)
        tamed = fusion(h, ll, detail, strength).to(h.dtype)
        fused()
        return (tamed, *inputs[1:])

    return hook


def _precise(base: Mapping[str, Tensor]) -> Callable[..., Tensor]:
    """A hook: the last convolution once more in float32, as bf16 has only 8 bits of brightness.

    Args:
        base: The taming file's own base decoder: where the host keeps layers off the device, its
            patches are not in the layer's weight.
    """

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if output.dtype == torch.float32:
            return output
        x = inputs[0].float()
        weight, bias = (
            base.get(f"{_LAST}.{name}", getattr(module, name)).to(x.device, x.dtype)
            for name in ("weight", "bias")
        )
        return functional.conv2d(x, weight, bias, padding=module.padding)  # type: ignore[arg-type]

    return hook


@contextmanager
def hooked_decoder(
    vae_model: nn.Module,
    taming: DecoderTaming | None,
    bands: SubBands,
    *,
    strength: float,
    base: Mapping[str, Tensor],
    fused: Callable[[], None],
) -> Iterator[None]:
    """Hook the three fusions into a VAE for the length of a `with` block.

    Args:
        vae_model: The host's `first_stage_model`.
        taming: Modules of the same widths; None decodes plainly.
        bands: Of the latent that is decoded.
        strength: 1 tames fully.
        base: The taming file's own base decoder, as far as it is in use.
        fused: Called after each fusion; may raise to stop.
    """
    handles = []
    try:
        for site in DECODER_SITES if taming is not None else ():
            block = vae_model.get_submodule(site.original_path)
            assert taming is not None
            hook = _hook(taming, site, bands, strength, fused)
            handles.append(block.register_forward_pre_hook(hook))
        last = vae_model.get_submodule(_LAST)
        handles.append(last.register_forward_hook(_precise(base)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def working_bytes(latent_shape: torch.Size, widths: tuple[int, ...], element: int) -> int:
    """Memory that the finest fusion needs beside the decoder's own, in bytes.

    At its widest moment it holds the joined bands and feature, their norm, its activation and a
    convolution's result: eight tensors of the stage's width at half the picture's size.
    """
    batch, _, height, width = latent_shape
    return 8 * batch * widths[-1] * (4 * height) * (4 * width) * element


def _check_latent(latent: dict[str, Any], bands: RawBands, split: SubBands) -> None:
    """Refuse a latent of another size or made from another file."""
    samples, file_name = latent["samples"], bands.raw.file_name
    expected = tuple(split.structure_input.shape[-2:])
    if samples.ndim != 4 or samples.shape[1] != 4 or tuple(samples.shape[-2:]) != expected:
        raise ShapeError(
            f"Expected a latent of shape (B, 4, {expected[0]}, {expected[1]}), the size of the "
            f"bands of {file_name}, found {tuple(samples.shape)}; decode the latent that was "
            "sampled with these bands, without scaling it."
        )
    if not samples.isfinite().all():
        raise NonFiniteError(
            f"Expected a finite latent for {file_name}, found NaN or infinity: the sampler's model "
            "overflowed; start ComfyUI with --bf16-unet or --fp32-unet, and check the weights."
        )
    made_for = latent.get(KEY)
    if made_for is not None and made_for != bands.identity:
        raise ShapeError(
            f"Expected a latent sampled from {bands.identity} (file, checksum, ratio), the file of "
            f"the bands, found one of {made_for}; wire bands and latent from the same RAW."
        )


def decode_tamed(
    vae: Any, taming: TamingModel, bands: RawBands, latent: dict[str, Any], *, strength: float
) -> Tensor:
    """Decode a LATENT to a finished picture.

    Args:
        vae: Left as it is.
        taming: With a decoder half that fits the VAE.
        bands: Of the file that the latent was sampled from.
        latent: LATENT, unscaled, any batch.
        strength: 1 tames fully, 0 decodes plainly.

    Returns:
        `(B, 3, H, W)` unit range, cropped and upright, on the CPU.

    Raises:
        HostMismatchError: If VAE and taming do not fit.
        ShapeError: If latent and bands do not fit.
        LdmSidError: If memory does not suffice.
    """
    vae.throw_exception_if_invalid()
    if strength != 0.0:
        check_vae(vae, taming)
    split = bands.for_recipe(taming.header.input_recipe)
    _check_latent(latent, bands, split)
    samples = latent["samples"]
    if taming.header.decoder_latent_scale == "scaled":
        samples = samples * taming.header.latent_scale
    try:
        pictures = _decode_or_explain(vae, taming, split, samples, strength, bands.raw.file_name)
    finally:
        if taming.decoder_base and strength != 0.0:
            # Takes the file's own base decoder out again: a VAE may be saved without being loaded.
            mm.load_models_gpu([vae.patcher])
    return finish_image(torch.cat(pictures), bands.raw, split)


def _decode_or_explain(
    vae: Any, taming: TamingModel, split: SubBands, samples: Tensor, strength: float,
    file_name: str,
) -> list[Tensor]:  # fmt: skip
    """`_decode_each`, with lack of memory as one clear message."""
    try:
        return _decode_each(vae, taming, split, samples, strength, file_name)
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
    # Outside the except block: the exception would keep the tensors alive.
    mm.soft_empty_cache()
    height, width = (8 * side for side in samples.shape[-2:])
    smaller = "" if vae.vae_dtype != torch.float32 else "start ComfyUI with --bf16-vae, "
    raise LdmSidError(
        f"Not enough memory to decode {file_name} at {width}x{height} ({message}); close other "
        f"programs, {smaller}or use a smaller frame."
    )


def _decode_each(
    vae: Any, taming: TamingModel, split: SubBands, samples: Tensor, strength: float,
    file_name: str,
) -> list[Tensor]:  # fmt: skip
    """One picture after the other, `(1, 3, 8h, 8w)` model range each, on the CPU."""
    one, sites = samples[:1].shape, DECODER_SITES if strength != 0.0 else ()
    needed, patchers, net = vae.memory_used_decode(one, vae.vae_dtype), [vae.patcher], None
    if sites:
        patchers = [tamed_vae_patcher(vae, taming)]
        patcher = taming.need_decoder()
        element = torch.empty(0, dtype=vae.vae_dtype).element_size()
        needed += working_bytes(one, patcher.model.config.widths, element)
        patchers.append(patcher)
        net = patcher.model
    mm.load_models_gpu(patchers, memory_required=needed)
    progress = comfy.utils.ProgressBar((len(sites) + 1) * len(samples))

    base = taming.decoder_base if sites else {}

    def step() -> None:
        mm.throw_exception_if_processing_interrupted()
        progress.update(1)

    pictures = []
    for index, sample in enumerate(samples):
        part, latent = _bands_of(split, index), _placed(sample[None], vae)
        with hooked_decoder(
            vae.first_stage_model, net, part, strength=strength, base=base, fused=step
        ):
            decoded = vae.first_stage_model.decode(latent)
        pictures.append(decoded.float().cpu())
        step()
        if not pictures[-1].isfinite().all():
            raise NonFiniteError(
                f"The tamed decoder returned NaN or infinity for {file_name}, first in "
                f"{_culprit(vae, net, part, latent, strength)}; start ComfyUI with --bf16-vae or "
                "--fp32-vae, and check that the weights are whole."
            )
    return pictures


def _culprit(
    vae: Any, net: DecoderTaming | None, part: SubBands, latent: Tensor, strength: float
) -> str:
    """The module that spoiled a picture: it is decoded once more to find it."""
    model = vae.first_stage_model
    roots = {"VAE": model, **({} if net is None else {"decoder taming": net})}
    with hooked_decoder(model, net, part, strength=strength, base={}, fused=lambda: None):
        return first_non_finite(roots, lambda: model.decode(latent)) or "its last convolution"


def tamed_vae_patcher(vae: Any, taming: TamingModel) -> Any:
    """The VAE's patcher, with the taming file's own base decoder where it has one.

    The tensors go in as patches of a clone; the host takes them out again when it loads the VAE's
    own patcher.
    """
    if not taming.decoder_base:
        return vae.patcher
    patcher = vae.patcher.clone()
    patcher.add_patches({name: ("set", (t,)) for name, t in taming.decoder_base.items()})
    return patcher


def _placed(latent: Tensor, vae: Any) -> Tensor:
    """The latent where and as the VAE wants it; on a CPU channels-last, a tenth faster there."""
    ready = latent.to(vae.device, vae.vae_dtype)
    layout = torch.channels_last if ready.device.type == "cpu" else torch.contiguous_format
    return ready.contiguous(memory_format=layout)


def _bands_of(split: SubBands, index: int) -> SubBands:
    """The bands of one picture of a batch; one file's bands serve every picture."""
    count = split.structure_input.shape[0]
    row = slice(index % count, index % count + 1)
    low, mid, high = (band[row] for band in split.ll)
    fine = tuple(band[row] for band in split.detail)
    return SubBands((low, mid, high), (fine[0], fine[1], fine[2]), split.content_size)
