"""SCAR, the method on one page.

    F_s = E(I_s)                          frozen features of the source        (B, h, w, C)
    F_c = P_k(F_s)                        compressed k x k times               (B, h/k, w/k, C)
    S   = [P_s ; T_t ; Z_t]               visual prefix, text or class, tokens (B, P + N - 1, D)
    L   = L_CE + L_pres + delta L_align   (+ L_region, ours: see `scar.region`)

E, the text encoder and the tokenizer are frozen and live beside the model
(`scar.frozen.FrozenEncoders`): what they give is what a `Batch` holds, so that training can read it
from disk as well.

Letters: B batch, P prefix slots, P_s visual ones and T text slots among them, N tokens of an image,
D width, V codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scar.alignment import alignment_loss
from scar.compressor import Compressor, Upsampler, preservation_loss
from scar.config import Sampling, ScarConfig
from scar.cross_entropy import token_loss
from scar.encoder import feature_shape
from scar.prefix import Conditioner, Drop, TextEmbedding
from scar.region import RegionHead, region_loss
from scar.sampling import Prefilled, Steps, decode
from scar.text import text_width


class Batch(NamedTuple):
    """B training examples as the frozen networks see them."""

    source: Tensor  # (B, h, w, C) features of the source or control image
    target: Tensor  # (B, h, w, C) features of the target image
    text: TextEmbedding
    label: Tensor  # (B,) int64 class label, -1: the text is the condition
    # Tokens of the first b examples; the others (b < B) train what the prefix alone decides.
    tokens: Tensor  # (b, N) int64 codes of the target
    inputs: Tensor  # tokenizer.inputs(tokens)
    weights: Tensor  # (b, N) of each token in L_CE
    changed: Tensor  # (B, h, w) bool, cells of the encoder that the edit changes
    drop: Drop  # conditions dropped for guidance


class Losses(NamedTuple):
    """Weighted terms; their sum is L."""

    ce: Tensor
    preservation: Tensor
    alignment: Tensor
    region: Tensor


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
        self.region = (
            RegionHead(config.backbone.width, config.compressor.factor)
            if config.losses.region
            else None
        )
        if for_training:
            self.upsampler = Upsampler(
                self.compressor.width, channels, config.compressor.factor
            )  # U_k

    def forward(self, batch: Batch) -> Losses:
        config = self.config.losses
        source = self.compressor(batch.source)  # F_c (B, h/k, w/k, C)
        prefix = self.conditioner(source, batch.text, batch.label, batch.drop)
        drawn, visual = len(batch.tokens), source.shape[1] * source.shape[2]  # b, P_s
        hidden = self.backbone(prefix.rows(0, drawn), batch.inputs)  # (b, P + N - 1, D)

        ce = token_loss(
            hidden[:, -batch.tokens.shape[1] :],
            lambda h: self.backbone.logits(h, prefix),
            batch.tokens,
            batch.weights,
            self.config.tokenizer.codebook_size,
        )

        preservation = preservation_loss(batch.source, self.upsampler(source))
        semantic = hidden[:, :visual]  # H_s (b, P_s, D)
        if drawn < len(batch.source):
            rest = self.backbone.encode_prefix(prefix.rows(drawn, None))
            semantic = torch.cat([semantic, rest[:, :visual]])  # (B, P_s, D)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not config.detach_target):
            target = self.conditioner.project(self.compressor(batch.target))  # P_t (B, P_s, D)
        alignment = alignment_loss(semantic, target, ~batch.drop.image, config.alignment_distance)

        region = ce.new_zeros(())
        if self.region is not None:
            logits = self.region(semantic, prefix.slots[:, :visual])  # (B, h, w)
            region = region_loss(logits, batch.changed, keep=~(batch.drop.image | batch.drop.text))
        return Losses(
            ce,
            config.preservation * preservation,
            config.alignment * alignment,
            config.region * region,
        )

    def prefill(
        self, features: Tensor, text: TextEmbedding, label: Tensor, sampling: Sampling, steps: Steps
    ) -> Prefilled:
        """Read the conditions of B images, features (B, h, w, C) of the source or control image
        first; under guidance the unconditional rows follow."""
        source = self.compressor(features)
        none = torch.zeros(len(features), dtype=torch.bool, device=features.device)
        prefix = self.conditioner(source, text, label, Drop(none, none))
        if sampling.guidance != 1:
            joint = none if sampling.null == "text" else ~none
            null = self.conditioner(source, text, label, Drop(image=joint, text=~none))
            prefix = prefix.joined(null)
        return steps.prefill(self.backbone, prefix)

    def region_probability(self, prefilled: Prefilled, features: Tensor) -> Tensor:
        """How likely each cell of `features` (B, h, w, C) is to change: (B, h, w). Only for a model
        that was trained with L_region."""
        batch, height, width, _ = features.shape
        visual = height * width // self.config.compressor.factor**2  # P_s
        hidden, slots = prefilled.hidden[:batch, :visual], prefilled.prefix.slots[:batch, :visual]
        return self.region(hidden, slots).float().sigmoid()

    def generate(
        self,
        features: Tensor,
        text: TextEmbedding,
        label: Tensor,
        tokenizer: nn.Module,
        sampling: Sampling,
        generator: torch.Generator,
        forced: tuple[Tensor, Tensor] | None = None,
        preview_every: int = 1,
        steps: Steps | None = None,
    ) -> Iterator[Tensor]:
        """Decode an image for each condition, yielding the tokens so far (B, n).

        Args:
            features: (B, h, w, C) of the source or control image.
            forced, preview_every, steps: see `scar.sampling.decode`.
        """
        steps = steps or Steps()
        prefilled = self.prefill(features, text, label, sampling, steps)
        return decode(
            self.backbone, prefilled, tokenizer, sampling, generator, forced, preview_every, steps
        )
