"""ImageNet: images with a class label, with or without control maps computed beforehand.

    FOLDER/train/<wnid>/<name>                       the images (validation: FOLDER/val/...)
    CONTROLS/<condition>/train/<wnid>/<name>         their maps, the same names, or .png, .jpg, ...
    FOLDER/**/train-*.parquet                        as the Hub has it: columns image, label
    FOLDER/**/train-*.tar                            WebDataset shards: KEY.jpg, KEY.cls

The label is the index of <wnid> among the sorted class folders of the training split.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from scar.images import to_map
from train.data.batch import Sample
from train.data.columns import SplitTables, Table, label_of
from train.data.files import IMAGES, find_image, is_leftover
from train.data.formats import BLOCKS_TOGETHER, fingerprint_of
from train.data.rows import NoSplitError, rows_of
from train.data.samples import decoded

SPLITS = {"train": "train", "validation": "val"}
NAMES = {"image": ("image", "jpg", "jpeg", "png", "webp"), "label": ("label", "cls"), "control": ()}


class ImageNet:
    """Class folders.

    Args:
        controls: folder of the maps; None draws them from the framed image.
        condition: which map, e.g. "canny".
        classes: how many the model has.
        labelled: the class folders of training, which number the classes.

    Raises:
        NoSplitError: the folder of this split is missing.
        ValueError: no class folders, more than `classes`, or no folder for this condition.
    """

    together = BLOCKS_TOGETHER

    def __init__(
        self,
        folder: Path,
        split: str,
        controls: Path | None,
        condition: str,
        classes: int,
        labelled: Path,
    ):
        self.root = folder / SPLITS[split]
        if not self.root.is_dir():
            raise NoSplitError(f"{folder} has no folder {SPLITS[split]} with class folders")
        self.maps = controls / condition / SPLITS[split] if controls else None
        if self.maps and not self.maps.is_dir():
            raise ValueError(
                f"there are no control maps in {self.maps}; leave `controls` empty to draw them "
                "while training"
            )
        self.skipped: Counter = Counter()
        self.classes = self._classes(labelled if labelled.is_dir() else self.root, classes)
        self.files = [
            (label, name)
            for label, wnid in enumerate(self.classes)
            for name in self._images(self.root / wnid)
        ]
        self.blocks = [range(len(self.files))]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, i: int) -> str:
        label, name = self.files[i]
        return f"{self.classes[label]}/{name}"

    def read(self, i: int) -> Sample:
        label, _ = self.files[i]
        image = decoded(self.name(i), self.root)
        return Sample(image, self._map(i), label=label)

    def fingerprint(self) -> dict:
        """By names: asking a million files for their sizes takes minutes."""
        return fingerprint_of(len(self), [self.name(i) for i in range(len(self))])

    def _map(self, i: int):
        if not self.maps:
            return None
        path = self.maps / self.name(i)
        return decoded(find_image(path) or path, convert=to_map)

    def _classes(self, labelled: Path, count: int) -> list[str]:
        found = self._folders(labelled)
        for root in {labelled, self.root}:
            images = [] if self._folders(root) else self._images(root)
            if images:
                raise ValueError(
                    f"{root} holds {len(images):,} images and no class folders, so that none has "
                    "a label; move each into the folder of its class"
                )
        if len(found) > count:
            raise ValueError(
                f"{labelled} has {len(found):,} class folders and the model {count:,} classes; "
                f"the last ones are {', '.join(found[count:][:5])}"
            )
        strange = sorted(set(self._folders(self.root)) - set(found))
        if strange:
            raise ValueError(f"{self.root} has the class {strange[0]}, which {labelled} has not")
        return found

    def _folders(self, folder: Path) -> list[str]:
        return sorted(self._kept(entry for entry in os.scandir(folder) if entry.is_dir()))

    def _images(self, folder: Path) -> list[str]:
        """Names, not paths: of 1.3 million images they take a quarter of the memory."""
        if not folder.is_dir():
            return []
        names = self._kept(entry for entry in os.scandir(folder) if not entry.is_dir())
        return sorted(name for name in names if name.lower().endswith(IMAGES))

    def _kept(self, entries) -> list[str]:
        names = [entry.name for entry in entries]
        kept = [name for name in names if not is_leftover(name)]
        self.skipped.update(set(names) - set(kept))
        return kept


class LabelledRows(Table):
    """Tables of images and labels; a map is drawn where there is no column for it.

    Args:
        classes: how many the model has.

    Raises:
        ValueError: no data of this split, or not the columns of this data set.
    """

    required, pictures = ("image", "label"), ("image",)

    def __init__(self, files: SplitTables, condition: str, classes: int):
        self.labels = classes
        rows = rows_of(files.listing, files.split)
        super().__init__(rows, files, NAMES | {"control": (f"control_{condition}",)})

    def read(self, i: int) -> Sample:
        row, folder = self.row(i)
        image, label = self.columns.require(row, self.required)
        control = self.columns.find(row, "control")
        return Sample(
            decoded(row[image], folder),
            decoded(row[control], folder, to_map) if control else None,
            label=label_of(row[label], self.labels),
        )


def has_class_folders(folder: Path) -> bool:
    """Whether a split of `folder` holds folders or images; no more than a look at the first one."""
    roots = [folder / name for name in SPLITS.values()]
    entries = (entry for root in roots if root.is_dir() for entry in os.scandir(root))
    return any(
        entry.is_dir() or entry.name.lower().endswith(IMAGES)
        for entry in entries
        if not is_leftover(entry.name)
    )
