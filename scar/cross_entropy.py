"""L_CE, the cross-entropy of the target's tokens, without the logits of a whole batch in memory.

    L_CE = -sum_i w_i log p(z_i | prefix, z_<i) / sum_i w_i

Letters: B batch, N tokens of an image, D width, V codes, n positions of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Logits in memory at a time: 64 MB in fp32, 1024 positions of a codebook of 16384.
LOGITS = 2**24


def token_loss(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    tokens: Tensor,
    weights: Tensor,
    codes: int,
    at_once: int = LOGITS,
) -> Tensor:
    """The weighted mean of -log p(token).

    The B N V logits in fp32 need more memory than the rest of a training step. So they are
    computed chunk by chunk, and again in the backward pass (gradient checkpointing), unless they
    fit at once.

    Args:
        hidden: (B, N, D), position i predicts token i.
        head: (n, D) -> logits (n, V).
        tokens, weights: (B, N).
        codes: V.
        at_once: logits that may be in memory together.
    """
    hidden, tokens, weights = (
        hidden.flatten(0, 1),
        tokens.flatten(),
        weights.flatten(),
    )  # (B N, ...)

    def chunk_loss(h: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return (F.cross_entropy(head(h).float(), t, reduction="none") * w).sum()

    positions = max(at_once // codes, 1)
    if len(tokens) <= positions:
        return chunk_loss(hidden, tokens, weights) / weights.sum()
    chunks = zip(*(x.split(positions) for x in (hidden, tokens, weights)), strict=True)
    sums = [
        checkpoint(chunk_loss, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in chunks
    ]
    return sum(sums) / weights.sum()
