"""L_align: hidden states at the prefix are pulled to the target's semantics."""

from __future__ import annotations

from torch import Tensor


def alignment_loss(hidden: Tensor, target: Tensor, keep: Tensor) -> Tensor:
    """L_align = |H_s - P_t|^2, as a mean over channels, slots and the examples in `keep`.

    Args:
        hidden: (B, P_s, D) last hidden states at the visual prefix.
        target: (B, P_s, D) projected compressed features of the target image.
        keep: (B,) bool; an example whose image was dropped for guidance cannot know its target.
    """
    distance = (hidden.float() - target.float()).square().mean(dim=(1, 2))  # (B,)
    return (distance * keep).sum() / keep.sum().clamp(min=1)
