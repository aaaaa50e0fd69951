"""SCAR's objective: L = L_CE + L_pres + delta L_align (+ L_region) over frozen features.

Letters: B examples, b of them with tokens, N tokens of an image, S pixels a side.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scar import next_set, next_token
from scar.config import ScarConfig
from scar.frozen import FrozenEncoders
from scar.model import Batch
from scar.prefix import DropMask
from scar.weights.checkpoint import build_model, save_model, save_tokenizer
from scar.weights.convert import FRESH, load_start
from train.data.batch import Partial, RawBatch, to_signed
from train.objectives.frozen import build_frozen, completed
from train.protocols import Source
from train.recipe import Recipe

BLOCKS = (next_token.TransformerBlock, next_set.TransformerBlock)


class ScarObjective(nn.Module):
    """A SCAR model, and the frozen networks beside it."""

    def __init__(self, recipe: Recipe, config: ScarConfig):
        super().__init__()
        self.recipe, self.config = recipe, config
        if not recipe.weights.tokenizer:
            raise ValueError(
                "recipe: objective scar needs weights.tokenizer, the folder of a trained one"
            )
        self.frozen = build_frozen(recipe, config)
        self.model = build_model(config, for_training=True)
        prepare_backbone(recipe, self.model.backbone)

    def start(self, source: Source) -> None:
        weights = self.recipe.weights
        if weights.init:
            fresh = load_start(self.model, Path(weights.init), weights.init_ignore)
            print(f"started from {weights.init}; fresh: {', '.join(fresh) or 'nothing'}")

    def trainable(self) -> nn.Module:
        return self.model

    def stateful(self) -> nn.Module:
        return self.model

    def export(self, folder: Path) -> None:
        save_model(self.model, self.config, folder)
        save_tokenizer(self.frozen.tokenizer, folder)

    def forward(self, raw: RawBatch | Batch | Partial, step: int) -> dict[str, Tensor]:
        """`raw` is a RawBatch, or what `python -m train.extract` has stored of one."""
        count = len(raw.label)
        drop = guidance_drop(self.recipe, count, raw.label.device)
        with_tokens = max(count - round(count * self.recipe.losses.prefix_only), 1)  # b
        if isinstance(raw, RawBatch):
            batch = encode_batch(self.frozen, raw, self.recipe.losses.foreground, with_tokens)
        else:
            batch = completed(self.frozen, raw)
            batch = batch._replace(
                tokens=batch.tokens[:with_tokens],
                inputs=batch.inputs[:with_tokens],
                weights=batch.weights[:with_tokens],
            )
        losses = self.model(batch._replace(drop=drop))._asdict()
        if not self.config.losses.region:
            del losses["region"]
        return losses

    @torch.no_grad()
    def picture(self, raw: RawBatch) -> Tensor:
        """Rows of source, greedy output, reconstruction of the target, target."""
        source, target = to_signed(raw.source), to_signed(raw.target)
        frozen = self.frozen
        sampling = replace(self.config.sampling, temperature=0.0)
        *_, tokens = self.model.generate(
            frozen.encoder(source),
            frozen.encode_text(raw.text),
            raw.label,
            frozen.tokenizer,
            sampling,
            torch.Generator(source.device),
        )
        reconstructed = frozen.tokenizer.decode(frozen.tokenizer.encode(target))
        rows = [source, frozen.tokenizer.decode(tokens), reconstructed, target]
        return torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)


def prepare_backbone(recipe: Recipe, backbone: nn.Module) -> None:
    """Apply `train_only`, `gradient_checkpointing` and `compile`, in place; names of weights stay
    the same."""
    if recipe.weights.train_only == "prefix":
        for name, weight in backbone.named_parameters():
            # VAR's positions and levels of the prefix are fresh, and learn.
            weight.requires_grad_(f"backbone.{name}".startswith(FRESH))
    if recipe.compute.gradient_checkpointing:
        for block in (part for part in backbone.modules() if isinstance(part, BLOCKS)):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if recipe.compute.compile:
        backbone.compile()


def encode_batch(
    frozen: FrozenEncoders, raw: RawBatch, foreground: float, with_tokens: int | None = None
) -> Batch:
    """Frozen features, texts and tokens of a raw batch, with no condition dropped.

    Args:
        foreground: tokens that touch the edit count 1 + foreground times in L_CE.
        with_tokens: only the first so many targets become tokens; None: all.
    """
    masks = raw.mask[:with_tokens].float().unsqueeze(1)  # (b, 1, S, S)
    sides = frozen.tokenizer.config.sides
    touched = [F.adaptive_max_pool2d(masks, side).flatten(1) for side in sides]
    weights = 1 + foreground * torch.cat(touched, dim=1)  # (b, N)
    none = torch.zeros_like(raw.label, dtype=torch.bool)
    source, target = to_signed(raw.source), to_signed(raw.target)
    return frozen.batch(
        source,
        target,
        raw.text,
        raw.label,
        DropMask(none, none),
        weights,
        raw.changed,
    )


def guidance_drop(recipe: Recipe, count: int, device: torch.device) -> DropMask:
    """Which examples lose both conditions, the image only, or the text only."""
    u = torch.rand(count, device=device)
    drop = recipe.drop
    both, image = drop.both, drop.both + drop.image
    return DropMask(image=u < image, text=(u < both) | ((u >= image) & (u < image + drop.text)))
