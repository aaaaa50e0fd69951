"""SCAR, the method on one page.

    F_s = E(I_s)                          features of the source, frozen       (B, h, w, C)
    F_c = P_k(F_s)                        compressed k x k times               (B, h/k, w/k, C)
    S   = [P_s ; T_t ; Z_t]               visual prefix, text or class, tokens (B, P + N - 1, D)
    L   = L_CE + L_pres + delta L_align   (+ L_region, ours: see `scar.region`)

L_CE trains the tokens of the target; L_pres keeps in F_c what F_s holds; L_align trains the prefix
states to foretell the semantics of the target before its first token.

E, the text encoder and the tokenizer are frozen and not part of the model
(`scar.frozen.FrozenEncoders`). A `Batch` holds their outputs, so that training can also read those
from disk.

Letters: B batch, h x w grid of the features, C their channels, k compression, P prefix slots, of
which P_s = hw / k^2 are visual, N tokens of an image, D width, V codes. H_s and P_t are the
paper's: hidden states at the visual prefix, and the prefix that the target itself would have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from scar.alignment import alignment_loss
from scar.compressor import Compressor, Upsampler, preservation_loss
from scar.config import Sampling, ScarConfig
from scar.cross_entropy import token_loss
from scar.encoder import feature_shape
from scar.prefix import Conditioner, DropMask, TextEmbedding
from scar.protocols import Backbone, Tokenizer
from scar.region import RegionHead, region_loss
from scar.sampling import EagerRunner, Prefilled, cfg_rows, decode
from scar.text import text_width


class Batch(NamedTuple):
    """B training examples, encoded by the frozen networks."""

    source: Tensor  # (B, h, w, C) features of the source or control image
    target: Tensor  # (B, h, w, C) features of the target image
    text: TextEmbedding
    label: Tensor  # (B,) int64 class label, -1: the text is the condition
    # Only the first b <= B examples have tokens; the others train the losses of the prefix alone.
    tokens: Tensor  # (b, N) int64 codes of the target
    inputs: Tensor  # (b, N - 1, ...) Tokenizer.inputs(tokens)
    weights: Tensor  # (b, N) weight of each token in L_CE
    changed: Tensor  # (B, h, w) bool, grid cells that the edit changes
    drop: DropMask  # conditions dropped to train guidance


class Losses(NamedTuple):
    """Weighted terms; their sum is L."""

    ce: Tensor
    preservation: Tensor
    alignment: Tensor
    region: Tensor


class SCAR(nn.Module):
    """Args:
    backbone: the class of the causal transformer, `NextTokenTransformer` or `NextSetTransformer`.
    for_training: build U_k, which only L_pres needs.
    """

    def __init__(self, config: ScarConfig, backbone: type[Backbone], for_training: bool = False):
        super().__init__()
        self.config = config
        grid, channels = feature_shape(config.encoder)  # h = w, C
        self.compressor = Compressor(config.compressor, channels)  # P_k
        self.conditioner = Conditioner(
            config.condition,
            features=self.compressor.width,
            cells=(grid // config.compressor.factor) ** 2,
            text_width=text_width(config.condition.text_encoder),
            width=config.backbone.width,
            pooled=backbone.reads_pooled,
        )
        self.backbone: Backbone = backbone(
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
        prefix = self.conditioner(source, batch.text, batch.label, batch.drop)  # (B, P, D)
        count, visual = len(batch.tokens), source.shape[1] * source.shape[2]  # b, P_s
        hidden = self.backbone(prefix.rows(0, count), batch.inputs)  # (b, P + N - 1, D)

        # L_CE = -log p(Z_t | P_s, T_t)
        ce = token_loss(
            hidden[:, -batch.tokens.shape[1] :],  # (b, N, D)
            lambda h: self.backbone.logits(h, prefix),
            batch.tokens,
            batch.weights,
            self.config.tokenizer.codebook_size,
        )

        # L_pres = |F_s - U_k(F_c)|^2
        preservation = preservation_loss(batch.source, self.upsampler(source))
        semantic = hidden[:, :visual]  # H_s (b, P_s, D)
        if count < len(batch.source):
            rest = self.backbone.encode_prefix(prefix.rows(count, None))  # (B - b, P, D)
            semantic = torch.cat([semantic, rest[:, :visual]])  # (B, P_s, D)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not config.detach_target):
            target = self.conditioner.project(self.compressor(batch.target))  # P_t (B, P_s, D)
        # L_align = |H_s - P_t|^2
        alignment = alignment_loss(semantic, target, ~batch.drop.image, config.alignment_distance)

        # L_region = BCE(r, changed)
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
        self,
        features: Tensor,
        text: TextEmbedding,
        label: Tensor,
        sampling: Sampling,
        runner: EagerRunner,
    ) -> Prefilled:
        """Build the prefix of B images and run the backbone over it. Under guidance the B rows with
        all conditions are followed by B unconditional ones.

        Args:
            features: (B, h, w, C) of the source or control image.
        """
        source = self.compressor(features)  # F_c (B, h/k, w/k, C)
        none = torch.zeros(len(features), dtype=torch.bool, device=features.device)
        prefix = self.conditioner(source, text, label, DropMask(none, none))  # (B, P, D)
        if cfg_rows(sampling) == 2:
            image = none if sampling.null == "text" else ~none
            null = self.conditioner(source, text, label, DropMask(image, text=~none))
            prefix = prefix.joined(null)  # (2 B, P, D)
        return runner.prefill(self.backbone, prefix)

    def region_probability(self, prefilled: Prefilled, features: Tensor) -> Tensor:
        """r, the probability that each grid cell of `features` (B, h, w, C) changes: (B, h, w).
        Only for a model that was trained with L_region."""
        batch, height, width, _ = features.shape
        visual = height * width // self.config.compressor.factor**2  # P_s
        hidden, slots = prefilled.hidden[:batch, :visual], prefilled.prefix.slots[:batch, :visual]
        return cast(RegionHead, self.region)(hidden, slots).float().sigmoid()

    def generate(
        self,
        features: Tensor,
        text: TextEmbedding,
        label: Tensor,
        tokenizer: Tokenizer,
        sampling: Sampling,
        generator: torch.Generator,
        forced: tuple[Tensor, Tensor] | None = None,
        preview_every: int = 1,
        runner: EagerRunner | None = None,
    ) -> Iterator[Tensor]:
        """Decode B images, yielding the tokens so far (B, m).

        Args:
            features: (B, h, w, C) of the source or control image.
            forced, preview_every, runner: see `scar.sampling.decode`.
        """
        runner = runner or EagerRunner()
        prefilled = self.prefill(features, text, label, sampling, runner)
        return decode(
            self.backbone, prefilled, tokenizer, sampling, generator, forced, preview_every, runner
        )
