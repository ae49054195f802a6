"""Public-domain and CC0 photographs that installed libraries carry; none is copied here.

Training never sees the four photographs that the evaluation uses (`EVALUATION_PHOTOGRAPHS`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ConfigError

# scikit-image: name -> file and licence as its documentation states it.
TRAINING_PHOTOGRAPHS = {
    "brick": ("brick.png", "CC0, CC0Textures"),
    "camera": ("camera.png", "CC0, Lav Varshney"),
    "clock": ("clock_motion.png", "public domain, Stefan van der Walt"),
    "grass": ("grass.png", "CC0, texturelib"),
    "gravel": ("gravel.png", "CC0, CC0Textures"),
    "hubble_deep_field": ("hubble_deep_field.jpg", "public domain, NASA"),
    "retina": ("retina.jpg", "CC0, Mikael Häggström"),
}
EVALUATION_PHOTOGRAPHS = {
    "astronaut": ("astronaut.png", "public domain, NASA"),
    "chelsea": ("chelsea.png", "CC0, Stefan van der Walt"),
    "coffee": ("coffee.png", "CC0, Rachel Michetti"),
    "rocket": ("rocket.jpg", "public domain, SpaceX"),
}


def _scikit_image_file(name: str) -> Path:
    import skimage

    return Path(skimage.__file__).parent / "data" / name


def load_photograph(name: str) -> NDArray[np.uint8]:
    """A bundled photograph by name, `(H, W, 3)` sRGB, 8 bit.

    Raises:
        ConfigError: If the name is none of `TRAINING_PHOTOGRAPHS`, `EVALUATION_PHOTOGRAPHS`.
    """
    known = {**TRAINING_PHOTOGRAPHS, **EVALUATION_PHOTOGRAPHS}
    if name not in known:
        raise ConfigError(f"Expected a photograph among {sorted(known)}, found {name!r}.")
    with Image.open(_scikit_image_file(known[name][0])) as picture:
        return np.asarray(picture.convert("RGB"))


def training_photographs() -> list[NDArray[np.uint8]]:
    """All training photographs, `(H, W, 3)` each, in a fixed order.

    Besides those of scikit-image there is the portrait of Rear Admiral Grace Hopper that
    matplotlib carries (public domain, U.S. Navy).
    """
    import matplotlib

    photographs = [load_photograph(name) for name in TRAINING_PHOTOGRAPHS]
    portrait = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    with Image.open(portrait) as picture:
        photographs.append(np.asarray(picture.convert("RGB")))
    return photographs
