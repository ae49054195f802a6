"""Procedural training images: dead leaves, textures, shaded solids, patterns and text.

Dead leaves with power-law radii reproduce the scale-invariant edge statistics of photographs
(Lee, Mumford and Huang, *Occlusion models for natural images*, 2001). Everything is drawn at
twice the wanted size and averaged down, so that edges carry natural anti-aliasing.
"""

from __future__ import annotations

import string

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .palette import FloatArray, draw_palette

_OVERSAMPLING = 2
_LETTERS = list(string.ascii_letters + string.digits + ".,:;!?&%()-+=")


def fractal_noise(rng: np.random.Generator, size: int, exponent: float) -> FloatArray:
    """Gaussian noise with amplitude spectrum `1 / f**exponent`, `(size, size)`, std 1."""
    fy = np.fft.fftfreq(size)[:, None]
    fx = np.fft.rfftfreq(size)[None, :]
    stretch = np.exp(rng.normal(0.0, 0.4))
    frequency = np.sqrt((fx * stretch) ** 2 + (fy / stretch) ** 2)
    frequency[0, 0] = 1.0
    shape = frequency.shape
    spectrum = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / frequency**exponent
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, s=(size, size))
    return np.asarray(field / (field.std() + 1e-12), dtype=np.float32)


def _radii(rng: np.random.Generator, size: int, count: int) -> NDArray[np.float64]:
    """Leaf radii with density ~ r**-3 between 1 % and 45 % of the image."""
    low, high = size * np.exp(rng.uniform(np.log(0.008), np.log(0.08))), size * 0.5
    u = rng.random(count)
    return 1.0 / np.sqrt(u / high**2 + (1.0 - u) / low**2)


def _draw_leaf(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: int, radius: float, label: int
) -> tuple[float, float]:
    cx, cy = rng.uniform(-0.1, 1.1, 2) * size
    turn = rng.uniform(0.0, 2.0 * np.pi)
    aspect = np.exp(rng.normal(0.0, 0.5))
    corners = int(rng.choice([3, 4, 4, 5, 6, 24, 24]))
    angle = np.arange(corners) * 2.0 * np.pi / corners
    if corners < 24:
        angle = angle + rng.normal(0.0, 0.25, corners)
    x, y = radius * aspect * np.cos(angle), radius / aspect * np.sin(angle)
    px = cx + x * np.cos(turn) - y * np.sin(turn)
    py = cy + x * np.sin(turn) + y * np.cos(turn)
    draw.polygon(list(zip(px.tolist(), py.tolist(), strict=True)), fill=label)
    return float(cx), float(cy)


def dead_leaves(rng: np.random.Generator, size: int) -> FloatArray:
    """Overlapping textured, shaded leaves, `(size, size, 3)`, roughly unit range."""
    count = int(np.exp(rng.uniform(np.log(40), np.log(1500))))
    labels = Image.new("I", (size, size), 0)
    draw = ImageDraw.Draw(labels)
    radii = _radii(rng, size, count)
    if rng.random() < 0.3:  # painter's order: large first, so that small ones stay visible
        radii = np.sort(radii)[::-1]
    centre = np.full((count + 1, 2), size / 2.0, np.float32)
    for label in range(1, count + 1):
        centre[label] = _draw_leaf(draw, rng, size, float(radii[label - 1]), label)
    index = np.asarray(labels, dtype=np.int32)

    palette = draw_palette(rng, int(rng.integers(3, 9)))
    colour = palette[rng.integers(0, len(palette), count + 1)].astype(np.float64)
    colour = colour * np.exp(rng.normal(0.0, 0.25, (count + 1, 1))) + rng.normal(
        0.0, 0.02, (count + 1, 3)
    )
    scale = np.concatenate([[size / 2.0], radii])
    slope = rng.normal(0.0, 0.25, (count + 1, 2)) / scale[:, None]
    grain = np.where(rng.random(count + 1) < 0.6, rng.gamma(1.0, 0.08, count + 1), 0.0)
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32)
    shade = (
        1.0
        + slope[index, 0] * (xx - centre[index, 0])
        + slope[index, 1] * (yy - centre[index, 1])
        + grain[index] * fractal_noise(rng, size, rng.uniform(0.4, 1.4))
    )
    return np.asarray(colour[index] * np.clip(shade, 0.15, 2.5)[..., None], dtype=np.float32)


def texture_field(rng: np.random.Generator, size: int) -> FloatArray:
    """A surface: a palette indexed by fractal noise, with finer grain over it."""
    palette = draw_palette(rng, int(rng.integers(2, 6)))
    field = fractal_noise(rng, size, rng.uniform(0.8, 2.2))
    if rng.random() < 0.3:
        field = np.sin(field * rng.uniform(1.0, 6.0))
    place = np.clip((field + 2.0) / 4.0, 0.0, 0.999) * (len(palette) - 1)
    low = place.astype(np.int32)
    part = (place - low)[..., None]
    base = palette[low] * (1.0 - part) + palette[np.minimum(low + 1, len(palette) - 1)] * part
    grain = fractal_noise(rng, size, rng.uniform(0.0, 1.0)) * rng.gamma(1.5, 0.06)
    return np.asarray(base * (1.0 + grain)[..., None], dtype=np.float32)


def pattern(rng: np.random.Generator, size: int) -> FloatArray:
    """Stripes, checks or woven waves in two or three colours, turned at random."""
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32)
    turn = rng.uniform(0.0, np.pi)
    period = np.exp(rng.uniform(np.log(6.0), np.log(size / 3)))
    bend = rng.normal(0.0, 0.15, 2) * period
    slow = fractal_noise(rng, size, 2.2)
    u = (xx * np.cos(turn) + yy * np.sin(turn) + bend[0] * slow) * 2.0 * np.pi / period
    v = (yy * np.cos(turn) - xx * np.sin(turn) + bend[1] * slow) * 2.0 * np.pi / period
    wave = [np.sin(u), np.sign(np.sin(u)), np.sign(np.sin(u) * np.sin(v)), np.sin(u) * np.sin(v)]
    weight = (wave[int(rng.integers(0, 4))] * 0.5 + 0.5)[..., None]
    first, second, third = draw_palette(rng, 3)
    image = first * weight + second * (1.0 - weight)
    if rng.random() < 0.5:
        image = image + (third - image) * (rng.uniform(0.2, 0.8) * (slow > 0.5))[..., None]
    return np.asarray(image, dtype=np.float32)


def shaded_solids(rng: np.random.Generator, size: int) -> FloatArray:
    """Lit balls before a soft gradient: smooth shading, highlights, contact with the dark."""
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32) / size
    first, second = draw_palette(rng, 2)
    turn = rng.uniform(0.0, 2.0 * np.pi)
    ramp = np.clip(0.5 + (xx - 0.5) * np.cos(turn) + (yy - 0.5) * np.sin(turn), 0.0, 1.0)[..., None]
    image = first * ramp + second * (1.0 - ramp)
    light = rng.normal(size=3)
    light = light / np.linalg.norm(light)
    light[2] = abs(light[2])
    count = int(rng.integers(1, 9))
    for colour in draw_palette(rng, count):
        cx, cy = rng.uniform(0.0, 1.0, 2)
        radius = rng.uniform(0.05, 0.4)
        nx, ny = (xx - cx) / radius, (yy - cy) / radius
        height = 1.0 - nx**2 - ny**2
        inside = (height > 0.0)[..., None]
        nz = np.sqrt(np.maximum(height, 0.0))
        lambert = np.clip(nx * light[0] + ny * light[1] + nz * light[2], 0.0, 1.0)[..., None]
        gloss = rng.uniform(0.0, 0.7) * lambert ** rng.uniform(8.0, 60.0)
        image = np.where(inside, colour * (0.12 + 0.95 * lambert) + gloss, image)
    grain = fractal_noise(rng, size, rng.uniform(0.5, 1.5)) * rng.gamma(1.0, 0.02)
    return np.asarray(image * (1.0 + grain)[..., None], dtype=np.float32)


def text_page(rng: np.random.Generator, size: int) -> FloatArray:
    """Lines of random letters on paper, signs or dead leaves."""
    plain = rng.random() < 0.6
    paper, ink = draw_palette(rng, 2)
    ground = np.broadcast_to(paper, (size, size, 3)) if plain else dead_leaves(rng, size)
    mask = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(mask)
    y = rng.uniform(0.0, 0.1) * size
    while y < size:
        height = float(np.exp(rng.uniform(np.log(size * 0.02), np.log(size * 0.16))))
        words = "".join(rng.choice([*_LETTERS, *"     "], 60))
        draw.text(
            (rng.uniform(-0.2, 0.3) * size, y),
            words,
            fill=255,
            font=ImageFont.load_default(size=height),
        )
        y += height * rng.uniform(1.1, 2.5)
    if rng.random() < 0.5:
        mask = mask.rotate(float(rng.uniform(-45.0, 45.0)), resample=Image.Resampling.BILINEAR)
    weight = np.asarray(mask, dtype=np.float32)[..., None] / 255.0
    return np.asarray(ground * (1.0 - weight) + ink * weight, dtype=np.float32)


def light_up(rng: np.random.Generator, image: FloatArray) -> FloatArray:
    """Uneven light, contrast and exposure: what lies between a surface and its photograph."""
    size = image.shape[0]
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    if rng.random() < 0.6:
        gx, gy = rng.normal(0.0, 0.8, 2)
        pool = np.exp(gx * xx + gy * yy)
        if rng.random() < 0.5:
            cx, cy = rng.uniform(-0.5, 0.5, 2)
            reach = rng.uniform(0.15, 0.8)
            pool = pool * (0.25 + np.exp(-((xx - cx) ** 2 + (yy - cy) ** 2) / reach**2))
        image = image * pool[..., None]
    tint = np.exp(rng.normal(0.0, 0.08, 3))
    level = image.mean() + 1e-6
    wanted = rng.beta(2.2, 2.8)
    image = np.clip(image * tint, 0.0, None)
    if rng.random() < 0.7:
        image = image * (0.5 * wanted / level + 0.5)
    contrast = np.exp(rng.normal(0.0, 0.25))
    return np.asarray(np.clip(image, 0.0, 1.0) ** contrast, dtype=np.float32)


_KINDS = (dead_leaves, texture_field, pattern, shaded_solids, text_page)
_SHARES = (0.52, 0.14, 0.08, 0.17, 0.09)


def procedural_image(seed: int, index: int, *, size: int) -> NDArray[np.uint8]:
    """Image number `index` of the endless sequence that `seed` names.

    Args:
        seed: Names the sequence.
        index: Number in the sequence; the same pair always gives the same picture.
        size: Side in pixels.

    Returns:
        `(size, size, 3)` sRGB, 8 bit.
    """
    rng = np.random.default_rng((seed, index))
    kind = _KINDS[int(rng.choice(len(_KINDS), p=_SHARES))]
    large = light_up(rng, kind(rng, size * _OVERSAMPLING))
    small = large.reshape(size, _OVERSAMPLING, size, _OVERSAMPLING, 3).mean(axis=(1, 3))
    return np.asarray(np.round(small * 255.0), dtype=np.uint8)
