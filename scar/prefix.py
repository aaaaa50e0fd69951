"""The prefix [P_s ; T_t]: projected image features, then text or a class.

    P_s = W_v F_c                         or its null, a learned prefix
    T_t = W_2 gelu(W_1 text)              or its null, a learned text; or the embedding of a class

Text is left-padded, so that the last slot, whose output predicts the first token, is never padding.
A class label is a text of one token. Which conditions are replaced by their nulls, for guidance, is
an explicit `DropMask`.

Letters: B batch, P prefix slots, of which P_s are visual, T text tokens, W width of the text
encoder, h x w grid of the compressed features, C their channels, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.config import ConditionConfig


class TextEmbedding(NamedTuple):
    """Left-padded text embeddings."""

    tokens: Tensor  # (B, T, W), zero at padding
    valid: Tensor  # (B, T) bool, False at padding


class DropMask(NamedTuple):
    """Which examples have which condition replaced by its null."""

    image: Tensor  # (B,) bool
    text: Tensor  # (B,) bool, of text or class


class Prefix(NamedTuple):
    """The condition of a backbone."""

    slots: Tensor  # (B, P, D): the visual prefix in raster order, then text
    valid: Tensor  # (B, P) bool, False at text padding
    pooled: Tensor  # (B, D): one vector that modulates an AdaLN backbone; (B, 0) for the others

    def joined(self, other: Prefix) -> Prefix:
        """[self ; other] along the batch."""
        return Prefix(*(torch.cat(pair) for pair in zip(self, other, strict=True)))

    def rows(self, start: int, end: int | None) -> Prefix:
        """Examples `start` to `end` of the batch."""
        return Prefix(*(part[start:end] for part in self))


class Conditioner(nn.Module):
    """Args:
    features: C.
    cells: P_s.
    text_width: W; 0 without a text encoder.
    width: D.
    pooled: whether the backbone is modulated by one pooled vector (AdaLN).
    """

    def __init__(
        self,
        config: ConditionConfig,
        features: int,
        cells: int,
        text_width: int,
        width: int,
        pooled: bool,
    ):
        super().__init__()
        self.classes, self.text_slots = config.classes, config.text_slots
        self.visual = nn.Linear(features, width, bias=False)
        self.null_visual = nn.Parameter(torch.randn(cells, width) * 0.02)
        self.has_text = text_width > 0
        if self.has_text:
            # LlamaGen's caption projection. The null replaces the text before it is projected.
            self.text_in = nn.Linear(text_width, width, bias=False)
            self.text_out = nn.Linear(width, width, bias=False)
            null = torch.randn(config.text_slots, text_width) / text_width**0.5
            self.null_text = nn.Parameter(null, requires_grad=config.learn_null_text)
        if config.classes:
            self.class_table = nn.Embedding(config.classes + 1, width)  # the last row is the null
            nn.init.normal_(self.class_table.weight, std=0.02)
        self.pool = nn.Linear(text_width, width) if pooled and self.has_text else None
        self.pooled = pooled

    def project(self, features: Tensor) -> Tensor:
        """F_c (B, h, w, C) -> P_s (B, h w, D)."""
        return self.visual(features.flatten(1, 2))

    def forward(
        self, features: Tensor, text: TextEmbedding, label: Tensor, drop: DropMask
    ) -> Prefix:
        """features: F_c (B, h, w, C); text: (B, T, W); label: (B,), -1 where the text is the
        condition."""
        visual = self.project(features)  # (B, P_s, D)
        null = self.null_visual.to(visual.dtype)  # (P_s, D)
        visual = torch.where(drop.image[:, None, None], null, visual)  # (B, P_s, D)
        slots, valid = [visual], [torch.ones_like(visual[..., 0], dtype=torch.bool)]
        pooled = visual.new_zeros(len(visual), 0)
        if self.has_text:
            embedded = self._text_or_null(text, drop)  # (B, T, W)
            slots.append(self.text_out(F.gelu(self.text_in(embedded), approximate="tanh")))
            valid.append(text.valid)
            if self.pool is not None:
                count = text.valid.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
                pooled = self.pool(embedded.sum(1) / count)  # (B, D)
        if self.classes:
            class_embedding = self._class_or_null(label, drop)  # (B, D)
            if self.text_slots:
                self._add_class(slots, valid, label, class_embedding)
            if self.pooled:  # without text slots this is the only way in, as in VAR
                has_class = (label >= 0)[:, None]
                pooled = (
                    torch.where(has_class, class_embedding, pooled)
                    if self.has_text
                    else class_embedding
                )
        return Prefix(torch.cat(slots, 1), torch.cat(valid, 1), pooled)

    def _text_or_null(self, text: TextEmbedding, drop: DropMask) -> Tensor:
        """(B, T, W); padding stays zero."""
        null = self.null_text[len(self.null_text) - text.tokens.shape[1] :].to(text.tokens.dtype)
        tokens = torch.where(drop.text[:, None, None], null, text.tokens)
        return tokens * text.valid.unsqueeze(-1)

    def _class_or_null(self, label: Tensor, drop: DropMask) -> Tensor:
        """(B,) -> (B, D)."""
        null = drop.text | (label < 0)
        return self.class_table(torch.where(null, self.classes, label))

    def _add_class(
        self, slots: list[Tensor], valid: list[Tensor], label: Tensor, class_embedding: Tensor
    ) -> None:
        """Put the class into the last text slot of the examples that have a class; their other text
        slots become padding."""
        class_slot = class_embedding.to(slots[0].dtype).unsqueeze(1)  # (B, 1, D)
        if not self.has_text:
            slots.append(class_slot)
            valid.append(torch.ones_like(label, dtype=torch.bool).unsqueeze(1))
            return
        has_class = (label >= 0)[:, None]  # (B, 1)
        last = torch.where(has_class[..., None], class_slot, slots[1][:, -1:])  # (B, 1, D)
        slots[1] = torch.cat([slots[1][:, :-1], last], 1)  # (B, T, D)
        valid[1] = torch.cat([valid[1][:, :-1] & ~has_class, valid[1][:, -1:] | has_class], 1)
