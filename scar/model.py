"""SCAR, the method on one page.

    F_s = E(I_s)                          frozen features of the source        (B, h, w, C)
    F_c = P_k(F_s)                        compressed k x k times               (B, h/k, w/k, C)
    S   = [P_s ; T_t ; Z_t]               visual prefix, text or class, tokens (B, P + N - 1, D)
    L   = L_CE + L_pres + delta L_align

E, the text encoder and the tokenizer are frozen and live beside the model (`scar.frozen.Frozen`):
what they give is what a `Batch` holds, so that training can read it from disk as well. Letters: B
batch, P prefix slots, T text slots among them, N tokens of an image, D width, V codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scar.alignment import alignment_loss
from scar.compressor import Compressor, Upsampler, preservation_loss
from scar.conditioning import Conditioner, Drop, Text
from scar.config import Sampling, ScarConfig
from scar.cross_entropy import token_loss
from scar.encoder import feature_shape
from scar.sampling import Steps, decode
from scar.text import text_width


class Batch(NamedTuple):
    """B training examples as the frozen networks see them."""

    source: Tensor  # (B, h, w, C) features of the source or control image
    target: Tensor  # (B, h, w, C) features of the target image
    text: Text
    label: Tensor  # (B,) int64 class label, -1: the text is the condition
    tokens: Tensor  # (B, N) int64 codes of the target
    inputs: Tensor  # tokenizer.inputs(tokens)
    weights: Tensor  # (B, N) of each token in L_CE
    drop: Drop  # conditions dropped for guidance


class Losses(NamedTuple):
    """Weighted terms; their sum is L."""

    ce: Tensor
    preservation: Tensor
    alignment: Tensor


class SCAR(nn.Module):
    """Args:
    backbone: the class of the causal transformer, `NextTokenTransformer` or `NextSetTransformer`.
    for_training: keep U_k, which only L_pres needs.
    """

    def __init__(self, config: ScarConfig, backbone: type[nn.Module], for_training: bool = False):
        super().__init__()
        self.config = config
        grid, channels = feature_shape(config.encoder)
        self.compressor = Compressor(config.compressor, channels)  # P_k
        self.conditioner = Conditioner(
            config.condition,
            features=self.compressor.width,
            cells=(grid // config.compressor.factor) ** 2,
            text_width=text_width(config.condition.text_encoder),
            width=config.backbone.width,
            pooled=backbone.reads_pooled,
        )
        self.backbone = backbone(
            config.backbone, config.tokenizer, grid // config.compressor.factor
        )
        if for_training:
            self.upsampler = Upsampler(
                self.compressor.width, channels, config.compressor.factor
            )  # U_k

    def forward(self, batch: Batch) -> Losses:
        config = self.config.losses
        source = self.compressor(batch.source)  # F_c (B, h/k, w/k, C)
        prefix = self.conditioner(source, batch.text, batch.label, batch.drop)
        hidden = self.backbone(prefix, batch.inputs)  # (B, P + N - 1, D)

        ce = token_loss(
            hidden[:, -batch.tokens.shape[1] :],
            lambda h: self.backbone.logits(h, prefix),
            batch.tokens,
            batch.weights,
            self.config.tokenizer.codebook_size,
        )

        preservation = preservation_loss(batch.source, self.upsampler(source))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not config.detach_target):
            target = self.conditioner.project(self.compressor(batch.target))  # P_t (B, P_s, D)
        hidden = hidden[:, : target.shape[1]]  # H_s (B, P_s, D)
        keep, distance = ~batch.drop.image, config.alignment_distance
        alignment = alignment_loss(hidden, target, keep, distance)
        return Losses(ce, config.preservation * preservation, config.alignment * alignment)

    def generate(
        self,
        features: Tensor,
        text: Text,
        label: Tensor,
        tokenizer: nn.Module,
        sampling: Sampling,
        generator: torch.Generator,
        forced: tuple[Tensor, Tensor] | None = None,
        every: int = 1,
        steps: Steps | None = None,
    ) -> Iterator[Tensor]:
        """Decode an image for each condition, yielding the tokens so far (B, n).

        Args:
            features: (B, h, w, C) of the source or control image.
            forced, every, steps: see `scar.sampling.decode`.
        """
        source = self.compressor(features)
        none = torch.zeros(len(features), dtype=torch.bool, device=features.device)
        prefix = self.conditioner(source, text, label, Drop(none, none))
        if sampling.guidance != 1:
            joint = none if sampling.null == "text" else ~none
            null = self.conditioner(source, text, label, Drop(image=joint, text=~none))
            prefix = prefix.joined(null)
        return decode(self.backbone, prefix, tokenizer, sampling, generator, forced, every, steps)
