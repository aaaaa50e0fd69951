"""The recipes at widths that a test can train, on miniature data."""

from __future__ import annotations

from pathlib import Path

import torch

from scar.presets import configure
from scar.weights.checkpoint import build_model, build_tokenizer, save_model, save_tokenizer
from train.recipe import Recipe, change, load_recipe

RECIPES = Path("train/recipes")
# One encoder and text encoder that packages carry, and the published shapes made small.
TINY_ENCODERS = {
    "encoder": {"name": "efficientnet-lite0", "image_size": 64},
    "condition": {"text_encoder": "minilm-l6", "text_slots": 8},
}
TINY_AUTOENCODER = {"channels": [32, 32, 32], "blocks": 1, "latent": 32, "patch": 4}
TINY_TOKENIZER = {"image_size": 64, "codebook_size": 32, "autoencoder": TINY_AUTOENCODER}
TINY_BACKBONE = {"layers": 1, "heads": 2, "width": 64}


def name(path: Path) -> str:
    """ "c2i_llamagen_canny" """
    return f"{path.parent.name}_{path.stem}"


def tiny(path: Path, root: Path, **fields) -> Recipe:
    """The recipe with its own preset, at widths a test can train."""
    recipe = load_recipe(path)
    model = {"backbone": TINY_BACKBONE, "tokenizer": TINY_TOKENIZER, **TINY_ENCODERS}
    if "c2i" in name(path):
        model["condition"] = {}
    if "var" in name(path):
        model["tokenizer"] = TINY_TOKENIZER | {"scales": [1, 2, 4]}
    data = {"imagenet": "images", "multigen": "multigen", "seed-edit": "edits"}[recipe.data.kind]
    small = {
        "model": model,
        "size": 64,
        "folder": str(root / data),
        "controls": "",
        "detector": "embedded",
        "batch_size": 2,
        "steps": 2,
        "epochs": 0.0,
        "precision": "fp32",
        "workers": 1,
        "threads": 1,
        "log_every": 1,
        "grid_every": 0,
        "save_every": 1,
        "out": str(root / "out" / name(path)),
        "tokenizer": str(start(root, recipe.preset, model)),
        "init": str(start(root, recipe.preset, model)),
    }
    return change(recipe, **(small | fields))


def tiny_toy(path: Path, root: Path) -> Recipe:
    """A recipe of ToyScenes at 64 px, whatever its own model is."""
    recipe = load_recipe(path)
    autoencoder = TINY_AUTOENCODER | {"attention": False}
    model = {
        "backbone": TINY_BACKBONE,
        "encoder": {"image_size": 64},
        "tokenizer": TINY_TOKENIZER | {"autoencoder": autoencoder},
        "condition": {"classes": recipe.data.objects if "c2i" in recipe.data.tasks else 0},
    }
    if recipe.preset == "toy-next-set":
        model["tokenizer"] |= {"scales": [1, 2, 4]}
    folder = str(start(root, recipe.preset, model))
    small = {"size": 64, "batch_size": 2, "steps": 2, "save_every": 1, "log_every": 1}
    return change(
        recipe,
        **small,
        model=model,
        extracted="",
        precision="fp32",
        grid_every=0,
        threads=1,
        patch_start=min(recipe.tokenizer_training.patch_start, 8),
        out=str(root / "out" / name(path)),
        tokenizer=folder if recipe.weights.tokenizer else "",
        init=folder if recipe.weights.init else "",
    )


def start(root: Path, preset: str, model: dict) -> Path:
    """A random checkpoint in the place of converted public weights."""
    folder = root / preset
    if not folder.exists():
        torch.manual_seed(0)
        config = configure(preset, model)
        save_model(build_model(config), config, folder)
        save_tokenizer(build_tokenizer(config.tokenizer), folder)
    return folder
