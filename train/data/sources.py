"""Opens the data of a recipe: an object whose `batch(indices)` gives a RawBatch on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from train.data.batch import RawBatch
from train.data.toy import ToyScenes
from train.recipe import Recipe


def open_source(recipe: Recipe, split: str, device: torch.device):
    """Raises ValueError for a data source that does not exist."""
    if recipe.data != "toy":
        raise ValueError(f"unknown data {recipe.data!r}; known: toy")
    return ToyEdits(recipe, split, device)


class ToyEdits:
    """ToyScenes pairs as editing examples."""

    def __init__(self, recipe: Recipe, split: str, device: torch.device):
        self.scenes = ToyScenes(
            split=split, size=recipe.size, objects=recipe.objects, device=device
        )

    def batch(self, indices: Sequence[int]) -> RawBatch:
        scene = self.scenes.batch(indices)
        label = torch.full((len(indices),), -1, device=scene.source.device)
        return RawBatch(scene.source, scene.target, scene.instruction, label, scene.mask)
