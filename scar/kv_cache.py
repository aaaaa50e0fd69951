"""The KV cache of a decode, and the positions that one call of the backbone covers.

Letters: B rows, P prefix slots, N tokens of an image, S = P + N - 1 positions, H heads, d head
width, n positions of this call (queries), m cached positions (keys).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scar.attention import Attention, masked_sdpa, set_of

# A position in the sequence. As an int the cache is sliced to what is written; as a scalar tensor
# every position has the same shapes, so that one compiled function serves them all.
InputPos = int | Tensor


class KVCache:
    """Keys and values of every layer, in buffers of the final length S. The caller of a decode
    creates it and passes it on.

    Args:
        valid: (B, P) bool, False at padding.
        set_sizes: as of the tokenizer; the prefix is set 0.
    """

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
        shape = (batch, heads, length, head_dim)  # (B, H, S, d)
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
        """Mark the buffers as static: a CUDA graph may hold their addresses."""
        self.padded = True
        for buffer in (*self.keys, *self.values, self.visible):
            torch._dynamo.mark_static_address(buffer, guard=False)

    def reset(self, valid: Tensor) -> None:
        """Clear it for another prefix (B, P) of the same length. 0 * NaN is NaN, so masked slots
        must be zeroed too."""
        for buffer in (*self.keys, *self.values):
            buffer.zero_()
        self.visible[:, 0, 0, : valid.shape[1]] = valid

    def write(self, layer: int, start: InputPos, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, H, n, d) from `start` on -> keys and values to attend to, (B, H, m, d) each."""
        keys, values = self.keys[layer], self.values[layer]
        here = position_index(start, k.shape[2])
        keys[:, :, here], values[:, :, here] = k, v
        if isinstance(start, Tensor):
            return keys, values
        end = start + k.shape[2]
        return keys[:, :, :end], values[:, :, :end]

    def attention(self, start: InputPos, count: int) -> Attention:
        """The attention of `count` positions from `start` on, over the cached positions of their
        own set and of those before it."""
        here = position_index(start, count)
        if isinstance(start, Tensor):
            return masked_sdpa(self.visible & (self.sets[here, None] >= self.sets))  # (B, 1, n, S)
        end = start + count
        mask = self.visible[..., :end] if self.padded else None
        if self._set_list[start] != self._set_list[end - 1]:  # several sets
            past = self.sets[here, None] >= self.sets[:end]  # (n, m)
            mask = past if mask is None else mask & past
        return masked_sdpa(mask)


class AttentionContext:
    """The positions of one call of the backbone, and their attention.

    Args:
        start: the first position.
        attention: queries, keys and values -> outputs.
        cache: where keys and values are stored; None: the call covers the whole sequence.
    """

    def __init__(self, start: InputPos, attention: Attention, cache: KVCache | None = None):
        self.start, self.attention, self.cache = start, attention, cache

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None
    ) -> Tensor:
        """(B, H, n, d) each -> (B, n, H d)."""
        if self.cache is not None:
            k, v = self.cache.write(layer, self.start, k, v)
        return self.attention(q, k, v, scale).transpose(1, 2).flatten(2)


def position_index(start: InputPos, count: int) -> slice | Tensor:
    """`count` positions from `start` on, as an index."""
    if isinstance(start, Tensor):
        return start + torch.arange(count, device=start.device)
    return slice(start, start + count)
