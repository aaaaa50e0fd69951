"""2-D rotary position embeddings (Su et al. 2021) in LlamaGen's layout: neighbouring channels form
pairs; the first half of the pairs is rotated by the row, the second half by the column.

    (x_2i, x_2i+1) -> (x_2i cos a - x_2i+1 sin a, x_2i sin a + x_2i+1 cos a),   a = position f_i

Letters: B batch, H heads, n positions, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(cells: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    """Positions (n, 2) as (row, column) -> cos and sin of their angles (n, d / 2, 2)."""
    half = head_dim // 2
    frequencies = base ** -(torch.arange(0, half, 2, dtype=torch.float32) / half)  # (d / 4,)
    angles = (cells[:, :, None] * frequencies).flatten(1)  # (n, d / 2)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate (B, H, n, d) by the angles of `table` (n, d / 2, 2)."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # (B, H, n, d / 2)
    cos, sin = table.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).type_as(x)


def grid_cells(side: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """(side^2, 2): row and column of each grid cell in raster order, scaled and shifted."""
    line = (torch.arange(side, dtype=torch.float32) + 0.5) * scale - 0.5 + shift
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).flatten(0, 1)
