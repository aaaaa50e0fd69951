"""The convolutional encoder and decoder of both tokenizers (LlamaGen VQ-16 and VAR share this
architecture).

`channels` lists the levels finest first; every level but the coarsest halves the resolution.
With `patch` > 1 pixels are unshuffled into channels first, which makes the embedded model fast.
With `upscale` > 1 the decoder has a higher resolution than the encoder.

Letters: B batch, H x W pixels, h x w latents, C channels, f = H / h downsampling.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from scar.config import AutoencoderConfig
from scar.errors import ConfigError
from scar.rope import grid_cells, rotary_table, rotate


class Encoder(nn.Module):
    """Images (B, 3, H, W) -> latents (B, latent, h, w)."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        channels, coarsest = config.channels, len(config.channels) - 1
        self.upscale = config.upscale
        self.fold = nn.PixelUnshuffle(config.patch)
        self.conv_in = nn.Conv2d(3 * config.patch**2, channels[0], 3, padding=1)
        attention = Attention if config.attention else None
        self.levels = nn.ModuleList(
            Level(
                channels[max(i - 1, 0)],
                channels[i],
                config.blocks,
                config.norm,
                attention=attention if i == coarsest else None,
                resample=Downsample(channels[i]) if i < coarsest else None,
            )
            for i in range(len(channels))
        )
        self.mid = middle(channels[-1], config.norm, attention)
        self.head = Head(channels[-1], config.latent, config.norm)
        f = config.encoder_downsampling
        self.shortcut = nn.Conv2d(3, config.latent, f, stride=f) if config.shortcut else None

    def forward(self, images: Tensor) -> Tensor:
        if self.upscale > 1:
            images = F.avg_pool2d(images, self.upscale)
        x = self.conv_in(self.fold(images).contiguous())  # (B, C_0, H / patch, W / patch)
        for level in self.levels:
            x = level(x)  # (B, C_i, ...), half the resolution after each but the last
        z = self.head(self.mid(x))  # (B, latent, h, w)
        return z if self.shortcut is None else z + self.shortcut(images)


class Decoder(nn.Module):
    """Latents (B, latent, h, w) -> images (B, 3, H, W)."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        channels, coarsest = config.channels, len(config.channels) - 1
        self.conv_in = nn.Conv2d(config.latent, channels[-1], 3, padding=1)
        attention: type[nn.Module] | None = Attention if config.attention else None
        if config.decoder_attention:
            attention = RotaryAttention
        self.mid = middle(channels[-1], config.norm, attention)
        self.levels = nn.ModuleList(
            Level(
                channels[min(i + 1, coarsest)],
                channels[i],
                config.blocks + 1,
                config.norm,
                attention=attention if i == coarsest else None,
                resample=Upsample(channels[i]) if i > 0 else None,
            )
            for i in reversed(range(len(channels)))
        )
        patch = config.patch * config.upscale
        self.head = Head(channels[0], 3 * patch**2, config.norm)
        self.unfold = nn.PixelShuffle(patch)
        f = config.downsampling
        self.shortcut = (
            nn.ConvTranspose2d(config.latent, 3, f, stride=f) if config.shortcut else None
        )

    def forward(self, z: Tensor) -> Tensor:
        # On a CPU the group norms of a channels-last map are six times less exact.
        x = self.mid(self.conv_in(z.contiguous()))  # (B, C, h, w)
        for level in self.levels:
            x = level(x)  # (B, C_i, ...), twice the resolution after each but the last
        images = self.unfold(self.head(x))  # (B, 3, H, W)
        return images if self.shortcut is None else images + self.shortcut(z)


class Level(nn.Module):
    """Residual blocks, optionally each with attention, then a change of resolution."""

    def __init__(
        self,
        width_in: int,
        width: int,
        blocks: int,
        kind: str,
        attention: type[nn.Module] | None,
        resample: nn.Module | None,
    ):
        super().__init__()
        widths = [width_in] + [width] * blocks
        self.res = nn.ModuleList(
            ResBlock(a, b, kind) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.attn = nn.ModuleList(
            [attention(width) for _ in range(blocks)] if attention is not None else []
        )
        self.resample = resample or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.res):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return self.resample(x)


class ResBlock(nn.Module):
    """Pre-norm residual block: (B, C_in, h, w) -> (B, C, h, w)."""

    def __init__(self, width_in: int, width: int, kind: str):
        super().__init__()
        self.norm1 = norm(width_in, kind)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = norm(width, kind)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))  # (B, C, h, w)
        h = self.conv2(F.silu(self.norm2(h)))  # (B, C, h, w)
        return self.skip(x) + h


class Attention(nn.Module):
    """Single-head self-attention over all positions: (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = norm(width, "group")
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).flatten(2).mT.unsqueeze(1)  # (B, 1, h w, 3 C)
        q, k, v = qkv.chunk(3, dim=-1)  # (B, 1, h w, C) each
        y = F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())
        return x + self.proj(y.squeeze(1).mT.reshape(b, c, h, w))


class RotaryAttention(nn.Module):
    """Self-attention over all positions in heads of 64 channels, with 2-D rotary positions.

    The output projection is initialised with zeros, so that a new one is the identity.
    """

    def __init__(self, width: int):
        super().__init__()
        self.heads = max(width // 64, 1)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        b, c, side, _ = x.shape
        qkv = self.qkv(self.norm(x.flatten(2).mT)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, side^2, d)
        # A grid has tens of positions along a side, text thousands: so the base is smaller.
        table = rotary_table(grid_cells(side), c // self.heads, base=100.0).to(x.device)
        y = F.scaled_dot_product_attention(rotate(q, table), rotate(k, table), v)
        return x + self.proj(y.transpose(1, 2).flatten(2)).mT.unflatten(2, (side, side))


class Downsample(nn.Module):
    """Stride-2 convolution padded on the right and bottom only, as in both references."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2, then a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Head(nn.Module):
    """Norm, SiLU, convolution to the output channels."""

    def __init__(self, width: int, width_out: int, kind: str):
        super().__init__()
        self.norm = norm(width, kind)
        self.conv = nn.Conv2d(width, width_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.silu(self.norm(x)))


def middle(width: int, kind: str, attention: type[nn.Module] | None) -> nn.Sequential:
    """The blocks at the coarsest resolution."""
    inner = attention(width) if attention else nn.Identity()
    return nn.Sequential(ResBlock(width, width, kind), inner, ResBlock(width, width, kind))


def norm(width: int, kind: str) -> nn.Module:
    """Of `AutoencoderConfig.norm`."""
    if kind not in ("group", "none"):
        raise ConfigError(f"norm must be group or none, not {kind!r}")
    return nn.GroupNorm(32, width, eps=1e-6) if kind == "group" else nn.Identity()
