"""What both backbones share: the set mask, attention over a static cache, 2-D rotary positions,
RMSNorm.

A sequence is P prefix slots and the inputs of every set but the first: the last prefix slot
predicts the first set, which has size one. So it has P + N - 1 positions, and predictions are
always the last N.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def set_of(prefix: int, set_sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """(P + N - 1,): the set of each position; the prefix is set 0, and so is what it predicts."""
    sizes = torch.tensor((prefix, *set_sizes[1:]), device=device)
    return torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes)


def set_mask(valid: Tensor, set_sizes: tuple[int, ...]) -> Tensor:
    """(B, P) -> (B, 1, S, S) bool: i sees j when set_of[i] >= set_of[j] and j is not padding.

    A triangle below a full prefix block for sets of size one; VAR's block mask for growing sets.
    The diagonal is always visible, so that no row is empty.
    """
    prefix = valid.shape[1]
    sets = set_of(prefix, set_sizes, valid.device)
    mask = (sets[:, None] >= sets[None, :]).repeat(len(valid), 1, 1)  # (B, S, S)
    mask[:, :, :prefix] &= valid[:, None, :]
    mask |= torch.eye(len(sets), dtype=torch.bool, device=valid.device)
    return mask.unsqueeze(1)


class KVCache:
    """Keys and values of every layer in buffers of the final length, created by the caller of a
    decode."""

    def __init__(
        self, layers: int, valid: Tensor, heads: int, length: int, head_dim: int, dtype: torch.dtype
    ):
        batch, prefix = valid.shape
        shape = (batch, heads, length, head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=valid.device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=valid.device) for _ in range(layers)]
        self.prefix = prefix
        # Only padding needs a mask: what is not decoded yet is not handed out.
        self.padded = not bool(valid.all())
        self.visible = F.pad(valid, (0, length - prefix), value=True)[
            :, None, None, :
        ]  # (B, 1, 1, S)

    def write(self, layer: int, start: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, H, n, d) at `start`; returns everything up to there."""
        end = start + k.shape[2]
        self.keys[layer][:, :, start:end] = k
        self.values[layer][:, :, start:end] = v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def mask(self, end: int) -> Tensor | None:
        return self.visible[..., :end] if self.padded else None


class Span:
    """The positions a call covers, and how they attend: in one pass, or into a cache."""

    def __init__(self, start: int, mask: Tensor | None, cache: KVCache | None = None):
        self.start, self.mask, self.cache = start, mask, cache

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None
    ) -> Tensor:
        """(B, H, n, d) each -> (B, n, H d)."""
        if self.cache is not None:
            k, v = self.cache.write(layer, self.start, k, v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, scale=scale)
        return y.transpose(1, 2).flatten(2)


class RMSNorm(nn.Module):
    """Zhang and Sennrich 2019, in fp32, weight after the cast as LlamaGen has it."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).type_as(x) * self.weight


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
