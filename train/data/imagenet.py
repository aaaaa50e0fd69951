"""ImageNet class folders, with or without control maps computed beforehand.

    FOLDER/train/<wnid>/<name>                       the images (validation: FOLDER/val/...)
    CONTROLS/<condition>/train/<wnid>/<name>         their maps, the same names, or .png

The label is the index of <wnid> among the sorted class folders of the training split.
"""

from __future__ import annotations

import os
from pathlib import Path

from train.data.samples import Sample, decoded

IMAGES = (".jpeg", ".jpg", ".png", ".webp")
SPLITS = {"train": "train", "validation": "val"}


class ImageNet:
    """Args:
        controls: folder of the maps; None draws them from the framed image.
        condition: which map, e.g. "canny".

    Raises:
        ValueError: no class folders, or no folder for this condition.
    """

    def __init__(self, folder: Path, split: str, controls: Path | None, condition: str):
        self.root = folder / SPLITS[split]
        if not self.root.is_dir():
            raise ValueError(f"{folder} has no folder {SPLITS[split]} with class folders")
        self.maps = controls / condition / SPLITS[split] if controls else None
        if self.maps and not self.maps.is_dir():
            raise ValueError(
                f"there are no control maps in {self.maps}; leave `controls` empty to draw them "
                "while training"
            )
        labelled = folder / "train" if (folder / "train").is_dir() else self.root
        self.classes = sorted(entry.name for entry in os.scandir(labelled) if entry.is_dir())
        self.files = [
            (label, name)
            for label, wnid in enumerate(self.classes)
            for name in _images(self.root / wnid)
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

    def _map(self, i: int):
        if not self.maps:
            return None
        same = self.maps / self.name(i)
        return decoded(same if same.exists() else same.with_suffix(".png"))


def _images(folder: Path) -> list[str]:
    """Names, not paths: of 1.3 million images they take a quarter of the memory."""
    if not folder.is_dir():
        return []
    names = [entry.name for entry in os.scandir(folder)]
    return sorted(name for name in names if name.lower().endswith(IMAGES))
