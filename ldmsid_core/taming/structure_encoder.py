"""The structure encoder: level-3 `ll` and timestep -> one feature per UNet level (paper 3.2)."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import ShapeError
from .blocks import SelfAttention, TimedResidualBlock, timestep_embedding
from .configs import StructureEncoderConfig
from .operations import PLAIN, Operations


class _Level(nn.Module):
    """Residual blocks, each followed by attention where the level has it, then a stride."""

    def __init__(
        self,
        config: StructureEncoderConfig,
        level: int,
        in_channels: int,
        time_width: int,
        operations: Operations,
    ) -> None:
        super().__init__()
        channels = config.width * config.multipliers[level]
        inputs = [in_channels, *[channels] * (config.blocks - 1)]
        self.blocks = nn.ModuleList(
            TimedResidualBlock(n, channels, time_width=time_width, operations=operations)
            for n in inputs
        )
        heads = config.heads or channels // config.head_width
        count = config.blocks if level in config.attention_levels else 0
        self.attentions = nn.ModuleList(
            SelfAttention(channels, heads=heads, operations=operations) for _ in range(count)
        )
        last = level == len(config.multipliers) - 1
        self.down: nn.Conv2d | None = None
        if not last:
            self.down = operations.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x, time)
            if len(self.attentions):
                x = self.attentions[index](x)
        return x


class StructureEncoder(nn.Module):
    """Level-3 `ll` and timestep -> features that steer the UNet."""

    def __init__(self, config: StructureEncoderConfig, *, operations: Operations = PLAIN) -> None:
        """Build with PyTorch's default initialisation."""
        super().__init__()
        self.config = config
        time_width = 4 * config.width
        self.time = nn.Sequential(
            operations.Linear(config.width, time_width),
            nn.SiLU(),
            operations.Linear(time_width, time_width),
        )
        self.conv_in = operations.Conv2d(config.in_channels, config.width, 3, padding=1)
        widths = [config.width * m for m in config.multipliers]
        self.levels = nn.ModuleList(
            _Level(config, i, ([config.width, *widths])[i], time_width, operations)
            for i in range(len(widths))
        )
        heads = config.heads or widths[-1] // config.head_width
        self.middle_in = TimedResidualBlock(
            widths[-1], widths[-1], time_width=time_width, operations=operations
        )
        self.middle_attention = SelfAttention(widths[-1], heads=heads, operations=operations)
        self.middle_out = TimedResidualBlock(
            widths[-1], widths[-1], time_width=time_width, operations=operations
        )
        self.feature_heads = nn.ModuleList(
            TimedResidualBlock(n, config.features, time_width=time_width, operations=operations)
            for n in widths
        )

    def forward(self, ll: Tensor, timestep: Tensor) -> list[Tensor]:
        """Features per UNet level, finest first.

        Args:
            ll: `(B, 4, h, w)` level-3 `ll` of model-range planes, unscaled (within +-8).
            timestep: `(B,)` 0..999.

        Returns:
            One `(B, features, ceil(h / 2**i), ceil(w / 2**i))` per level i.

        Raises:
            ShapeError: If `ll` has other channels or the batches differ.
        """
        if ll.ndim != 4 or ll.shape[1] != self.config.in_channels:
            raise ShapeError(
                f"Expected ll of shape (B, {self.config.in_channels}, h, w), "
                f"found {tuple(ll.shape)}."
            )
        if timestep.shape != (ll.shape[0],):
            raise ShapeError(
                f"Expected one timestep per image, ({ll.shape[0]},), found {tuple(timestep.shape)}."
            )
        embedding = timestep_embedding(timestep, self.config.width).to(ll.dtype)
        time = self.time(embedding)
        x = self.conv_in(ll)
        tapped: list[Tensor] = []
        for level in self.levels:
            assert isinstance(level, _Level)
            x = level(x, time)
            if level.down is not None:
                tapped.append(x)
                x = level.down(x)
        x = self.middle_out(self.middle_attention(self.middle_in(x, time)), time)
        tapped.append(x)
        return [
            head(feature, time) for head, feature in zip(self.feature_heads, tapped, strict=True)
        ]
