"""L_align: hidden states at the prefix are pulled to the target's semantics."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def alignment_loss(hidden: Tensor, target: Tensor, keep: Tensor) -> Tensor:
    """L_align = |H_s - P_t|^2, as a mean over channels, slots and the examples in `keep`.

    H_s comes out of the last norm, so P_t is brought to the same unit mean square: left alone it
    grows with the projection, and the term was seen at 75% of the loss after 200 steps.

    Args:
        hidden: (B, P_s, D) last hidden states at the visual prefix.
        target: (B, P_s, D) projected compressed features of the target image.
        keep: (B,) bool; an example whose image was dropped for guidance cannot know its target.
    """
    target = F.rms_norm(target.float(), target.shape[-1:])
    distance = (hidden.float() - target).square().mean(dim=(1, 2))  # (B,)
    return (distance * keep).sum() / keep.sum().clamp(min=1)
