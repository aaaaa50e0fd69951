"""Pairs of images and the instruction that turns one into the other: SEED-Edit, InstructPix2Pix,
MagicBrush, and one's own.

FOLDER/train.jsonl        {"source_image", "target_image", "instruction"}, relative paths
FOLDER/annotations/*.jsonl  SEED-Data-Edit's, with images: FOLDER/images
FOLDER/train.csv          the same columns
FOLDER/train/data-*.arrow a saved Hugging Face data set, images as bytes
FOLDER/train-*.parquet    the same as the Hub stores it
FOLDER/train-*.tar        WebDataset shards: KEY.source_image.jpg, KEY.target_image.jpg and
                          KEY.json with {"instruction"}
FOLDER/{source,target}/*  images of the same names, and FOLDER/instructions.txt, see `PairFolders`
"""

from __future__ import annotations

from train.data.batch import Sample
from train.data.columns import SplitTables, Table, text_of
from train.data.files import Listing
from train.data.pairs import open_pairs
from train.data.rows import rows_of, tables
from train.data.samples import SampleError, decoded

NAMES = {
    "source_image": (
        "source_image",
        "source_img",  # MagicBrush
        "original_image",  # InstructPix2Pix
        "input_image",
        "source",
        "before",
    ),
    "target_image": (
        "target_image",
        "target_img",
        "edited_image",
        "output_image",
        "target",
        "after",
    ),
    "instruction": ("instruction", "edit_prompt", "edit", "prompt", "text", "txt"),
}


class SeedEdit(Table):
    """Pairs of images and instructions.

    Raises:
        ValueError: no data of this split, or not the columns of this data set.
    """

    required = tuple(NAMES)
    pictures = required[:2]

    def __init__(self, files: SplitTables):
        _refuse_two_annotations(files.listing)
        rows = open_pairs(files.listing, files.split) or rows_of(files.listing, files.split)
        super().__init__(rows, files, NAMES)

    def read(self, i: int) -> Sample:
        row, folder = self.row(i)
        *images, instruction = self.columns.require(row, self.required)
        text = text_of(row[instruction], instruction)
        if not text:
            raise SampleError("its instruction is empty")
        source, target = (decoded(row[name], folder) for name in images)
        return Sample(target, source, text)


def _refuse_two_annotations(listing: Listing) -> None:
    """SEED-Data-Edit tells the same edits in annotations/, and some again in annotations_GPT4V/."""
    files = [file for found in tables(listing).values() for file in found]
    folders = sorted({f.parent for f in files if f.parent.name.startswith("annotations")})
    if len(folders) > 1:
        raise ValueError(
            f"{' and '.join(map(str, folders))} tell the same edits: choose one, for example "
            f"folder={folders[0]} images={folders[0].parent / 'images'}"
        )
