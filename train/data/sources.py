"""Opens the data of a recipe: an object whose `batch(indices)` gives a RawBatch on the device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from preprocessors import PREPROCESSORS
from scar.checkpoint import configure
from train.data.batch import RawBatch
from train.data.extracted import Extracted
from train.data.imagenet import ImageNet
from train.data.multigen import MultiGen
from train.data.samples import Samples
from train.data.seed_edit import SeedEdit
from train.data.toy import ToyScenes
from train.data.toy_tasks import ToyTasks
from train.recipe import Recipe

DATA = ("toy", "imagenet", "multigen", "seed-edit")


def open_source(
    recipe: Recipe, split: str, device: torch.device
) -> ToyEdits | ToyTasks | Samples | Extracted:
    """Args:
    split: "train" (shuffled, cropped at random) or "validation".

    Raises:
        ValueError: a data source that does not exist, or whose folder is not in its layout.
    """
    if recipe.extracted and split == "train":
        config = configure(recipe.preset, recipe.model)
        return Extracted(Path(recipe.extracted), recipe, config, device)
    if recipe.data == "toy":
        kind = ToyEdits if set(recipe.tasks) == {"edit"} else ToyTasks
        return kind(recipe, split, device)
    return Samples(open_reader(recipe, split), recipe, split == "train", device)


def open_reader(recipe: Recipe, split: str) -> ImageNet | MultiGen | SeedEdit:
    """The samples of a recipe as they lie on disk. Raises ValueError, as `open_source`."""
    if recipe.data not in DATA[1:]:
        raise ValueError(f"unknown data {recipe.data!r}; known: {', '.join(DATA)}")
    if not recipe.folder:
        raise ValueError(f"recipe: data {recipe.data} needs folder, where it lies")
    folder = Path(recipe.folder)
    if recipe.data == "seed-edit":
        return SeedEdit(folder, split)
    if recipe.control not in PREPROCESSORS or recipe.control == "none":
        known = ", ".join(name for name in PREPROCESSORS if name != "none")
        raise ValueError(f"recipe: control must be one of {known}, not {recipe.control!r}")
    if recipe.data == "multigen":
        return MultiGen(folder, split, recipe.control)
    controls = Path(recipe.controls) if recipe.controls else None
    return ImageNet(folder, split, controls, recipe.control)


class ToyEdits:
    """ToyScenes pairs as editing examples."""

    def __init__(self, recipe: Recipe, split: str, device: torch.device):
        self.scenes = ToyScenes(split, recipe.size, recipe.objects, device=device, wild=recipe.wild)

    def batch(self, indices: Sequence[int]) -> RawBatch:
        scene = self.scenes.batch(indices)
        label = torch.full((len(indices),), -1, device=scene.source.device)
        return RawBatch(
            scene.source, scene.target, scene.instruction, label, scene.mask, scene.mask
        )
