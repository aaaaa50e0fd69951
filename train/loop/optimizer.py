"""Optimisers and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from train.loop.muon import MuonFP32
from train.recipe import Recipe

# Layers whose weights decay, embedding tables among them, as in LlamaGen and VAR. What belongs to
# no such layer does not: biases, norms, positions, nulls, the temperatures of attention heads.
DECAYED_LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)


def decayed_weights(module: nn.Module) -> set[str]:
    """Names of the weights of `module` that decay; VAR's level embedding is a position."""
    return {
        f"{name}.weight".lstrip(".")
        for name, layer in module.named_modules()
        if isinstance(layer, DECAYED_LAYERS) and not name.endswith("lvl_embed")
    }


def build_optimizers(recipe: Recipe, module: nn.Module) -> list[torch.optim.Optimizer]:
    """AdamW with weight decay on `decayed_weights`; under "muon" hidden matrices get Muon instead.

    Muon's steps are scaled to AdamW's RMS, so one learning rate serves both.

    Raises:
        ValueError: the recipe's optimizer needs a package that is not installed.
    """
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    decayed = decayed_weights(module)
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    muon = []
    if recipe.optimizer.name == "muon":
        heads = ("output.weight", "head.weight")
        muon = [
            p
            for n, p in named
            if p.ndim == 2 and n in decayed and id(p) not in tables and not n.endswith(heads)
        ]
    taken = {id(p) for p in muon}
    rest = [(n, p) for n, p in named if id(p) not in taken]
    groups = [
        {
            "params": [p for n, p in rest if n in decayed],
            "weight_decay": recipe.optimizer.weight_decay,
        },
        {"params": [p for n, p in rest if n not in decayed], "weight_decay": 0.0},
    ]
    optimizers = [
        _adamw(recipe)(groups, lr=recipe.optimizer.learning_rate, betas=recipe.optimizer.betas)
    ]
    if muon:
        # bf16 is the only precision of torch's.
        kind = MuonFP32 if recipe.compute.precision == "fp32" else torch.optim.Muon
        optimizers.append(
            kind(
                muon,
                lr=recipe.optimizer.learning_rate,
                weight_decay=recipe.optimizer.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


def _adamw(recipe: Recipe) -> Callable[..., torch.optim.Optimizer]:
    if recipe.optimizer.name != "adamw8bit":
        return partial(torch.optim.AdamW, fused=recipe.optimizer.fused or None)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ValueError("optimizer adamw8bit needs a package: pip install bitsandbytes") from None
    return AdamW8bit


def rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step: linear warm-up, then the recipe's decay."""
    schedule, full = recipe.schedule, recipe.optimizer.learning_rate
    if step < schedule.warmup:
        return full * (step + 1) / schedule.warmup
    progress = (step - schedule.warmup) / max(schedule.steps - schedule.warmup, 1)
    shape = {
        "constant": 1.0,
        "cosine": 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
    }
    return full * shape[schedule.decay]
