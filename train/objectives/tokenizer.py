"""The tokenizer's objective: the losses of VQGAN (Esser et al. 2021) with an EMA codebook.

    L = L_pixel + L_perceptual + beta |z - sg(e)|^2 + L_generator + L_discriminator

L_pixel is |x - x'| + |x - x'|^2, x' the decoded image, z the latents and e their codes, sg the
stopped gradient. The generator and discriminator terms touch disjoint weights, so that one backward
pass serves both.

Letters: B images, S pixels a side, M latents of a batch, d their width, K codes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from scar.config import ScarConfig
from scar.weights.checkpoint import build_tokenizer, save_tokenizer
from train.data.batch import RawBatch, to_signed
from train.evaluate.metrics import bounding_boxes
from train.objectives.codebook import CodebookEMA
from train.objectives.reconstruction_loss import ReconstructionLoss
from train.objectives.tokenizer_start import start_codes, start_from_patches, start_from_tokenizer
from train.protocols import Source
from train.recipe import Recipe


class TokenizerObjective(nn.Module):
    """A `VQTokenizer` or `MultiScaleVQTokenizer`, the discriminator and the codebook's averages."""

    def __init__(self, recipe: Recipe, config: ScarConfig):
        super().__init__()
        self.recipe = recipe
        self.options = options = recipe.tokenizer_training
        self.tokenizer = build_tokenizer(config.tokenizer)
        self.codebook = CodebookEMA(self.tokenizer.codebook, recipe.schedule.accumulate)
        if not options.train_encoder:
            # Whatever decides the tokens is frozen.
            self.tokenizer.requires_grad_(False)
            self.tokenizer.post_quant_conv.requires_grad_(True)
            self.tokenizer.decoder.requires_grad_(True)
        if options.patch_start:
            # Its weights are far smaller than a step of the optimiser, so it stays as initialised.
            self.tokenizer.encoder.shortcut.requires_grad_(False)
            self.tokenizer.decoder.shortcut.requires_grad_(False)
        self.reconstruction_loss = ReconstructionLoss(
            config.tokenizer.image_size,
            options.perceptual,
            options.close_up,
            options.adversarial,
        )

    def start(self, source: Source) -> None:
        if init := self.recipe.weights.init:
            fresh = start_from_tokenizer(self.tokenizer, Path(init))
            print(f"started from {init}; fresh: {', '.join(fresh) or 'nothing'}")
        if self.options.patch_start:
            raw = source.batch(range(self.options.patch_start))
            images = to_signed(torch.cat([raw.source, raw.target]))
            start_from_patches(self.tokenizer, images)
            start_codes(self.tokenizer, images, raw.mask.repeat(2, 1, 1))

    def trainable(self) -> nn.Module:
        # "critic" and "codes" are the names of the tensors in existing checkpoints.
        discriminator = self.reconstruction_loss.discriminator
        return nn.ModuleDict({"tokenizer": self.tokenizer, "critic": discriminator})

    def stateful(self) -> nn.Module:
        return nn.ModuleDict({**self.trainable(), "codes": self.codebook})

    def export(self, folder: Path) -> None:
        save_tokenizer(self.tokenizer, folder)

    def forward(self, raw: RawBatch, step: int) -> dict[str, Tensor]:
        images = to_signed(torch.cat([raw.source, raw.target]))  # (2B, 3, S, S)
        masks = raw.mask.repeat(2, 1, 1)  # (2B, S, S)
        out = self.tokenizer.reconstruct(images, self._skips_quantiser(len(images), step))
        if self.training and self.options.train_encoder:
            self.codebook.update(out.latents, out.codes)
        error = (out.images - images).abs()
        weights = 1 + self.recipe.losses.foreground * masks.unsqueeze(1).float()  # (2B, 1, S, S)
        losses = {
            "pixel": ((error + error.square()) * weights).sum() / (3 * weights.sum()),
            "commitment": self.options.commitment * out.commitment,
            "spread": self.options.spread * isotropy_loss(out.latents),
        }
        some = slice(None, None, self.options.judged_every)
        boxes = bounding_boxes(masks[some])
        recon, target = out.images[some].float(), images[some]
        return losses | self.reconstruction_loss(recon, target, boxes)

    def _skips_quantiser(self, count: int, step: int) -> Tensor:
        """(count,) bool: all at first, none after the recipe's first `continuous` steps."""
        share = (
            1 - step / self.options.continuous
            if self.training and step < self.options.continuous
            else 0.0
        )
        return torch.rand(count, device=self.codebook.count.device) < share

    @torch.no_grad()
    def picture(self, raw: RawBatch) -> Tensor:
        """Rows of originals and reconstructions, (3, H, W) in [-1, 1]."""
        images = to_signed(raw.target)
        decoded = self.tokenizer.decode(self.tokenizer.encode(images))
        rows = [torch.cat(list(x), dim=-1) for x in (images, decoded)]
        return torch.cat(rows, dim=-2)


def isotropy_loss(latents: Tensor) -> Tensor:
    """|d Z^T Z / tr(Z^T Z) - I|^2 of latents Z (M, d), averaged: 0 where their second moments are
    isotropic.

    Without it the latents were seen to collapse onto 4 of their 8 dimensions: average colour, and
    no detail.
    """
    z = latents.float()
    moments = z.T @ z / z.square().sum() * z.shape[1]
    return (moments - torch.eye(z.shape[1], device=z.device)).square().mean()
