"""A part of a picture: what is sampled, what comes out, what is refused."""

from __future__ import annotations

import torch
from runner import Pack
from scene import (
    apply,
    cut,
    decode,
    ksample,
    psnr,
    raises,
    sample,
    scene,
    seen_by_encoder,
    wide_expected,
    wide_scene,
)

TILES = {"tile": 256, "overlap": 64}
CROP, LEFT, TOP, WIDTH, HEIGHT = "32,40,96,80", 32, 40, 96, 80


def in_crop(image: torch.Tensor) -> torch.Tensor:
    return image[:, TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]


def check_crop_equals_the_frame_and_the_command_line(pack: Pack) -> None:
    s = wide_scene(pack)
    bands, _, _ = pack.run("LDMSID_SplitBands", raw=s.raw, crop=CROP)
    t = s._replace(bands=bands)
    whole = sample(pack, s, seed=5, steps=3, **TILES)
    with seen_by_encoder(s) as seen:
        part = sample(pack, t, seed=5, steps=3, **TILES)
    rows = sum(ll.shape[0] * ll.shape[-1] * ll.shape[-2] for ll, _ in seen)
    assert part["samples"].shape == whole["samples"].shape and rows > 0
    image = decode(pack, t, part)
    assert image.shape == (1, HEIGHT, WIDTH, 3)
    full = in_crop(decode(pack, s, whole, mode="bounded"))
    assert psnr(image, full) >= 40.0, psnr(image, full)
    wanted = (wide_expected(pack)["tiled.crop"] * 0.5 + 0.5).clamp(0.0, 1.0)
    assert psnr(image.movedim(-1, 1), wanted) >= 50.0, psnr(image.movedim(-1, 1), wanted)


def check_latent_of_a_part_is_no_latent_of_the_frame(pack: Pack) -> None:
    s = wide_scene(pack)
    bands, _, _ = pack.run("LDMSID_SplitBands", raw=s.raw, crop=CROP)
    other, _, _ = pack.run("LDMSID_SplitBands", raw=s.raw, crop="0,0,64,64")
    part = sample(pack, s._replace(bands=bands), steps=1, **TILES)
    for wrong in (s.bands, other):
        raises("ShapeError", lambda b=wrong: decode(pack, s, part, bands=b), "96x80", "sample_dark")


def check_crop_of_a_whole_latent(pack: Pack) -> None:
    s = scene(pack)
    bands, _, _ = pack.run("LDMSID_SplitBands", raw=s.raw, crop=CROP)
    assert bands.identity == s.bands.identity
    bound, latent = apply(pack, s, bands=bands)
    samples = {**latent, "samples": ksample(bound, latent, s.conditioning)}
    image = decode(pack, s, samples, bands=bands)
    assert torch.equal(image, in_crop(decode(pack, s, samples)))
    # A frame that is sampled in one piece is sampled whole.
    whole = sample(pack, s._replace(bands=bands))
    assert torch.equal(whole["samples"], sample(pack, s)["samples"])
    assert torch.equal(decode(pack, s, whole), decode(pack, s, sample(pack, s)))


def check_crop_of_a_turned_picture(pack: Pack) -> None:
    from dataclasses import replace

    s = scene(pack)
    turned = replace(cut(s.raw, 70, 131), orientation=6)
    bands, _, _ = pack.run("LDMSID_SplitBands", raw=turned)
    part, _, _ = pack.run("LDMSID_SplitBands", raw=turned, crop="8,20,40,60")
    latent = sample(pack, s, bands=bands)
    image, whole = (decode(pack, s, latent, bands=b) for b in (part, bands))
    assert torch.equal(image, whole[:, 20:80, 8:48])


def check_crops_that_cannot_be_are_refused(pack: Pack) -> None:
    s = scene(pack)
    for crop, words in (
        ("100,0,128,64", ("192x128", "128x64 at 100,0")),
        ("1,2,3", ("x,y,width,height", "1,2,3")),
        ("0,0,0,5", ("at least 1",)),
    ):
        raises(
            "ConfigError", lambda c=crop: pack.run("LDMSID_SplitBands", raw=s.raw, crop=c), *words
        )
    blank, _, _ = pack.run("LDMSID_SplitBands", raw=s.raw, crop=" ")
    assert blank.region is None
