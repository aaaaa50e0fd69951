"""L_CE, without ever holding the logits of a whole batch."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Logits in memory at one time: 64 MB in fp32, 1024 positions of a codebook of 16384.
LOGITS = 2**24


def token_loss(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    tokens: Tensor,
    weights: Tensor,
    codes: int,
    at_once: int = LOGITS,
) -> Tensor:
    """Weighted mean of -log p(token).

    Logits are B N V numbers, in fp32 more than all else of a step: they are made for some positions
    at a time, and made again in the backward pass. What fits at once is not made twice.

    Args:
        hidden: (B, N, D) that predict the tokens.
        head: (n, D) -> (n, V).
        tokens, weights: (B, N).
        codes: V.
        at_once: how many logits may exist together.
    """
    hidden, tokens, weights = hidden.flatten(0, 1), tokens.flatten(), weights.flatten()

    def part(h: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return (F.cross_entropy(head(h).float(), t, reduction="none") * w).sum()

    positions = max(at_once // codes, 1)
    if len(tokens) <= positions:
        return part(hidden, tokens, weights) / weights.sum()
    chunks = zip(*(x.split(positions) for x in (hidden, tokens, weights)), strict=True)
    sums = [
        checkpoint(part, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks
    ]
    return sum(sums) / weights.sum()
