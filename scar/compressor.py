"""P_k, the learnable compression of the prefix, and U_k, its inverse in training.

F_c = C_k(F_s) + R_k(F_s)             L_pres = |F_s - U_k(F_c)|^2
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from scar.config import CompressorConfig


class Compressor(nn.Module):
    """Features (B, h, w, C) -> (B, h/k, w/k, width).

    kind "conv+resize" is the paper's; "conv", "resize" and "pixel_unshuffle" are its ablations. At
    k = 2, the paper's, C_k is 3 x 3 and R_k averages 2 x 2 cells. At k = 4 those would skip cells:
    C_k is 2k - 1 wide and R_k low-passes, so that every cell still counts.
    """

    def __init__(self, config: CompressorConfig, channels: int):
        super().__init__()
        if config.factor not in (1, 2, 4):
            raise ValueError(f"compression factor must be 1, 2 or 4, not {config.factor}")
        if config.kind not in ("conv+resize", "conv", "resize", "pixel_unshuffle"):
            raise ValueError(f"unknown compressor {config.kind!r}")
        self.kind, self.k = config.kind, config.factor
        self.width = channels * self.k**2 if self.kind == "pixel_unshuffle" else channels
        if self.k > 1 and "conv" in self.kind:
            k = self.k
            self.conv = nn.Conv2d(channels, channels, 2 * k - 1, stride=k, padding=k - 1)  # C_k

    def forward(self, features: Tensor) -> Tensor:
        if self.k == 1:
            return features
        x = features.movedim(-1, 1)  # (B, C, h, w)
        if self.kind == "pixel_unshuffle":
            return F.pixel_unshuffle(x, self.k).movedim(1, -1)
        compressed = 0
        if "conv" in self.kind:
            compressed = self.conv(x)
        if "resize" in self.kind:
            compressed = compressed + self._resized(x)  # R_k
        return compressed.movedim(1, -1)

    def _resized(self, x: Tensor) -> Tensor:
        if self.k == 2:
            return F.interpolate(x, scale_factor=1 / 2, mode="bilinear")
        # In fp32: on the CPU there is no other antialiasing.
        wide = F.interpolate(x.float(), scale_factor=1 / self.k, mode="bilinear", antialias=True)
        return wide.type_as(x)


class Upsampler(nn.Module):
    """U_k: (B, h/k, w/k, width) -> (B, h, w, C), by sub-pixel convolution.

    One k-th of the channels between its two convolutions: the paper calls it lightweight, the
    official code spends 425M parameters on it at C = 3072.
    """

    def __init__(self, width: int, channels: int, k: int):
        super().__init__()
        inner = max(channels // k**2, 32)
        self.expand = nn.Conv2d(width, inner * k**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(k)
        self.refine = nn.Conv2d(inner, channels, 3, padding=1)

    def forward(self, compressed: Tensor) -> Tensor:
        x = self.expand(compressed.movedim(-1, 1))
        return self.refine(self.shuffle(x)).movedim(1, -1)


def preservation_loss(features: Tensor, restored: Tensor) -> Tensor:
    """L_pres, as a mean over cells and channels."""
    return F.mse_loss(restored.float(), features.float())
