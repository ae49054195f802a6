"""Taming a MODEL: what other nodes do to it, and that nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from runner import Pack
from scene import (
    apply,
    hook_count,
    in_dtype,
    ksample,
    little_loaded,
    memory_asked,
    raises,
    scene,
    seen_by_encoder,
    weights_checksum,
)


def lora_for(model: Any, scale: float) -> dict[str, Any]:
    """A LoRA-like patch on two convolutions that taming hooks, and on one attention."""
    names = [
        "diffusion_model.input_blocks.1.0.out_layers.3.weight",
        "diffusion_model.output_blocks.3.0.out_layers.3.weight",
        "diffusion_model.middle_block.1.proj_in.weight",
    ]
    state = model.model.state_dict()
    generator = torch.Generator().manual_seed(1)
    return {n: (scale * torch.randn(state[n].shape, generator=generator),) for n in names}


def with_lora(model: Any) -> Any:
    """A clone with the patch, as LoRA loaders make one."""
    patched = model.clone()
    added = patched.add_patches(lora_for(model, 0.05), 1.0)
    assert len(added) == 3, added
    return patched


def check_tamed_differs_and_base_stays(pack: Pack) -> None:
    s = scene(pack)
    before = weights_checksum(s.model.model)
    bound, latent = apply(pack, s)
    untamed = ksample(s.model, latent, s.conditioning)
    tamed = ksample(bound, latent, s.conditioning)
    assert (tamed - untamed).abs().max() > 0.1
    assert torch.equal(ksample(s.model, latent, s.conditioning), untamed)
    assert torch.equal(ksample(bound, latent, s.conditioning), tamed)
    assert weights_checksum(s.model.model) == before
    assert hook_count(s.model.model) == 0


def check_state_dict_never_sees_taming(pack: Pack) -> None:
    s = scene(pack)
    keys = set(s.model.model.state_dict())
    bound, _ = apply(pack, s)
    assert set(bound.model.state_dict()) == keys and bound.model is s.model.model


def check_lora_before_and_after(pack: Pack) -> None:
    s = scene(pack)
    base, latent = apply(pack, s)
    plain = ksample(base, latent, s.conditioning)
    before, _ = apply(pack, s, with_lora(s.model))
    after = with_lora(base)
    first = ksample(before, latent, s.conditioning)
    assert torch.equal(first, ksample(after, latent, s.conditioning))
    assert (first - plain).abs().max() > 1e-3, "the LoRA was dropped"
    assert torch.equal(ksample(base, latent, s.conditioning), plain)
    untamed_lora = ksample(with_lora(s.model), latent, s.conditioning)
    assert (untamed_lora - first).abs().max() > 0.1


def check_binding_twice_replaces(pack: Pack) -> None:
    from comfy.patcher_extension import WrappersMP

    s = scene(pack)
    once, latent = apply(pack, s)
    half, _ = apply(pack, s, strength=0.5)
    twice, _ = apply(pack, s, half)
    for kind in (WrappersMP.DIFFUSION_MODEL, WrappersMP.OUTER_SAMPLE):
        assert len(twice.get_wrappers(kind, "ldmsid")) == 1
    assert torch.equal(
        ksample(twice, latent, s.conditioning), ksample(once, latent, s.conditioning)
    )
    with seen_by_encoder(s) as seen:
        ksample(twice, latent, s.conditioning, steps=2)
    assert len(seen) == 2


def check_rebinding_to_another_size(pack: Pack) -> None:
    from scene import cut

    s = scene(pack)
    bound, _ = apply(pack, s)
    small, _, _ = pack.run("LDMSID_SplitBands", raw=cut(s.raw, 64, 64))
    again, latent = apply(pack, s, bound, bands=small)
    assert tuple(latent["samples"].shape) == (1, 4, 8, 8)
    assert ksample(again, latent, s.conditioning).isfinite().all()


def check_batches(pack: Pack) -> None:
    s = scene(pack)
    bound, latent = apply(pack, s)
    double = {**latent, "samples": latent["samples"].repeat(2, 1, 1, 1)}
    with seen_by_encoder(s) as seen:
        both = ksample(bound, double, s.conditioning)
    assert all(len(ll) == 2 for ll, _ in seen)
    alone = ksample(bound, latent, s.conditioning)
    # The first noise of a batch is the noise of a single one; convolutions sum in another order.
    assert torch.allclose(both[:1], alone, atol=1e-4)
    assert (both[0] - both[1]).abs().max() > 0.01


def check_strength_and_range(pack: Pack) -> None:
    s = scene(pack)
    full, latent = apply(pack, s)
    untamed = ksample(s.model, latent, s.conditioning)
    none, _ = apply(pack, s, strength=0.0)
    assert torch.equal(ksample(none, latent, s.conditioning), untamed)
    tamed = ksample(full, latent, s.conditioning)
    half = ksample(apply(pack, s, strength=0.5)[0], latent, s.conditioning)
    assert (half - tamed).abs().max() > 0.01 and (half - untamed).abs().max() > 0.01
    early, _ = apply(pack, s, end_percent=0.5)
    late, _ = apply(pack, s, start_percent=0.5)
    calls = []
    for model in (early, late):
        with seen_by_encoder(s) as seen:
            ksample(model, latent, s.conditioning, steps=8)
        calls.append([float(t[0]) for _, t in seen])
    assert 0 < len(calls[0]) < 8 and len(calls[0]) + len(calls[1]) == 8
    assert min(calls[0]) > max(calls[1])
    raises("ConfigError", lambda: apply(pack, s, start_percent=0.6, end_percent=0.6), "0.6")


def check_exceptions_leave_no_hooks(pack: Pack) -> None:
    import comfy.model_management as mm

    s = scene(pack)
    bound, latent = apply(pack, s)
    right = ksample(bound, latent, s.conditioning)
    block = s.model.model.diffusion_model.output_blocks[5][0]

    def fail_with(error: BaseException) -> Callable[..., None]:
        def fail(_module: Any, _inputs: Any) -> None:
            raise error

        return fail

    for error in (RuntimeError("boom"), mm.InterruptProcessingException()):
        handle = block.register_forward_pre_hook(fail_with(error))
        raises(type(error), lambda: ksample(bound, latent, s.conditioning))
        handle.remove()
        assert hook_count(s.model.model) == 0
        assert torch.equal(ksample(bound, latent, s.conditioning), right)


def check_latent_of_another_size_is_refused(pack: Pack) -> None:
    s = scene(pack)
    bound, _ = apply(pack, s)
    other = {"samples": torch.zeros(1, 4, 16, 16)}
    raises("ShapeError", lambda: ksample(bound, other, s.conditioning), "192x128", "128x128")


def check_low_memory_loading(pack: Pack) -> None:
    s = scene(pack)
    bound, latent = apply(pack, s, with_lora(s.model))
    right = ksample(bound, latent, s.conditioning)
    with little_loaded() as low:
        found = ksample(bound, latent, s.conditioning)
    assert ("UNetTaming", True) in low and ("BaseModel", True) in low, low
    # Patches are computed layer by layer instead of once: sums in another order.
    assert torch.allclose(found, right, atol=1e-3), float((found - right).abs().max())


def check_dtypes(pack: Pack) -> None:
    s = scene(pack)
    bound, latent = apply(pack, s)
    right = ksample(bound, latent, s.conditioning)
    for dtype, cast in (
        (torch.float16, torch.float32),
        (torch.float16, None),
        (torch.bfloat16, None),
        (torch.bfloat16, torch.float32),
    ):
        found = ksample(apply(pack, s, in_dtype(pack, s, dtype, cast))[0], latent, s.conditioning)
        assert found.isfinite().all()
        error = float((found - right).pow(2).mean().sqrt() / right.std())
        # bf16 has 8 bits, three steps long; fp16 and rounded weights alone change far less.
        limit = 0.2 if dtype is torch.bfloat16 and cast is None else 0.03
        assert error < limit, (dtype, cast, error)


def check_memory_is_reserved_for_taming(pack: Pack) -> None:
    s = scene(pack)
    bound, latent = apply(pack, s)
    with memory_asked() as asked:
        for model in (s.model, bound):
            ksample(model, latent, s.conditioning, steps=1)
    assert asked[-1] > 1.05 * asked[0], asked


def check_last_the_model_is_as_it_was(pack: Pack) -> None:
    import comfy.model_management as mm

    s = scene(pack)
    fresh = pack.run("LDMSID_LoadEmbedded")[0]
    assert weights_checksum(s.model.model) == weights_checksum(fresh.model)
    assert hook_count(s.model.model) == 0 and not s.model.get_all_wrappers("diffusion_model")
    mm.unload_all_models()
    assert "extra_conds" not in vars(s.model.model), "the model holds a reference to itself"
