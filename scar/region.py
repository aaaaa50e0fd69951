"""The edit region: which cells of the source an edit changes, predicted before the first token.

L_align trains the prefix states H_s to be the target's semantics, so H_s beside the source's own
P_s says where the two will differ:

    r = sigmoid(head([H_s ; P_s]))        L_region = BCE(r, changed cells)

Cells are those of the encoder's grid, k x k for each prefix slot. Not part of the paper: a region
weight of 0 in `LossConfig` is the paper's model exactly.

Letters: B batch, P_s visual prefix slots, D width, h x w the encoder's grid, k compression.
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
        factor: k; a slot stands for k x k cells.
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
        return self.shuffle(self.conv2(F.gelu(self.conv1(x)))).squeeze(1)


def region_loss(logits: Tensor, changed: Tensor, keep: Tensor) -> Tensor:
    """L_region, binary cross-entropy as a mean over cells and the examples in `keep`.

    Args:
        logits, changed: (B, h, w); changed is 1 where source and target differ.
        keep: (B,) bool; without its image or its words an example cannot know what changes.
    """
    loss = F.binary_cross_entropy_with_logits(logits.float(), changed.float(), reduction="none")
    return (loss.mean(dim=(1, 2)) * keep).sum() / keep.sum().clamp(min=1)


def changed_cells(mask: Tensor, grid: int) -> Tensor:
    """The cells that a change of pixels touches: (B, S, S) bool -> (B, grid, grid) bool."""
    return F.adaptive_max_pool2d(mask.float().unsqueeze(1), grid).squeeze(1) > 0


def changed_features(source: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Cells whose frozen features differ, for data without masks: (B, h, w, C) twice -> (B, h, w).

    Both are brought to unit mean square, so the distance is 2 - 2 cos, whatever the encoder.
    """
    a, b = (F.rms_norm(x.float(), x.shape[-1:]) for x in (source, target))
    return (a - b).square().mean(dim=-1) > threshold


def select_region(probability: Tensor, config: RegionConfig) -> Tensor | None:
    """Cells that may change, (h, w) -> (h, w) bool; None: so many that all may."""
    cells = probability > config.threshold
    return None if cells.float().mean() > config.whole else cells


def region_tokens(cells: Tensor, sides: Sequence[int]) -> Tensor:
    """The tokens that touch the region: (B, h, w) bool -> (B, N) bool, for a tokenizer whose token
    grids have these `sides`, one after the other."""
    mask = cells.float().unsqueeze(1)
    touched = []
    for side in sides:
        finer = mask.shape[-1] < side
        pooled = F.interpolate(mask, side) if finer else F.adaptive_max_pool2d(mask, side)
        touched.append(pooled.flatten(1) > 0)
    return torch.cat(touched, dim=1)


def change_matte(output: Tensor, source: Tensor, size: int = 9) -> Tensor:
    """How much of each pixel the edit changes, told from what the tokenizer makes of both pictures.

    Where the two reconstructions agree the source itself is the better picture, so only their
    difference is taken over, and no seam or halo is seen at the region's border.

    Args:
        output, source: (B, 3, S, S) decoded pictures in [-1, 1].
        size: pixels over which differences are gathered; odd.

    Returns:
        (B, S, S) in [0, 1].
    """
    difference = (output - source).abs().amax(dim=1, keepdim=True)  # (B, 1, S, S)
    near = F.avg_pool2d(difference, size, stride=1, padding=size // 2, count_include_pad=False)
    matte = ((near - 0.06) / 0.12).clamp(0, 1)
    matte = F.max_pool2d(matte, size, stride=1, padding=size // 2)
    return F.avg_pool2d(matte, size, stride=1, padding=size // 2, count_include_pad=False)[:, 0]
