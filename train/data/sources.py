"""Opens the data of a recipe, as a `Source` of batches on the device or as a `Reader`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from preprocessors import PREPROCESSORS
from scar.toyscenes.dataset import ToyScenes
from train.data.batch import RawBatch
from train.data.columns import SplitTables
from train.data.extracted import Extracted, PartlyExtracted, read_layout
from train.data.files import Listing, list_files, split_of
from train.data.holdout import HeldOut
from train.data.imagenet import SPLITS, ImageNet, LabelledRows, has_class_folders
from train.data.multigen import MultiGen
from train.data.pairs import pair_splits
from train.data.rows import NoSplitError, tables
from train.data.samples import Samples
from train.data.seed_edit import SeedEdit
from train.data.toy_tasks import ToyTasks
from train.protocols import Reader, Source
from train.recipe import Recipe


def open_source(recipe: Recipe, split: str, device: torch.device) -> Source:
    """The batches of a split, "train" (shuffled, cropped at random) or "validation".

    Raises:
        ValueError: a data source that does not exist, or whose folder is not in its layout.
    """
    if recipe.data.extracted and split == "train":
        return _open_extracted(recipe, device)
    if recipe.data.kind == "toy":
        kind = ToyEdits if set(recipe.data.tasks) == {"edit"} else ToyTasks
        return kind(recipe, split, device)
    return Samples(open_reader(recipe, split), recipe, split == "train", device)


def open_reader(recipe: Recipe, split: str) -> Reader:
    """The samples of a recipe as they lie on disk; validation comes from `validation_folder`, or
    files of its own, or is held out. Raises ValueError, as `open_source`."""
    _check(recipe)
    if recipe.data.validation_folder:
        if split == "train":
            return _Folder(recipe, recipe.data.folder).open(split)
        folder = _Folder(recipe, recipe.data.validation_folder)
        own = next((name for name in ("validation", "test") if name in folder.splits), "train")
        return folder.open(own)
    folder = _Folder(recipe, recipe.data.folder)
    if not recipe.data.holdout or "validation" in folder.splits:
        return folder.open(split)
    reader = HeldOut(folder.open("train"), recipe.data.holdout, split == "validation")
    if not len(reader):
        raise NoSplitError(
            f"{recipe.data.folder} has no validation files, and is too small to hold any out"
        )
    return reader


def _open_extracted(recipe: Recipe, device: torch.device) -> Extracted | PartlyExtracted:
    folder, config = Path(recipe.data.extracted), recipe.model
    if read_layout(folder).whole:
        return Extracted(folder, recipe, config, device)
    reader = open_reader(recipe, "train")
    return PartlyExtracted(
        folder, recipe, config, device, lambda remap: Samples(reader, recipe, True, device, remap)
    )


class _Folder:
    """A folder of a recipe's kind of data, before a split of it is opened."""

    def __init__(self, recipe: Recipe, path: str):
        self.recipe, self.path = recipe, Path(path)
        self.has_classes = recipe.data.kind == "imagenet" and has_class_folders(self.path)
        self.listing = Listing(self.path, []) if self.has_classes else list_files(self.path)

    @property
    def splits(self) -> Counter:
        """Split -> files (or class folders' roots, or folders of pairs) that belong to it."""
        if self.has_classes:
            return Counter(s for s, name in SPLITS.items() if (self.path / name).is_dir())
        pairs = self.recipe.data.kind == "seed-edit"
        found = Counter(pair_splits(self.listing)) if pairs else Counter()
        for files in tables(self.listing).values():
            found.update(split_of(file, self.path) for file in files)
        return found

    def open(self, split: str) -> Reader:
        reader = self._open(split)
        reader.others = Counter({s: n for s, n in self.splits.items() if s != split})
        return reader

    def _open(self, split: str) -> Reader:
        recipe, listing = self.recipe, self.listing
        images = Path(recipe.data.images) if recipe.data.images else None
        found = SplitTables(listing, split, images, recipe.data.columns)
        if recipe.data.kind == "seed-edit":
            return SeedEdit(found)
        if recipe.data.kind == "multigen":
            return MultiGen(found, recipe.data.control)
        classes = recipe.model.condition.classes
        if self.has_classes or not tables(listing):
            controls = Path(recipe.data.controls) if recipe.data.controls else None
            labelled = Path(recipe.data.folder) / "train"
            return ImageNet(self.path, split, controls, recipe.data.control, classes, labelled)
        if recipe.data.controls:
            raise ValueError(
                "recipe: controls is for class folders; give these tables a column "
                f"control_{recipe.data.control}, or leave it empty to draw maps while training"
            )
        return LabelledRows(found, recipe.data.control, classes)


def _check(recipe: Recipe) -> None:
    if not recipe.data.folder:
        raise ValueError(f"recipe: data {recipe.data.kind} needs folder, where it lies")
    if recipe.data.kind == "seed-edit":
        return
    if recipe.data.control not in PREPROCESSORS or recipe.data.control == "none":
        known = ", ".join(name for name in PREPROCESSORS if name != "none")
        raise ValueError(f"recipe: control must be one of {known}, not {recipe.data.control!r}")


class ToyEdits:
    """ToyScenes pairs as editing examples."""

    def __init__(self, recipe: Recipe, split: str, device: torch.device):
        self.scenes = ToyScenes(
            split, recipe.data.size, recipe.data.objects, device=device, wild=recipe.data.wild
        )

    def batch(self, indices: Sequence[int]) -> RawBatch:
        scene = self.scenes.batch(indices)
        label = torch.full((len(indices),), -1, device=scene.source.device)
        return RawBatch(
            scene.source, scene.target, scene.instruction, label, scene.mask, scene.mask
        )

    def fingerprint(self) -> dict:
        return {}  # the recipe decides them
