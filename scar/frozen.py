"""The frozen networks a SCAR reads the world through: visual encoder, text encoder, tokenizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scar.conditioning import Drop, Text
from scar.config import ScarConfig
from scar.encoder import VisualEncoder
from scar.model import Batch
from scar.region import changed_cells, changed_features
from scar.text import TextEncoder


class Frozen(nn.Module):
    """Args:
    tokenizer: a trained `VQTokenizer` or `MultiScaleVQTokenizer`.
    pretrained: False leaves the encoders random (tests).
    """

    def __init__(self, config: ScarConfig, tokenizer: nn.Module, pretrained: bool = True):
        super().__init__()
        self.encoder = VisualEncoder(config.encoder, pretrained)
        condition = config.condition
        has_text = condition.text_encoder != "none"
        self.text = (
            TextEncoder(condition.text_encoder, condition.text_slots, pretrained)
            if has_text
            else None
        )
        self.tokenizer = tokenizer
        self.feature_distance = config.region.feature_distance
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)

    @torch.no_grad()
    def encode_text(self, strings: list[str]) -> Text:
        """Empty when the model has no text encoder: (B, 0, 0)."""
        if self.text is not None:
            return self.text(strings)
        device = self.encoder.mean.device
        shape = (len(strings), 0)
        return Text(
            torch.zeros(*shape, 0, device=device),
            torch.zeros(shape, dtype=torch.bool, device=device),
        )

    @torch.no_grad()
    def batch(
        self,
        source: Tensor,
        target: Tensor,
        text: list[str],
        label: Tensor,
        drop: Drop,
        weights: Tensor,
        changed: Tensor | None,
    ) -> Batch:
        """What `SCAR.forward` trains on.

        Args:
            source, target: (B, 3, S, S) in [-1, 1].
            label: (B,) class label, or -1 where the text is the condition.
            weights: (b, N) of each token in L_CE; only b targets become tokens.
            changed: (B, S, S) bool, pixels that the edit changes; None tells it from the features.
        """
        before, after = self.encoder(torch.cat([source, target])).chunk(2)
        if changed is None:
            cells = changed_features(before, after, self.feature_distance)
        else:
            cells = changed_cells(changed, before.shape[1])
        # bf16 would change 4% of the codes.
        with torch.autocast(source.device.type, enabled=False):
            tokens = self.tokenizer.encode(target[: len(weights)])
            inputs = self.tokenizer.inputs(tokens)
        return Batch(
            before,
            after,
            self.encode_text(text),
            label,
            tokens,
            inputs,
            weights,
            cells,
            drop,
        )
