"""What both backbones share: which positions see which, attention over a static cache, 2-D rotary
positions, RMSNorm.

A sequence is P prefix slots and the inputs of every set but the first: the last prefix slot
predicts the first set, which has size one. So it has P + N - 1 positions, and predictions are
always the last N.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right

# How queries (B, H, n, d), keys and values (B, H, m, d) and a scale become (B, H, n, d).
Attention = Callable[[Tensor, Tensor, Tensor, float | None], Tensor]
# A place in the sequence. As a number it cuts what is stored to what is written; as a scalar tensor
# every place has the same shapes, so that one compiled step serves them all.
Place = int | Tensor


def attention_over(
    valid: Tensor, set_sizes: tuple[int, ...], causal_prefix: bool = False
) -> Attention:
    """How all P + N - 1 positions of a training pass attend: what `set_mask` shows, unstored.

    Without padding the sets say it all, and fused kernels know their shapes. Padding differs from
    example to example: on CUDA FlexAttention evaluates the rule inside its kernel; on the CPU,
    where it has no gradients, the mask is stored.

    Args:
        valid: (B, P) bool, False at padding.
        causal_prefix: the prefix is sets of size one as well.
    """
    if bool(valid.all()):
        return partial(attend_unpadded, runs(_sizes(valid.shape[1], set_sizes, causal_prefix)))
    if valid.is_cuda:
        return flexible(valid, set_sizes, causal_prefix)
    return masked(set_mask(valid, set_sizes, causal_prefix))


def masked(mask: Tensor | None) -> Attention:
    """By a stored mask, broadcastable to (B, H, n, m); None: everything sees everything."""

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)

    return attend


def set_mask(valid: Tensor, set_sizes: tuple[int, ...], causal_prefix: bool = False) -> Tensor:
    """(B, P) -> (B, 1, S, S) bool: i sees j when set_of[i] >= set_of[j] and j is not padding.

    A triangle below a full prefix block for sets of size one; VAR's block mask for growing sets.
    The diagonal is always visible, so that no row is empty.
    """
    prefix = valid.shape[1]
    sets = set_of(prefix, set_sizes, valid.device, causal_prefix)
    mask = (sets[:, None] >= sets[None, :]).repeat(len(valid), 1, 1)  # (B, S, S)
    mask[:, :, :prefix] &= valid[:, None, :]
    mask |= torch.eye(len(sets), dtype=torch.bool, device=valid.device)
    return mask.unsqueeze(1)


def set_of(
    prefix: int, set_sizes: tuple[int, ...], device: torch.device, causal_prefix: bool = False
) -> Tensor:
    """(P + N - 1,): the set of each position; the prefix is set 0, and so is what it predicts."""
    sizes = _sizes(prefix, set_sizes, causal_prefix)
    repeats = torch.tensor(sizes, device=device)
    sets = torch.arange(len(sizes), device=device)
    return torch.repeat_interleave(sets, repeats, output_size=sum(sizes))


def runs(sizes: tuple[int, ...]) -> list[tuple[int, int, bool]]:
    """Sets as (start, end, causal): each is full, but neighbours of size one form a triangle."""
    found, start = [], 0
    for single, group in groupby(sizes, key=lambda size: size == 1):
        for length in [len(list(group))] if single else group:
            found.append((start, start + length, single))
            start += length
    return found


def attend_unpadded(
    parts: list[tuple[int, int, bool]], q: Tensor, k: Tensor, v: Tensor, scale: float | None
) -> Tensor:
    """One fused call a run: two for a prefix and single tokens, one a scale for growing sets."""
    attended = []
    for start, end, causal in parts:
        attend = attend_causally if causal else F.scaled_dot_product_attention
        attended.append(attend(q[:, :, start:end], k[:, :, :end], v[:, :, :end], scale=scale))
    return torch.cat(attended, dim=2)


def attend_causally(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """The last key belongs to the last query: (B, H, n, d) over m >= n keys, lower right."""
    before = k.shape[2] - q.shape[2]
    if q.is_cuda and before:
        bias = causal_lower_right(q.shape[2], k.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    # Elsewhere that bias is stored as a mask. The square kernel with idle queries in front is
    # faster, as long as the prefix is not far longer than the rest.
    q = F.pad(q, (0, 0, before, 0))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)[:, :, before:]


def flexible(
    valid: Tensor, set_sizes: tuple[int, ...], causal_prefix: bool = False, fused: bool = True
) -> Attention:
    """`set_mask` as a rule for FlexAttention; fused False runs it uncompiled, for tests."""
    sets = set_of(valid.shape[1], set_sizes, valid.device, causal_prefix)
    seen = F.pad(valid, (0, len(sets) - valid.shape[1]), value=True)  # (B, S)

    def sees(b: Tensor, _: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (sets[i] >= sets[j]) & seen[b, j] | (i == j)

    attend, block_mask = _flex(fused)
    mask = block_mask(sees, len(seen), None, len(sets), len(sets), device=str(valid.device))

    def attend_by_rule(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        return attend(q, k, v, block_mask=mask, scale=scale)

    return attend_by_rule


@cache
def _flex(fused: bool) -> tuple[Callable, Callable]:
    """FlexAttention and its mask builder; without compilation both store S x S."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if not fused:
        return flex_attention, create_block_mask
    return torch.compile(flex_attention), torch.compile(create_block_mask)


def _sizes(prefix: int, set_sizes: tuple[int, ...], causal_prefix: bool) -> tuple[int, ...]:
    """Of the sets that P + N - 1 positions form."""
    return (*((1,) * prefix if causal_prefix else (prefix,)), *set_sizes[1:])


class KVCache:
    """Keys and values of every layer in buffers of the final length, created by the caller of a
    decode."""

    def __init__(
        self,
        layers: int,
        valid: Tensor,
        heads: int,
        set_sizes: tuple[int, ...],
        head_dim: int,
        dtype: torch.dtype,
    ):
        batch, prefix = valid.shape
        length = prefix + sum(set_sizes) - 1
        shape = (batch, heads, length, head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=valid.device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=valid.device) for _ in range(layers)]
        self.prefix = prefix
        self.padded = not bool(valid.all())
        self.visible = F.pad(valid, (0, length - prefix), value=True)[
            :, None, None, :
        ]  # (B, 1, 1, S)
        self.sets = set_of(prefix, set_sizes, valid.device)  # (S,)
        self._set_list = self.sets.tolist()

    def pin(self) -> None:
        """Keep it for many decodes: a CUDA graph may rely on where it lies."""
        self.padded = True
        for buffer in (*self.keys, *self.values, self.visible):
            torch._dynamo.mark_static_address(buffer, guard=False)

    def reset(self, valid: Tensor) -> None:
        """Forget a decode, for another prefix (B, P) of the same length. What a mask hides has
        weight 0 and counts all the same where it is NaN."""
        for buffer in (*self.keys, *self.values):
            buffer.zero_()
        self.visible[:, 0, 0, : valid.shape[1]] = valid

    def write(self, layer: int, start: Place, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, H, n, d) at `start`; returns what `attention` is over."""
        keys, values = self.keys[layer], self.values[layer]
        here = places(start, k.shape[2])
        keys[:, :, here], values[:, :, here] = k, v
        if isinstance(start, Tensor):
            return keys, values
        return keys[:, :, : here.stop], values[:, :, : here.stop]

    def attention(self, start: Place, count: int) -> Attention:
        """Of `count` positions from `start` on, over all that is cached up to their own set."""
        here = places(start, count)
        if isinstance(start, Tensor):
            return masked(self.visible & (self.sets[here, None] >= self.sets))
        end = start + count
        mask = self.visible[..., :end] if self.padded else None
        if self._set_list[start] != self._set_list[end - 1]:  # several sets: each sees its own past
            past = self.sets[here, None] >= self.sets[:end]  # (n, m)
            mask = past if mask is None else mask & past
        return masked(mask)


class Span:
    """The positions a call covers, and how they attend: in one pass, or into a cache."""

    def __init__(self, start: Place, attention: Attention, cache: KVCache | None = None):
        self.start, self.attention, self.cache = start, attention, cache

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None
    ) -> Tensor:
        """(B, H, n, d) each -> (B, n, H d)."""
        if self.cache is not None:
            k, v = self.cache.write(layer, self.start, k, v)
        return self.attention(q, k, v, scale).transpose(1, 2).flatten(2)


def places(start: Place, count: int) -> slice | Tensor:
    """The index of `count` neighbours from `start` on."""
    if isinstance(start, Tensor):
        return start + torch.arange(count, device=start.device)
    return slice(start, start + count)


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
