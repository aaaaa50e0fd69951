"""Joins what conditions a generation into one prefix: image features, then text or a class, or
their nulls.

Text is left-padded, so that the last slot, whose output predicts the first token, always holds
something; a class label is a text of one token. Dropping a condition takes an explicit mask.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.config import ConditionConfig


class TextEmbedding(NamedTuple):
    """Embedded text, left-padded."""

    tokens: Tensor  # (B, T, text width), zero where padded
    valid: Tensor  # (B, T) bool


class Drop(NamedTuple):
    """Which examples lose which condition."""

    image: Tensor  # (B,) bool
    text: Tensor  # (B,) bool, text and class alike


class Prefix(NamedTuple):
    """What a backbone is conditioned on."""

    slots: Tensor  # (B, P, D): visual cells in raster order, then text
    valid: Tensor  # (B, P) bool, False at text padding
    pooled: Tensor  # (B, D): one vector for backbones modulated by it; empty for the others

    def joined(self, other: Prefix) -> Prefix:
        """Both along the batch: [self; other]."""
        return Prefix(*(torch.cat(pair) for pair in zip(self, other, strict=True)))

    def rows(self, start: int, end: int | None) -> Prefix:
        """Some of the batch."""
        return Prefix(*(part[start:end] for part in self))


class Conditioner(nn.Module):
    """Args:
    features: C, channels of the compressed features.
    cells: slots of the visual prefix.
    pooled: whether the backbone reads one pooled vector (AdaLN).
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
        if text_width:
            # LlamaGen's caption projection: the null is text, so it comes before the projection.
            self.text_in = nn.Linear(text_width, width, bias=False)
            self.text_out = nn.Linear(width, width, bias=False)
            null = torch.randn(config.text_slots, text_width) / text_width**0.5
            self.null_text = nn.Parameter(null, requires_grad=config.learn_null_text)
        if config.classes:
            self.class_table = nn.Embedding(config.classes + 1, width)  # the last row is the null
            nn.init.normal_(self.class_table.weight, std=0.02)
        self.pool = nn.Linear(text_width, width) if pooled and text_width else None
        self.pooled = pooled

    def project(self, features: Tensor) -> Tensor:
        """Compressed features (B, h, w, C) -> P_s (B, h w, D)."""
        return self.visual(features.flatten(1, 2))

    def forward(self, features: Tensor, text: TextEmbedding, label: Tensor, drop: Drop) -> Prefix:
        visual = self.project(features)
        visual = torch.where(drop.image[:, None, None], self.null_visual.to(visual.dtype), visual)
        slots, valid = [visual], [torch.ones_like(visual[..., 0], dtype=torch.bool)]
        pooled = visual.new_zeros(len(visual), 0)
        if hasattr(self, "text_in"):
            words = self._words(text, drop)
            slots.append(self.text_out(F.gelu(self.text_in(words), approximate="tanh")))
            valid.append(text.valid)
            if self.pool is not None:
                pooled = self.pool(words.sum(1) / text.valid.sum(1, keepdim=True).clamp(min=1))
        if self.classes:
            self._place_class(slots, valid, label, drop)
            if self.pooled:
                by_class = self._class(label, drop)
                pooled = (
                    torch.where((label >= 0)[:, None], by_class, pooled)
                    if pooled.numel()
                    else by_class
                )
        return Prefix(torch.cat(slots, 1), torch.cat(valid, 1), pooled)

    def _words(self, text: TextEmbedding, drop: Drop) -> Tensor:
        null = self.null_text[len(self.null_text) - text.tokens.shape[1] :].to(text.tokens.dtype)
        words = torch.where(drop.text[:, None, None], null, text.tokens)
        return words * text.valid.unsqueeze(-1)  # (B, T, W)

    def _class(self, label: Tensor, drop: Drop) -> Tensor:
        null = drop.text | (label < 0)
        return self.class_table(torch.where(null, self.classes, label))  # (B, D)

    def _place_class(
        self, slots: list[Tensor], valid: list[Tensor], label: Tensor, drop: Drop
    ) -> None:
        """The class takes the last text slot of the examples that have one; with no text slots at
        all it reaches the backbone through `pooled` alone, as in VAR."""
        if not self.text_slots:
            return
        by_class = self._class(label, drop).to(slots[0].dtype).unsqueeze(1)  # (B, 1, D)
        if len(slots) == 1:
            slots.append(by_class)
            valid.append(torch.ones_like(label, dtype=torch.bool).unsqueeze(1))
            return
        has = (label >= 0)[:, None]
        slots[1] = torch.cat(
            [slots[1][:, :-1], torch.where(has[..., None], by_class, slots[1][:, -1:])], 1
        )
        valid[1] = torch.cat([valid[1][:, :-1] & ~has, valid[1][:, -1:] | has], 1)
