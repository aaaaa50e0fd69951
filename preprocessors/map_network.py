"""The architecture of the embedded detector: a small U-Net from an image to four maps.

Letters: B batch, H x W pixels, C channels of a level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

MAPS = ("depth", "hed", "sketch", "lineart")  # the channels of the output
WIDTHS = (8, 20, 40, 64, 96, 128)  # channels at 1/1, 1/2, ... 1/32 of the resolution


class MapNetwork(nn.Module):
    """RGB in -1..1, (B, 3, H, W) with sides that are multiples of 32, to map logits (B, 4, H, W).

    Depth needs a receptive field of the whole image, edges need full resolution: five levels and
    skip connections give both. Most of the 0.8 million weights are at the coarse levels, where they
    are cheap to run.
    """

    def __init__(self) -> None:
        super().__init__()
        pairs = list(zip(WIDTHS[:-1], WIDTHS[1:], strict=True))
        self.stem = _convolve(3, WIDTHS[0])
        self.down = nn.ModuleList(
            nn.Sequential(_convolve(fine, coarse, stride=2), _convolve(coarse, coarse))
            for fine, coarse in pairs
        )
        self.up = nn.ModuleList(_convolve(fine + coarse, fine) for fine, coarse in reversed(pairs))
        self.head = nn.Conv2d(WIDTHS[0], len(MAPS), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.stem(x)]  # (B, C_0, H, W)
        for down in self.down:
            levels.append(down(levels[-1]))  # (B, C_i, H / 2^i, W / 2^i)
        x = levels.pop()
        for up in self.up:
            skip = levels.pop()
            x = interpolate(x, scale_factor=2.0, mode="bilinear")
            x = up(torch.cat([skip, x], dim=1))  # (B, C_i, H / 2^i, W / 2^i)
        return self.head(x)


def _convolve(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    # GroupNorm, unlike BatchNorm, does not depend on the other images of the batch.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.GroupNorm(4, outputs),
        nn.SiLU(),
    )
