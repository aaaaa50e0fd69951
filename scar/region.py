"""The edit region: which cells of the source an edit changes, predicted before the first token.

L_align trains the prefix states H_s to be the target's features, so H_s compared with the source's
P_s shows where the two will differ:

    r = sigmoid(head([H_s ; P_s]))        L_region = BCE(r, changed)

Tokens outside the region are then copied from the source instead of sampled. Not part of the paper:
without a weight for it in `LossConfig` the model is the paper's.

Letters: B batch, P_s visual prefix slots, D width, h x w grid of the encoder, k compression: a slot
covers k x k cells of that grid. N tokens of an image, S x S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.config import RegionConfig


class RegionHead(nn.Module):
    """[H_s ; P_s] -> a logit for each cell of the encoder's grid.

    Args:
        width: D.
        factor: k.
    """

    def __init__(self, width: int, factor: int):
        super().__init__()
        self.conv1 = nn.Conv2d(2 * width, width // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(width // 2, factor**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(factor)

    def forward(self, hidden: Tensor, source: Tensor) -> Tensor:
        """H_s and P_s, (B, P_s, D) each -> (B, h, w)."""
        side = int(hidden.shape[1] ** 0.5)
        x = torch.cat([hidden, source], dim=-1).mT.unflatten(2, (side, side))  # (B, 2 D, h/k, w/k)
        x = self.conv2(F.gelu(self.conv1(x)))  # (B, k^2, h/k, w/k)
        return self.shuffle(x).squeeze(1)  # (B, h, w)


def region_loss(logits: Tensor, changed: Tensor, keep: Tensor) -> Tensor:
    """L_region = BCE(r, changed), the mean over cells and the examples in `keep`.

    Args:
        logits: (B, h, w), of r.
        changed: (B, h, w) bool, True where source and target differ.
        keep: (B,) bool; False where the image or the text was dropped, because nothing tells such
            an example what changes.
    """
    loss = F.binary_cross_entropy_with_logits(logits.float(), changed.float(), reduction="none")
    return (loss.mean(dim=(1, 2)) * keep).sum() / keep.sum().clamp(min=1)


def changed_cells(mask: Tensor, grid: int) -> Tensor:
    """The grid cells that hold a changed pixel: (B, S, S) bool -> (B, grid, grid) bool."""
    return F.adaptive_max_pool2d(mask.float().unsqueeze(1), grid).squeeze(1) > 0


def changed_features(source: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Grid cells whose features differ, for data without masks: (B, h, w, C) twice -> (B, h, w)
    bool. Both are scaled to unit mean square, so the distance is 2 - 2 cos for every encoder."""
    a, b = (F.rms_norm(x.float(), x.shape[-1:]) for x in (source, target))
    return (a - b).square().mean(dim=-1) > threshold


def select_region(probability: Tensor, config: RegionConfig) -> Tensor | None:
    """r (h, w) -> the cells that may change, (h, w) bool. None: they are more than `config.whole`
    of all, so the whole image may change."""
    cells = probability > config.threshold
    return None if cells.float().mean() > config.whole else cells


def region_tokens(mask: Tensor, sides: Sequence[int]) -> Tensor:
    """The tokens under a mask: (B, h, w) bool -> (B, N) bool.

    Args:
        mask: over grid cells or over pixels, of any resolution.
        sides: of the grids that the tokens of an image form, one after the other.
    """
    image = mask.float().unsqueeze(1)  # (B, 1, h, w)
    under = []
    for side in sides:
        finer = image.shape[-1] < side
        pooled = F.interpolate(image, side) if finer else F.adaptive_max_pool2d(image, side)
        under.append(pooled.flatten(1) > 0)  # (B, side^2)
    return torch.cat(under, dim=1)


def change_matte(output: Tensor, source: Tensor, size: int = 9) -> Tensor:
    """An alpha matte of the edit, from the difference of the tokenizer's two reconstructions.

    Where both agree the pixels of the source itself are better than either, so the matte is 0 there
    and the border of the region shows no seam.

    Args:
        output, source: (B, 3, S, S) decoded images in [-1, 1].
        size: side of the window that differences are averaged over, in pixels; odd.

    Returns:
        (B, S, S) in [0, 1]: 1 takes the output, 0 the source.
    """
    difference = (output - source).abs().amax(dim=1, keepdim=True)  # (B, 1, S, S)
    mean = F.avg_pool2d(difference, size, stride=1, padding=size // 2, count_include_pad=False)
    matte = ((mean - 0.06) / 0.12).clamp(0, 1)
    matte = F.max_pool2d(matte, size, stride=1, padding=size // 2)
    return F.avg_pool2d(matte, size, stride=1, padding=size // 2, count_include_pad=False)[:, 0]
