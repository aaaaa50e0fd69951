"""The frozen networks a SCAR reads the world through: visual encoder, text encoder, tokenizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scar.config import ScarConfig
from scar.encoder import VisualEncoder
from scar.model import Batch
from scar.prefix import Drop, TextEmbedding
from scar.region import changed_cells, changed_features
from scar.text import TextEncoder


class FrozenEncoders(nn.Module):
    """Args:
    tokenizer: a trained `VQTokenizer` or `MultiScaleVQTokenizer`.
    pretrained: False leaves the encoders random (tests).
    without: "encoder" or "text", which are then None: for who has stored what they make.
    """

    def __init__(
        self,
        config: ScarConfig,
        tokenizer: nn.Module,
        pretrained: bool = True,
        without: frozenset[str] = frozenset(),
    ):
        super().__init__()
        self.encoder = None if "encoder" in without else VisualEncoder(config.encoder, pretrained)
        condition = config.condition
        has_text = condition.text_encoder != "none" and "text" not in without
        self.text = (
            TextEncoder(condition.text_encoder, condition.text_slots, pretrained)
            if has_text
            else None
        )
        self.tokenizer = tokenizer
        self.feature_distance = config.region.feature_distance
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FrozenEncoders:
        return super().train(False)

    @torch.no_grad()
    def encode_text(self, strings: list[str]) -> TextEmbedding:
        """Empty when the model has no text encoder: (B, 0, 0)."""
        if self.text is not None:
            return self.text(strings)
        device = next(self.tokenizer.parameters()).device
        shape = (len(strings), 0)
        return TextEmbedding(
            torch.zeros(*shape, 0, device=device),
            torch.zeros(shape, dtype=torch.bool, device=device),
        )

    @torch.no_grad()
    def features(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Of images (B, 3, S, S) in [-1, 1], what the encoder sees; without it (B, 0, 0)."""
        if self.encoder is None:
            return (source.new_zeros(len(source), 0, 0),) * 2
        # On a CPU in fp32 whatever the run computes in, as the pipeline runs it: in small pieces
        # that is faster, and bf16 was seen to move features by 15% of the largest.
        with torch.autocast(source.device.type, torch.bfloat16, enabled=source.is_cuda):
            before, after = self.encoder(torch.cat([source, target])).chunk(2)
        return before, after

    def changed_cells(self, before: Tensor, after: Tensor, pixels: Tensor | None) -> Tensor:
        """Cells of the encoder's grid that an edit changes, (B, h, w) bool.

        Args:
            before, after: (B, h, w, C) features of source and target.
            pixels: (B, S, S) bool, where the two pictures differ; None tells it from the features.
        """
        if before.dim() < 4:  # no features, so nobody will ask
            return before.new_zeros(before.shape, dtype=torch.bool)
        if pixels is None:
            return changed_features(before, after, self.feature_distance)
        return changed_cells(pixels, before.shape[1])

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
        before, after = self.features(source, target)
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
            self.changed_cells(before, after, changed),
            drop,
        )
