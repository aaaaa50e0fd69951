"""P_k, the learnable compression of the prefix, and U_k, its inverse in training.

    F_c = P_k(F_s) = C_k(F_s) + R_k(F_s)          L_pres = |F_s - U_k(F_c)|^2

C_k is a strided convolution, R_k a resampling, both k x k. U_k exists only in training.

Letters: B batch, h x w grid of the features, C their channels, k compression along a side.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from scar.config import CompressorConfig
from scar.errors import ConfigError


class Compressor(nn.Module):
    """P_k: features F_s (B, h, w, C) -> F_c (B, h/k, w/k, width).

    kind "conv+resize" is the paper's; "conv", "resize" and "pixel_unshuffle" are its ablations. At
    the paper's k = 2, C_k is 3 x 3 and R_k averages 2 x 2 cells. At k = 4 a 3 x 3 kernel would skip
    cells, so C_k is 2k - 1 wide and R_k is antialiased.
    """

    def __init__(self, config: CompressorConfig, channels: int):
        super().__init__()
        if config.factor not in (1, 2, 4):
            raise ConfigError(f"compression factor must be 1, 2 or 4, not {config.factor}")
        if config.kind not in ("conv+resize", "conv", "resize", "pixel_unshuffle"):
            raise ConfigError(f"unknown compressor {config.kind!r}")
        self.kind, self.k = config.kind, config.factor
        self.width = channels * self.k**2 if self.kind == "pixel_unshuffle" else channels
        if self.k > 1 and self.kind in ("conv", "conv+resize"):
            k = self.k
            self.conv = nn.Conv2d(channels, channels, 2 * k - 1, stride=k, padding=k - 1)  # C_k

    def forward(self, features: Tensor) -> Tensor:
        if self.k == 1:
            return features
        x = features.movedim(-1, 1)  # (B, C, h, w)
        if self.kind == "pixel_unshuffle":
            return F.pixel_unshuffle(x, self.k).movedim(1, -1)  # (B, h/k, w/k, k^2 C)
        if self.kind == "conv":
            compressed = self.conv(x)  # C_k
        elif self.kind == "resize":
            compressed = self._resize(x)  # R_k
        else:
            compressed = self.conv(x) + self._resize(x)  # C_k + R_k
        return compressed.movedim(1, -1)  # (B, h/k, w/k, C)

    def _resize(self, x: Tensor) -> Tensor:
        """R_k: (B, C, h, w) -> (B, C, h/k, w/k)."""
        if self.k == 2:
            return F.interpolate(x, scale_factor=1 / 2, mode="bilinear")
        # In fp32, because on the CPU torch antialiases nothing else.
        wide = F.interpolate(x.float(), scale_factor=1 / self.k, mode="bilinear", antialias=True)
        return wide.type_as(x)


class Upsampler(nn.Module):
    """U_k: F_c (B, h/k, w/k, width) -> (B, h, w, C), by sub-pixel convolution.

    C / k^2 channels between its two convolutions, because the paper calls it lightweight; the
    official code has 425M parameters here at C = 3072.
    """

    def __init__(self, width: int, channels: int, k: int):
        super().__init__()
        inner = max(channels // k**2, 32)
        self.expand = nn.Conv2d(width, inner * k**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(k)
        self.refine = nn.Conv2d(inner, channels, 3, padding=1)

    def forward(self, compressed: Tensor) -> Tensor:
        x = self.expand(compressed.movedim(-1, 1))  # (B, k^2 C', h/k, w/k)
        x = self.shuffle(x)  # (B, C', h, w)
        return self.refine(x).movedim(1, -1)  # (B, h, w, C)


def preservation_loss(features: Tensor, restored: Tensor) -> Tensor:
    """L_pres = |F_s - U_k(F_c)|^2, the mean over cells and channels; (B, h, w, C) each."""
    return F.mse_loss(restored.float(), features.float())
