"""The attention mask: one rule for both paradigms, in training and in decoding.

A sequence is P prefix slots and the inputs of every set but the first, because the last prefix slot
predicts the first set, which has size one. So it has S = P + N - 1 positions, and predictions are
always the last N. Position i attends to j when set_of[i] >= set_of[j]; the prefix is set 0.

    next-token, P = 3, sets 1 1 1         next-set, P = 2, sets 1 4
    p  1 1 1 0 0                          p  1 1 0 0 0 0
    p  1 1 1 0 0                          p  1 1 0 0 0 0   predicts set 1
    p  1 1 1 0 0   predicts token 1       2  1 1 1 1 1 1
    1  1 1 1 1 0   predicts token 2       2  1 1 1 1 1 1   predict set 2
    2  1 1 1 1 1   predicts token 3       2  1 1 1 1 1 1
                                          2  1 1 1 1 1 1

Letters: B batch, P prefix slots, N tokens of an image, S = P + N - 1 positions, H heads, n queries,
m keys, d head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

# Queries (B, H, n, d), keys and values (B, H, m, d) and a scale -> (B, H, n, d).
Attention = Callable[[Tensor, Tensor, Tensor, float | None], Tensor]


def attention_over(
    valid: Tensor, set_sizes: tuple[int, ...], causal_prefix: bool = False
) -> Attention:
    """The attention of all S positions of a training pass, as `set_mask` defines it.

    Without padding the mask is a few dense and triangular blocks, which fused kernels support, and
    it is never stored. Padding differs from example to example: on CUDA FlexAttention evaluates the
    rule inside its kernel; on the CPU, where it has no gradients, the mask is stored.

    Args:
        valid: (B, P) bool, False at padding.
        causal_prefix: the prefix is causal as well: its slots are sets of size one.
    """
    if bool(valid.all()):
        segments = attention_segments(_sizes(valid.shape[1], set_sizes, causal_prefix))
        return partial(attend_segments, segments)
    if valid.is_cuda:
        return flex_attention_fn(valid, set_sizes, causal_prefix)
    return masked_sdpa(set_mask(valid, set_sizes, causal_prefix))


def masked_sdpa(mask: Tensor | None) -> Attention:
    """Attention with a stored mask, broadcastable to (B, H, n, m); None: full attention."""

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)

    return attend


def set_mask(valid: Tensor, set_sizes: tuple[int, ...], causal_prefix: bool = False) -> Tensor:
    """(B, P) -> (B, 1, S, S) bool: i attends to j when set_of[i] >= set_of[j] and j is no padding.

    The diagonal is always True, so that no row is empty.
    """
    prefix = valid.shape[1]
    sets = set_of(prefix, set_sizes, valid.device, causal_prefix)
    mask = (sets[:, None] >= sets[None, :]).repeat(len(valid), 1, 1)  # (B, S, S)
    mask[:, :, :prefix] &= valid[:, None, :]
    mask |= torch.eye(len(sets), dtype=torch.bool, device=valid.device)
    return mask.unsqueeze(1)


def set_of(
    prefix: int,
    set_sizes: tuple[int, ...],
    device: torch.device | None,
    causal_prefix: bool = False,
) -> Tensor:
    """(S,): the set of each position; the prefix is set 0."""
    sizes = _sizes(prefix, set_sizes, causal_prefix)
    repeats = torch.tensor(sizes, device=device)
    sets = torch.arange(len(sizes), device=device)
    return torch.repeat_interleave(sets, repeats, output_size=sum(sizes))


def attention_segments(sizes: tuple[int, ...]) -> list[tuple[int, int, bool]]:
    """Blocks of the mask as (start, end, causal): a set is a dense block, consecutive sets of size
    one are a triangle."""
    found: list[tuple[int, int, bool]] = []
    start = 0
    for single, group in groupby(sizes, key=lambda size: size == 1):
        for length in [len(list(group))] if single else group:
            found.append((start, start + length, single))
            start += length
    return found


def attend_segments(
    segments: list[tuple[int, int, bool]], q: Tensor, k: Tensor, v: Tensor, scale: float | None
) -> Tensor:
    """One fused kernel per segment: two for a prefix and single tokens, one per scale for growing
    sets."""
    attended = []
    for start, end, causal in segments:
        attend = attend_causally if causal else F.scaled_dot_product_attention
        attended.append(attend(q[:, :, start:end], k[:, :, :end], v[:, :, :end], scale=scale))
    return torch.cat(attended, dim=2)


def attend_causally(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """Causal attention aligned to the lower right: the last query attends to all m >= n keys."""
    before = k.shape[2] - q.shape[2]
    if q.is_cuda and before:
        bias = causal_lower_right(q.shape[2], k.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    # Elsewhere torch stores that bias as a mask. The square kernel with zero queries in front is
    # faster, as long as the prefix is not much longer than the rest.
    q = F.pad(q, (0, 0, before, 0))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)[:, :, before:]


def flex_attention_fn(
    valid: Tensor, set_sizes: tuple[int, ...], causal_prefix: bool = False, fused: bool = True
) -> Attention:
    """`set_mask` as a rule for FlexAttention; fused False runs it uncompiled, for tests."""
    sets = set_of(valid.shape[1], set_sizes, valid.device, causal_prefix)
    real = F.pad(valid, (0, len(sets) - valid.shape[1]), value=True)  # (B, S)

    def mask_mod(b: Tensor, _: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (sets[i] >= sets[j]) & real[b, j] | (i == j)

    attend, block_mask = _flex(fused)
    mask = block_mask(mask_mod, len(real), None, len(sets), len(sets), device=str(valid.device))

    def attend_masked(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        return attend(q, k, v, block_mask=mask, scale=scale)

    return attend_masked


@cache
def _flex(fused: bool) -> tuple[Callable, Callable]:
    """FlexAttention and its mask builder. Uncompiled, both store S x S values."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if not fused:
        return flex_attention, create_block_mask
    return torch.compile(flex_attention), torch.compile(create_block_mask)


def _sizes(prefix: int, set_sizes: tuple[int, ...], causal_prefix: bool) -> tuple[int, ...]:
    """Sizes of the sets that the S positions form."""
    return (*((1,) * prefix if causal_prefix else (prefix,)), *set_sizes[1:])
