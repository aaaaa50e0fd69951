"""One tiny model of random weights in the real layout, in both paradigms, and what it reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scar.encoder import feature_shape
from scar.model import Batch
from scar.prefix import DropMask, TextEmbedding
from scar.presets import configure
from scar.weights.checkpoint import build_model, build_tokenizer, save_model, save_tokenizer

TINY = {
    "backbone": {"layers": 2, "heads": 2, "width": 32},
    "tokenizer": {
        "codebook_size": 64,
        "autoencoder": {"channels": [32, 32], "blocks": 1, "latent": 16},
    },
}
CLASSES = {"condition": {"classes": 3}, "class_names": ["cat", "dog", "tree"]}
PARADIGMS = ("next-token", "next-set")
PRESETS = tuple(f"toy-{paradigm}" for paradigm in PARADIGMS)


def tiny(preset: str, **changes):
    torch.manual_seed(0)
    config = configure(preset, {**TINY, **changes})
    tokenizer = build_tokenizer(config.tokenizer).eval().requires_grad_(False)
    model = build_model(config, for_training=True).eval()
    for name, parameter in model.named_parameters():
        if "output" in name or "head." in name or "ada_lin" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return config, tokenizer, model


def batch_for(config, tokenizer, size=2, seed=0, words=(3, 5)) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    grid, channels = feature_shape(config.encoder)
    slots = max(words)
    valid = torch.stack([torch.arange(slots) >= slots - words[i % len(words)] for i in range(size)])
    text = torch.randn(size, slots, 384, generator=generator) * valid.unsqueeze(-1)
    count = sum(config.tokenizer.set_sizes)
    tokens = torch.randint(config.tokenizer.codebook_size, (size, count), generator=generator)
    none = torch.zeros(size, dtype=torch.bool)
    return Batch(
        torch.randn(size, grid, grid, channels, generator=generator),
        torch.randn(size, grid, grid, channels, generator=generator),
        TextEmbedding(text, valid),
        torch.full((size,), -1),
        tokens,
        tokenizer.inputs(tokens),
        torch.ones(size, count),
        torch.rand(size, grid, grid, generator=generator) < 0.3,
        DropMask(none, none),
    )


def prefix_of(model, batch):
    return model.conditioner(model.compressor(batch.source), batch.text, batch.label, batch.drop)


def logits_of(model, batch):
    prefix = prefix_of(model, batch)
    hidden = model.backbone(prefix, batch.inputs)
    return model.backbone.logits(hidden[:, -batch.tokens.shape[1] :], prefix)


def save_tiny(folder: Path, paradigm: str, change=None, **changes) -> None:
    """A checkpoint of the tiny model, whose logits differ; `change` may set more of its weights."""
    torch.manual_seed(0)
    config = configure(f"toy-{paradigm}", {**TINY, **CLASSES, **changes})
    model, tokenizer = build_model(config), build_tokenizer(config.tokenizer)
    for name, parameter in model.named_parameters():
        if "output" in name or "head." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    if change is not None:
        change(model)
    save_model(model, config, folder)
    save_tokenizer(tokenizer, folder)


def picture(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """Coloured noise on a grid of 8 x 8 cells, smoothed."""
    noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))
