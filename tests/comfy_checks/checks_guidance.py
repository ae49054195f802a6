"""Several prompts in one UNet call: rows that repeat are computed once, areas see their part."""

from __future__ import annotations

from typing import Any

import torch
from runner import Pack
from scene import apply, ksample, scene, seen_by_encoder, structure_of


def check_rows_are_computed_once_under_guidance(pack: Pack) -> None:
    s = scene(pack)
    bound, latent = apply(pack, s)
    expected = structure_of(s)
    for cfg in (1.0, 3.0):
        with seen_by_encoder(s) as seen:
            ksample(bound, latent, s.conditioning, cfg=cfg, steps=2)
        assert len(seen) == 2 and all(torch.equal(ll, expected) for ll, _ in seen), cfg
        assert [timestep.shape for _, timestep in seen] == [(1,), (1,)]
        assert float(seen[0][1][0]) == 999.0


def check_rows_computed_once_or_each_give_one_picture(pack: Pack) -> None:
    s = scene(pack)
    bound, latent = apply(pack, s)
    double = {**latent, "samples": latent["samples"].repeat(2, 1, 1, 1)}
    once = ksample(bound, double, s.conditioning, cfg=3.0, steps=2)
    rows: Any = pack.part("nodes.structure_condition").RepeatedRows
    whole = rows.of
    rows.of = lambda _self, count: count
    try:
        with seen_by_encoder(s) as seen:
            each = ksample(bound, double, s.conditioning, cfg=3.0, steps=2)
    finally:
        rows.of = whole
    assert all(len(ll) == 4 for ll, _ in seen)
    # Convolutions of other batches sum in another order.
    assert torch.allclose(once, each, atol=1e-4)


def check_prompts_with_areas_keep_their_own_rows(pack: Pack) -> None:
    s = scene(pack)
    bound, latent = apply(pack, s)
    whole = structure_of(s)
    places = ((0, 0), (4, 6))
    prompts = [
        [s.conditioning[0][0], {"area": (8, 16, *place), "strength": 1.0}] for place in places
    ]
    with seen_by_encoder(s) as seen:
        ksample(bound, latent, prompts, steps=1)
    rows = torch.cat([ll for ll, _ in seen if tuple(ll.shape[-2:]) == (8, 16)])
    parts = [whole[0, :, top : top + 8, left : left + 16] for top, left in places]
    assert len(rows) == 2 and all(any(torch.equal(r, part) for r in rows) for part in parts)


def check_area_prompts_see_their_part(pack: Pack) -> None:
    s = scene(pack)
    bound, latent = apply(pack, s)
    whole = structure_of(s)
    area = (8, 16, 4, 6)
    prompt = [
        [s.conditioning[0][0], {}],
        [s.conditioning[0][0], {"area": area, "strength": 1.0}],
    ]
    with seen_by_encoder(s) as seen:
        ksample(bound, latent, prompt, steps=1, negative=s.conditioning)
    shapes = sorted(tuple(ll.shape[-2:]) for ll, _ in seen)
    assert (8, 16) in shapes and tuple(whole.shape[-2:]) in shapes
    part = next(ll for ll, _ in seen if tuple(ll.shape[-2:]) == (8, 16))
    assert torch.equal(part[0], whole[0, :, 4:12, 6:22])
