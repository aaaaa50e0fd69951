"""The objective that a recipe names."""

from __future__ import annotations

from dataclasses import replace

from scar.toyscenes.sprites import vocabulary
from train.objectives.scar import ScarObjective
from train.objectives.tokenizer import TokenizerObjective
from train.recipe import Recipe


def build_objective(recipe: Recipe) -> TokenizerObjective | ScarObjective:
    """Raises ValueError for a missing tokenizer."""
    config = recipe.model
    if recipe.data.kind == "toy":
        names = (sprite.name for sprite in vocabulary()[: config.condition.classes])
        config = replace(config, class_names=tuple(names))
    if recipe.objective == "tokenizer":
        return TokenizerObjective(recipe, config)
    return ScarObjective(recipe, config)
