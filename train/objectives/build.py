"""The objective that a recipe names."""

from __future__ import annotations

from dataclasses import replace

from scar.presets import configure
from scar.toyscenes.sprites import vocabulary
from train.objectives.scar import ScarObjective
from train.objectives.tokenizer import TokenizerObjective
from train.recipe import Recipe


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
