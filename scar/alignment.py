"""L_align: the hidden states at the visual prefix are trained to be the target's features.

The backbone has to work out what the target shows before it decodes the first token of it.

Letters: B batch, P_s visual prefix slots, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def alignment_loss(
    hidden: Tensor, target: Tensor, keep: Tensor, distance: str = "unit_rms"
) -> Tensor:
    """L_align = |H_s - P_t|^2, the mean over channels, slots and the examples in `keep`.

    "unit_rms" scales both sides to unit mean square first. Then the loss can reach 0 whatever the
    weight of the final norm, which L_CE shares, and P_t cannot grow with its projection: without it
    the term was 75% of the loss after 200 steps.

    Args:
        hidden: (B, P_s, D) last hidden states at the visual prefix, H_s.
        target: (B, P_s, D) projected compressed features of the target image, P_t.
        keep: (B,) bool; False where the image was dropped: such an example cannot know its target.
        distance: "unit_rms" or "raw", the paper's; see `scar.config.LossConfig`.
    """
    hidden, target = hidden.float(), target.float()  # (B, P_s, D)
    if distance == "unit_rms":
        hidden = F.rms_norm(hidden, hidden.shape[-1:])
        target = F.rms_norm(target, target.shape[-1:])
    per_example = (hidden - target).square().mean(dim=(1, 2))  # (B,)
    return (per_example * keep).sum() / keep.sum().clamp(min=1)
