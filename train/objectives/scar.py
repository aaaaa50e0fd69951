"""What is trained: a module that turns one raw batch into named losses.

Both objectives look the same to the loop:

    objective(raw, step)    weighted loss terms by name; their sum is minimised
    start(source)           prepares fresh weights from data, before the first step
    trainable()             the module whose weights are optimised and averaged
    stateful()              what a checkpoint must hold to resume
    picture(raw)            a grid of examples, (3, H, W) in [-1, 1]
    export(folder)          the weights in the form `scar.weights.checkpoint` loads
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.checkpoint import checkpoint

from scar import next_set, next_token
from scar.config import ScarConfig
from scar.frozen import FrozenEncoders
from scar.model import Batch
from scar.prefix import DropMask
from scar.toyscenes.sprites import vocabulary
from scar.weights.checkpoint import (
    build_model,
    build_tokenizer,
    configure,
    save_model,
    save_tokenizer,
)
from scar.weights.convert import load_start
from train.data.batch import RawBatch, to_signed
from train.data.extracted import Partial
from train.evaluate.metrics import bounding_boxes
from train.objectives.frozen import build_frozen, completed
from train.objectives.reconstruction_loss import ReconstructionLoss
from train.objectives.tokenizer_start import start_codes, start_from_patches, start_from_tokenizer
from train.recipe import Recipe

BLOCKS = (next_token.TransformerBlock, next_set.TransformerBlock)


def build_objective(recipe: Recipe) -> TokenizerObjective | ScarObjective:
    """Raises ValueError for an unknown preset or a missing tokenizer."""
    config = configure(recipe.preset, recipe.model)
    if recipe.data == "toy":
        names = (sprite.name for sprite in vocabulary()[: config.condition.classes])
        config = replace(config, class_names=tuple(names))
    if recipe.size != config.tokenizer.image_size:
        raise ValueError(
            f"recipe: size is {recipe.size}, but the tokenizer of {recipe.preset} reads images of "
            f"{config.tokenizer.image_size}"
        )
    if recipe.objective == "tokenizer":
        return TokenizerObjective(recipe, config)
    return ScarObjective(recipe, config)


class TokenizerObjective(nn.Module):
    """Pixels, a judge's opinion and commitment; the codebook follows the latents by moving
    averages."""

    def __init__(self, recipe: Recipe, config: ScarConfig):
        super().__init__()
        self.recipe = recipe
        self.tokenizer = build_tokenizer(config.tokenizer)
        self.codes = CodebookAverage(self.tokenizer.codebook, recipe.accumulate)
        if not recipe.train_encoder:
            # All that tokens depend on stays as it is.
            self.tokenizer.requires_grad_(False)
            self.tokenizer.post_quant_conv.requires_grad_(True)
            self.tokenizer.decoder.requires_grad_(True)
        if recipe.patch_start:
            # Its weights are far smaller than a step of the optimiser: it stays what it starts as.
            self.tokenizer.encoder.shortcut.requires_grad_(False)
            self.tokenizer.decoder.shortcut.requires_grad_(False)
        self.judge = ReconstructionLoss(
            config.tokenizer.image_size, recipe.perceptual, recipe.close_up, recipe.adversarial
        )

    def start(self, source) -> None:
        if self.recipe.init:
            fresh = start_from_tokenizer(self.tokenizer, Path(self.recipe.init))
            print(f"started from {self.recipe.init}; fresh: {', '.join(fresh) or 'nothing'}")
        if self.recipe.patch_start:
            raw = source.batch(range(self.recipe.patch_start))
            images = to_signed(torch.cat([raw.source, raw.target]))
            start_from_patches(self.tokenizer, images)
            start_codes(self.tokenizer, images, raw.mask.repeat(2, 1, 1))

    def trainable(self) -> nn.Module:
        return nn.ModuleDict({"tokenizer": self.tokenizer, "critic": self.judge.critic})

    def stateful(self) -> nn.Module:
        return nn.ModuleDict({**self.trainable(), "codes": self.codes})

    def export(self, folder: Path) -> None:
        save_tokenizer(self.tokenizer, folder)

    def forward(self, raw: RawBatch, step: int) -> dict[str, Tensor]:
        images = to_signed(torch.cat([raw.source, raw.target]))
        out = self.tokenizer.reconstruct(images, self._continuous(len(images), step))
        if self.training and self.recipe.train_encoder:
            self.codes.update(out.latents, out.codes)
        error = (out.images - images).abs()
        weights = 1 + self.recipe.foreground * raw.mask.repeat(2, 1, 1).unsqueeze(1).float()
        losses = {
            "pixel": ((error + error.square()) * weights).sum() / (3 * weights.sum()),
            "commitment": self.recipe.commitment * out.commitment,
            "spread": self.recipe.spread * spread_loss(out.latents),
        }
        judged = slice(None, None, self.recipe.judged_every)
        boxes = bounding_boxes(raw.mask.repeat(2, 1, 1)[judged])
        return losses | self.judge(out.images[judged].float(), images[judged], boxes)

    def _continuous(self, count: int, step: int) -> Tensor:
        """Which examples skip the quantiser: all at first, none after the recipe's first steps."""
        share = (
            1 - step / self.recipe.continuous
            if self.training and step < self.recipe.continuous
            else 0.0
        )
        return torch.rand(count, device=self.codes.count.device) < share

    @torch.no_grad()
    def picture(self, raw: RawBatch) -> Tensor:
        """Rows of originals and reconstructions, (3, H, W) in [-1, 1]."""
        images = to_signed(raw.target)
        decoded = self.tokenizer.decode(self.tokenizer.encode(images))
        rows = [torch.cat(list(x), dim=-1) for x in (images, decoded)]
        return torch.cat(rows, dim=-2)


def spread_loss(latents: Tensor) -> Tensor:
    """How far the second moments of the latents (M, d) are from being the same in all directions.

    Without it the latents were seen to fall onto 4 of their 8 dimensions: average colour, and no
    detail.
    """
    z = latents.float()
    moments = z.T @ z / z.square().sum() * z.shape[1]  # the identity when isotropic
    return (moments - torch.eye(z.shape[1], device=z.device)).square().mean()


class CodebookAverage(nn.Module):
    """Online k-means of the codes (van den Oord et al. 2017, appendix A.1), restarting dead ones.

    A code that fewer than `floor` latents a step have chosen lately is moved onto a random latent:
    without that a small codebook was seen to keep 5% of its codes alive. A step counts as a whole,
    over its `accumulate` micro-batches on every process: however it is cut, the codes move alike.
    """

    def __init__(
        self, codebook: nn.Embedding, accumulate: int = 1, decay: float = 0.97, floor: float = 0.03
    ):
        super().__init__()
        self.accumulate, self.decay, self.floor = accumulate, decay, floor
        codebook.weight.requires_grad_(False)
        self.codebook = [codebook]  # in a list: the tokenizer owns it
        self.heard: list[Tensor] = []  # of the micro-batches of an unfinished step
        self.register_buffer("count", torch.zeros(codebook.num_embeddings))
        self.register_buffer("total", torch.zeros_like(codebook.weight))

    @torch.no_grad()
    def update(self, latents: Tensor, codes: Tensor) -> None:
        """Take in the latents (M, d) of a micro-batch and their codes (M,); after the last one of a
        step, which every process must come to, move the codebook."""
        self.heard.append(self._part(latents.float(), codes))
        if len(self.heard) < self.accumulate:
            return
        step = torch.stack(self.heard).sum(0)
        self.heard.clear()
        if dist.is_initialized():
            dist.all_reduce(step)
        if step.isfinite().all():
            self._move(*step.tensor_split([1, 1 + latents.shape[1]], dim=1))

    def _part(self, latents: Tensor, codes: Tensor) -> Tensor:
        """Of one micro-batch, for every code (K, 1 + 2d): how many latents chose it, their sum, and
        its share of the latents that dead codes restart from; the parts of a step add up."""
        chosen = torch.zeros_like(self.count).index_add_(
            0, codes, torch.ones_like(codes, dtype=torch.float)
        )
        moved = torch.zeros_like(self.total).index_add_(0, codes, latents)
        rank = dist.get_rank() if dist.is_initialized() else 0
        processes = dist.get_world_size() if dist.is_initialized() else 1
        part, parts = len(self.heard) * processes + rank, self.accumulate * processes
        picks = latents[torch.randint(len(latents), chosen.shape, device=latents.device)]
        mine = torch.arange(len(chosen), device=latents.device) % parts == part
        return torch.cat([chosen.unsqueeze(1), moved, picks * mine.unsqueeze(1)], dim=1)

    def _move(self, chosen: Tensor, moved: Tensor, picks: Tensor) -> None:
        self.count.lerp_(chosen.squeeze(1), 1 - self.decay)
        self.total.lerp_(moved, 1 - self.decay)
        dead = self.count < self.floor
        self.total[dead] = picks[dead]
        self.count[dead] = 1.0
        self.codebook[0].weight.copy_(self.total / self.count.unsqueeze(1))


class ScarObjective(nn.Module):
    """L = L_CE + L_pres + delta L_align over what the frozen networks see."""

    def __init__(self, recipe: Recipe, config: ScarConfig):
        super().__init__()
        self.recipe, self.config = recipe, config
        if not recipe.tokenizer:
            raise ValueError("recipe: objective scar needs tokenizer, the folder of a trained one")
        self.frozen = build_frozen(recipe, config)
        self.model = build_model(config, for_training=True)
        prepare_backbone(recipe, self.model.backbone)

    def start(self, source) -> None:
        if self.recipe.init:
            fresh = load_start(self.model, Path(self.recipe.init))
            print(f"started from {self.recipe.init}; fresh: {', '.join(fresh) or 'nothing'}")

    def trainable(self) -> nn.Module:
        return self.model

    def stateful(self) -> nn.Module:
        return self.model

    def export(self, folder: Path) -> None:
        save_model(self.model, self.config, folder)
        save_tokenizer(self.frozen.tokenizer, folder)

    def forward(self, raw: RawBatch | Batch | Partial, step: int) -> dict[str, Tensor]:
        """`raw` is no RawBatch where the frozen networks have seen the examples beforehand."""
        count = len(raw.label)
        drop = guidance_drop(self.recipe, count, raw.label.device)
        drawn = max(count - round(count * self.recipe.prefix_only), 1)
        if isinstance(raw, RawBatch):
            batch = encode_batch(self.frozen, raw, self.recipe.foreground, drawn)
        else:
            batch = completed(self.frozen, raw)
            parts = {name: getattr(batch, name)[:drawn] for name in ("tokens", "inputs", "weights")}
            batch = batch._replace(**parts)
        losses = self.model(batch._replace(drop=drop))._asdict()
        if not self.config.losses.region:
            del losses["region"]
        return losses

    @torch.no_grad()
    def picture(self, raw: RawBatch) -> Tensor:
        """Columns of source, greedy output, target as the tokenizer sees it, target."""
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
        seen = frozen.tokenizer.decode(frozen.tokenizer.encode(target))
        rows = [source, frozen.tokenizer.decode(tokens), seen, target]
        return torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)


def prepare_backbone(recipe: Recipe, backbone: nn.Module) -> None:
    """Apply `gradient_checkpointing` and `compile`, in place; names of weights stay the same."""
    if recipe.gradient_checkpointing:
        for block in (part for part in backbone.modules() if isinstance(part, BLOCKS)):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if recipe.compile:
        backbone.compile()


def encode_batch(
    frozen: FrozenEncoders, raw: RawBatch, foreground: float, drawn: int | None = None
) -> Batch:
    """The frozen networks' features, texts and tokens of a raw batch, with no condition dropped.

    Args:
        foreground: tokens that touch the edit count 1 + foreground times in L_CE.
        drawn: only the first so many targets become tokens; None: all.
    """
    masks = raw.mask[:drawn].float().unsqueeze(1)  # (b, 1, S, S)
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
    both, image = recipe.drop_both, recipe.drop_both + recipe.drop_image
    return DropMask(
        image=u < image, text=(u < both) | ((u >= image) & (u < image + recipe.drop_text))
    )
