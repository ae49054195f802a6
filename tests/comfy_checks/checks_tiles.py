"""Tiles of sampling and decoding: results, memory, interrupts, refusals, what is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from runner import Pack
from scene import (
    Scene,
    decode,
    hook_count,
    memory_asked,
    psnr,
    raises,
    sample,
    scene,
    wide_expected,
    wide_scene,
)

TILES = {"tile": 256, "overlap": 64}


@contextmanager
def failing(
    module: torch.nn.Module, widest: int, times: int = 1000, *, after: int = 0
) -> Iterator[list[int]]:
    """A layer that runs out of memory on anything wider, so often, after some calls; the widths."""
    seen: list[int] = []
    failures: list[int] = []

    def fail(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0].shape[-1])
        if seen[-1] > widest and after < len(seen) and len(failures) < times:
            failures.append(seen[-1])
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    handle = module.register_forward_pre_hook(fail)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def told(pack: Pack) -> Iterator[list[str]]:
    """What nodes show to the user."""
    seen: list[str] = []
    parts = (pack.part("nodes.tamed_sampler"), pack.part("nodes.tamed_decode"))
    kept = parts[0].teller
    for part in parts:
        part.teller = lambda _node: seen.append
    try:
        yield seen
    finally:
        for part in parts:
            part.teller = kept


def nothing_hooked(s: Scene) -> bool:
    networks = (
        s.model.model.diffusion_model, s.vae.first_stage_model, s.taming.unet.model,
        s.taming.decoder.model,
    )  # fmt: skip
    return not any(hook_count(network) for network in networks)


def check_tiled_frame_equals_the_command_line(pack: Pack) -> None:
    expected, s = wide_expected(pack), wide_scene(pack)
    latent = sample(pack, s, seed=5, steps=3, **TILES)
    wanted, scale = expected["tiled.latent"], s.taming.header.latent_scale
    assert latent["samples"].shape == wanted.shape
    assert (latent["samples"] * scale - wanted).abs().max() < 1e-3 * wanted.abs().max()
    whole = sample(pack, s, seed=5, steps=3, tile=1024)["samples"]
    assert (whole * scale - wanted).abs().max() > 0.05, "the tiles made no difference"
    image = decode(pack, s, latent, mode="bounded", tile=512).movedim(-1, 1)
    picture = (expected["tiled.image"] * 0.5 + 0.5).clamp(0.0, 1.0)
    assert psnr(image, picture) >= 50.0 and nothing_hooked(s)


def check_start_equals_the_command_line(pack: Pack) -> None:
    wanted, s = wide_expected(pack)["begun.latent"], wide_scene(pack)
    latent = sample(pack, s, seed=5, steps=3, start=0.6, vae=s.vae, **TILES)
    scale = s.taming.header.latent_scale
    assert (latent["samples"] * scale - wanted).abs().max() < 1e-3 * wanted.abs().max()
    own = sample(pack, s, seed=5, steps=3, start=0.6, vae=s.vae, scheduler="karras", **TILES)
    assert own["samples"].isfinite().all()
    raises("ConfigError", lambda: sample(pack, s, start=0.6), "VAE", "0.6")
    raises("ConfigError", lambda: sample(pack, s, start=0.0, vae=s.vae), "start")


def check_bounded_is_close_to_exact(pack: Pack) -> None:
    s = wide_scene(pack)
    latent = sample(pack, s, **TILES)
    exact, bounded = (decode(pack, s, latent, mode=mode) for mode in ("auto", "bounded"))
    assert psnr(exact, bounded) >= 45.0 and not torch.equal(exact, bounded)


def check_tiles_ask_for_less_memory(pack: Pack) -> None:
    s = wide_scene(pack)
    with memory_asked() as asked:
        sample(pack, s, steps=1, tile=1024)
        sample(pack, s, steps=1, **TILES)
        sample(pack, s, steps=1, strength=0.0, **TILES)
    # In tiles the stand-in for the frame comes first.
    whole, *tiled = asked
    assert len(tiled) == 4 and max(tiled[:2]) < 0.3 * whole, asked
    assert max(tiled[2:]) < min(tiled[:2]), asked


def check_lack_of_memory_in_sampling_halves_the_tile(pack: Pack) -> None:
    s = wide_scene(pack)
    halved = sample(pack, s, **TILES)["samples"]
    first = s.model.model.diffusion_model.input_blocks[0][0]
    # In the stand-in for the frame, and in the second of its tiles.
    for passed in (0, 4 + 1):
        with told(pack) as texts, failing(first, 32, after=passed) as widths:
            found = sample(pack, s, tile=512, overlap=64)["samples"]
        assert widths[: passed + 1] == [64] * (passed + 1) and set(widths[passed + 1 :]) == {32}
        assert torch.equal(found, halved) and nothing_hooked(s)
        assert any("512 pixels" in text and "256 pixels" in text for text in texts), texts
    with failing(first, 4):
        raises(RuntimeError, lambda: sample(pack, s, tile=512, overlap=64), "memory")
    assert torch.equal(sample(pack, s, **TILES)["samples"], halved)


def check_lack_of_memory_in_decoding_bounds_it(pack: Pack) -> None:
    s = wide_scene(pack)
    latent = sample(pack, s, steps=2, **TILES)
    bounded = decode(pack, s, latent, mode="bounded", tile=768)
    layer = s.vae.first_stage_model.decoder.up[2].block[0].conv1
    with told(pack) as texts, failing(layer, 120, times=1) as widths:
        found = decode(pack, s, latent)
    assert max(widths) > 120
    assert torch.equal(found, bounded) and nothing_hooked(s)
    assert any("exact decode" in text and "768 pixels" in text for text in texts), texts
    assert not s.taming.halves.kept


def check_interrupt_between_tiles(pack: Pack) -> None:
    import comfy.model_management as mm

    s = scene(pack)
    right = sample(pack, s, tile=64, overlap=32)["samples"]
    seen: list[int] = []
    # After the four steps of the stand-in, and two tiles.
    stop_at = 4 + 2

    def stop(*_: Any) -> None:
        seen.append(1)
        if len(seen) == stop_at:
            mm.interrupt_current_processing(True)

    handle = s.model.model.diffusion_model.input_blocks[0][0].register_forward_pre_hook(stop)
    try:
        raises(mm.InterruptProcessingException, lambda: sample(pack, s, tile=64, overlap=32))
    finally:
        handle.remove()
        mm.interrupt_current_processing(False)
    assert len(seen) == stop_at and nothing_hooked(s)
    assert torch.equal(sample(pack, s, tile=64, overlap=32)["samples"], right)


def check_small_frames_are_not_planned(pack: Pack) -> None:
    s = scene(pack)
    with told(pack) as texts:
        decode(pack, s, sample(pack, s))
    assert texts == ["192x128 pixels, 4 steps in one piece", "192x128 pixels, exact decode"], texts


def check_large_frames_are_planned_by_memory(pack: Pack) -> None:
    s = wide_scene(pack)
    parts = pack.part("nodes.tamed_sampling"), pack.part("nodes.frame_decode")
    kept = parts[0].memory_to_spare
    found = []
    try:
        for tile, *frees in ((0, 64_000_000_000, 64_000_000_000), (512, 165_000_000, 260_000_000)):
            for part, free in zip(parts, frees, strict=True):
                part.memory_to_spare = lambda _device, _own, free=free: free
            with told(pack) as texts:
                decode(pack, s, sample(pack, s, steps=1), tile=tile)
            found.append(texts)
    finally:
        for part in parts:
            part.memory_to_spare = kept
    plenty, little = found
    assert "exact decode" in plenty[1] and all(" s" in t and "GB" in t for t in plenty), plenty
    assert "tiles of" in little[0] and "bounded decode" in little[1], little


def check_text_reaches_the_node(pack: Pack) -> None:
    from types import SimpleNamespace

    from server import PromptServer

    s, sent = scene(pack), []
    server = PromptServer.instance
    server.send_progress_text = lambda text, node_id: sent.append((text, node_id))
    try:
        latent = sample(pack, s)
        pack.execute(
            "LDMSID_TamedDecode", SimpleNamespace(unique_id="17"), vae=s.vae, taming=s.taming,
            bands=s.bands, latent=latent, strength=1.0,
        )  # fmt: skip
    finally:
        del server.send_progress_text
    assert sent == [("192x128 pixels, exact decode", "17")], sent
    assert callable(server.send_progress_text), "both hosts have it"


def check_halves_of_bands(pack: Pack) -> None:
    import gc

    s = scene(pack)
    bands, _, _ = pack.run("LDMSID_SplitBands", raw=s.raw)
    t = s._replace(bands=bands)
    latent = sample(pack, t)
    other = {**latent, "samples": latent["samples"] * 0.5}
    both = {**latent, "samples": torch.cat([latent["samples"], other["samples"]])}
    s.taming.halves.drop()
    together = decode(pack, t, both)
    assert not s.taming.halves.kept
    first = decode(pack, t, latent)
    assert len(s.taming.halves.kept) == 6
    second = decode(pack, t, other)
    assert torch.equal(together, torch.cat([first, second]))
    assert torch.equal(decode(pack, t, latent), first)
    del bands, t
    gc.collect()
    assert s.taming.halves.kept is None, "halves outlive their bands"
    decode(pack, s, latent)
    decode(pack, s, latent)
    s.taming.halves.drop()


def check_tiles_that_cannot_be_are_refused(pack: Pack) -> None:
    s = scene(pack)
    for changes, words in (
        ({"tile": 100}, ("100", "multiple of 64")),
        ({"tile": 128, "overlap": 128}, ("overlap", "128")),
        ({"tile": 0, "overlap": 12}, ("overlap", "12")),
    ):
        raises("ConfigError", lambda c=changes: sample(pack, s, **c), *words)
    latent = sample(pack, s)
    raises("ConfigError", lambda: decode(pack, s, latent, tile=256), "512", "256")
    raises("ConfigError", lambda: decode(pack, s, latent, mode="nonsense"), "nonsense")
