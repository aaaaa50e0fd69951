"""2-D rotary position embeddings (Su et al. 2021), as LlamaGen has them: neighbouring pairs of
channels turn, the first half of the pairs with the row and the second with the column."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(cells: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    """2-D rotary angles (Su et al. 2021): cells (n, 2) as (row, column) -> (n, head_dim / 2, 2)
    cos, sin.

    The first half of the pairs turns with the row, the second with the column.
    """
    half = head_dim // 2
    frequencies = base ** -(torch.arange(0, half, 2, dtype=torch.float32) / half)  # (half / 2,)
    angles = (cells[:, :, None] * frequencies).flatten(1)  # (n, half)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate neighbouring pairs of (B, H, n, d) by the angles of `table` (n, d / 2, 2)."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # (B, H, n, d / 2)
    cos, sin = table.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).type_as(x)


def grid_cells(side: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """(side^2, 2): row and column of each cell in raster order, stretched and shifted."""
    line = (torch.arange(side, dtype=torch.float32) + 0.5) * scale - 0.5 + shift
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).flatten(0, 1)
