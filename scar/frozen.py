"""The frozen networks beside a SCAR: visual encoder, text encoder, tokenizer.

Letters: B batch, S x S pixels, h x w grid of the features, C their channels, N tokens of an image,
T text tokens, W width of the text encoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scar.config import ScarConfig
from scar.encoder import VisualEncoder
from scar.model import Batch
from scar.prefix import DropMask, TextEmbedding
from scar.region import changed_cells, changed_features
from scar.text import TextEncoder
from scar.tokenizer import MultiScaleVQTokenizer, VQTokenizer


class FrozenEncoders(nn.Module):
    """Args:
    tokenizer: trained.
    pretrained: load the published weights; False leaves the encoders random (tests).
    without: "encoder" or "text" are not built, for training on stored features.
    """

    def __init__(
        self,
        config: ScarConfig,
        tokenizer: VQTokenizer | MultiScaleVQTokenizer,
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
        """B strings -> (B, T, W); (B, 0, 0) without a text encoder."""
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
        """Images (B, 3, S, S) in [-1, 1] -> features of both (B, h, w, C); (B, 0, 0) without the
        encoder."""
        if self.encoder is None:
            return (source.new_zeros(len(source), 0, 0),) * 2
        # On a CPU in fp32 whatever the run computes in, as the pipeline runs it: in small pieces
        # that is faster, and bf16 was seen to move features by 15% of the largest.
        with torch.autocast(source.device.type, torch.bfloat16, enabled=source.is_cuda):
            before, after = self.encoder(torch.cat([source, target])).chunk(2)
        return before, after

    def changed_cells(self, before: Tensor, after: Tensor, pixels: Tensor | None) -> Tensor:
        """The grid cells that an edit changes, (B, h, w) bool.

        Args:
            before, after: (B, h, w, C) features of source and target.
            pixels: (B, S, S) bool, where the two images differ; None compares the features.
        """
        if before.dim() < 4:  # no encoder: stored values replace these
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
        drop: DropMask,
        weights: Tensor,
        changed: Tensor | None,
    ) -> Batch:
        """Encode B examples for `SCAR.forward`.

        Args:
            source, target: (B, 3, S, S) in [-1, 1].
            label: (B,) class label, or -1 where the text is the condition.
            weights: (b, N) weight of each token in L_CE; only the first b targets are tokenized.
            changed: (B, S, S) bool, pixels that the edit changes; None compares the features.
        """
        before, after = self.features(source, target)  # (B, h, w, C) each
        # Without autocast: bf16 changes 4% of the codes.
        with torch.autocast(source.device.type, enabled=False):
            tokens = self.tokenizer.encode(target[: len(weights)])  # (b, N)
            inputs = self.tokenizer.inputs(tokens)  # (b, N - 1, ...)
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
