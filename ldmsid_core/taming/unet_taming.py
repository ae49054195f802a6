"""UNet taming: the structure encoder and one SFT layer per residual block of the UNet."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import ShapeError
from .configs import UNetTamingConfig
from .operations import PLAIN, Operations
from .sft import SftLayer
from .sites import UNetSite, unet_sites
from .structure_encoder import StructureEncoder


class UNetTaming(nn.Module):
    """All trained modules that steer a UNet."""

    def __init__(self, config: UNetTamingConfig, *, operations: Operations = PLAIN) -> None:
        """Build with PyTorch's default initialisation; `identity` layers start as no change."""
        super().__init__()
        self.config = config
        self.sites: tuple[UNetSite, ...] = unet_sites(config.widths, config.blocks)
        self.structure_encoder = StructureEncoder(config.encoder, operations=operations)
        self.unet_sft = nn.ModuleDict(
            {
                site.name: SftLayer(
                    site.channels,
                    features=config.encoder.features,
                    hidden=config.hidden,
                    normalise=config.kind == "released",
                    operations=operations,
                )
                for site in self.sites
            }
        )

    def modulate(
        self,
        site: UNetSite,
        h: Tensor,
        structure: list[Tensor],
        strength: float = 1.0,
        *,
        repeats: int = 1,
    ) -> Tensor:
        """The tamed output of a residual block's second convolution.

        Args:
            site: Which block.
            h: `(B, C, h, w)` output of the convolution.
            structure: Features of the structure encoder, finest first.
            strength: 1 tames fully, 0 returns `h` itself; between and beyond is linear.
            repeats: How often the features' rows follow one another in `h`, as under guidance.

        Returns:
            The shape and dtype of `h`.

        Raises:
            ShapeError: If the feature of the site's level has another batch or size.
        """
        feature = structure[site.level]
        rows = repeats * feature.shape[0]
        if rows != h.shape[0] or feature.shape[-2:] != h.shape[-2:]:
            raise ShapeError(
                f"Expected a structure feature of {h.shape[0]} x {tuple(h.shape[-2:])} at site "
                f"{site.name}, found {rows} x {tuple(feature.shape[-2:])}: latent and "
                "bands come from different files or sizes."
            )
        return self.unet_sft[site.name](h, feature, strength).to(h.dtype)
