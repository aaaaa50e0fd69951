"""SEED-Edit: pairs of images and the instruction that turns one into the other.

FOLDER/train.jsonl        {"source_image", "target_image", "instruction"}, relative paths
FOLDER/train/data-*.arrow a saved Hugging Face data set, images as bytes
FOLDER/train-*.parquet    the same as the Hub stores it
FOLDER/train-*.tar        WebDataset shards: KEY.source_image.jpg, KEY.target_image.jpg and
                          KEY.json with {"instruction"}
"""

from __future__ import annotations

from pathlib import Path

from train.data.multigen import readable_row, row_of
from train.data.rows import open_rows
from train.data.samples import Sample, SampleError, decoded

COLUMNS = ("source_image", "target_image", "instruction")


class SeedEdit:
    """Raises ValueError: no data of this split, or not the columns of this data set."""

    def __init__(self, folder: Path, split: str):
        self.rows = open_rows(folder, split)
        self.blocks = self.rows.blocks
        if len(self.rows):
            _require_columns(readable_row(self.rows, folder), f"{folder}: ")

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, i: int) -> str:
        return self.rows.name(i)

    def read(self, i: int) -> Sample:
        row, folder = row_of(self.rows, i)
        _require_columns(row)
        text = str(row["instruction"] or "").strip()
        if not text:
            raise SampleError("its instruction is empty")
        source, target = (decoded(row[name], folder) for name in COLUMNS[:2])
        return Sample(target, source, text)


def _require_columns(row: dict, where: str = "") -> None:
    missing = [name for name in COLUMNS if name not in row]
    if missing:
        raise SampleError(f"{where}{', '.join(missing)} missing; there is {', '.join(row)}")
