"""A host's own weights, to see what released checkpoints changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..hosts.empty_prompt import empty_prompt_embedding, has_text_encoder
from ..hosts.folder import FolderHost, build_folder, read_folder
from ..hosts.layout import unet_names, vae_names
from ..hosts.original import OriginalHost, read_original

State = dict[str, Tensor]


@dataclass(frozen=True)
class BaseWeights:
    """A Stable Diffusion, single file or diffusers folder, opened to compare with.

    Attributes:
        source: What was opened.
    """

    source: OriginalHost | FolderHost

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.source.path

    def prompt_embedding(self) -> Tensor | None:
        """The empty prompt's; None without a text encoder."""
        if isinstance(self.source, FolderHost):
            state = self.source.weights("text_encoder")
        else:
            state = self.source.state
        if not has_text_encoder(state):
            return None
        return empty_prompt_embedding(state, source=str(self.path))

    def unet(self, keys: Iterable[str], *, blocks: int) -> State:
        """UNet tensors under the given names of the original layout, those that there are."""
        if isinstance(self.source, OriginalHost):
            return {key: self.source.unet[key] for key in keys if key in self.source.unet}
        stored = self.source.weights("unet")
        names = unet_names(keys, blocks=blocks)
        return {key: stored[name] for key, name in names.items() if name in stored}

    def decoder(self, keys: Iterable[str]) -> State:
        """Decoder tensors under the given names of the original layout, those that there are."""
        if isinstance(self.source, OriginalHost):
            return {key: self.source.vae[key] for key in keys if key in self.source.vae}
        # In the stored dtype: a comparison has to know what the folder was rounded to.
        stored_in = next(iter(self.source.weights("vae").values())).dtype
        (vae,) = build_folder(self.source, dtype=stored_in, parts=("vae",))
        stored = vae.state_dict()
        found = {key: stored[name] for key, name in vae_names(keys).items() if name in stored}
        is_projection = {k: ".attn_1." in k and v.ndim == 2 for k, v in found.items()}
        return {k: v[:, :, None, None] if is_projection[k] else v for k, v in found.items()}


def read_base_weights(path: Path) -> BaseWeights:
    """Open a host to compare with.

    Raises:
        CheckpointError: If it cannot be read.
        HostMismatchError: If it is no Stable Diffusion 1.x or 2.x.
    """
    return BaseWeights(read_folder(path) if path.is_dir() else read_original(path))
