"""L_align: hidden states at the prefix are pulled to the target's semantics."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def alignment_loss(
    hidden: Tensor, target: Tensor, keep: Tensor, distance: str = "unit_rms"
) -> Tensor:
    """L_align = |H_s - P_t|^2, as a mean over channels, slots and the examples in `keep`.

    Under "unit_rms" both sides are brought to unit mean square first, so that 0 is the least loss
    whatever the weight of the final norm, which L_CE shares, and P_t cannot grow with its
    projection: left alone the term was seen at 75% of the loss after 200 steps.

    Args:
        hidden: (B, P_s, D) last hidden states at the visual prefix, H_s.
        target: (B, P_s, D) projected compressed features of the target image, P_t.
        keep: (B,) bool; an example whose image was dropped for guidance cannot know its target.
        distance: "unit_rms" or "raw", the paper's; see `scar.config.LossConfig`.
    """
    hidden, target = hidden.float(), target.float()
    if distance == "unit_rms":
        hidden = F.rms_norm(hidden, hidden.shape[-1:])
        target = F.rms_norm(target, target.shape[-1:])
    per_example = (hidden - target).square().mean(dim=(1, 2))  # (B,)
    return (per_example * keep).sum() / keep.sum().clamp(min=1)
