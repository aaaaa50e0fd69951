"""MultiGen-20M: captioned images with control maps.

    FOLDER/**/train-*.parquet      the Hub's: columns image, text and, for depth, control_depth
    FOLDER/train.jsonl             the original's: {"image_path", "prompt", "control_hed_path", ...}
    FOLDER/json_files/*_hed_*.json UniControl's: {"source", "prompt", "control_hed"} on each line
    FOLDER/**/train-*.tar          WebDataset shards: KEY.image.jpg, KEY.json with {"text"}, and
                                   perhaps KEY.control_hed.png
    FOLDER/train.csv               image,prompt: a path and a sentence

The original names one kind of map; others lie in sibling folders (`control_hed` -> `control_canny`
in the path). A map that is not there is drawn from the framed image.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from scar.images import to_map
from train.data.batch import Sample
from train.data.columns import SplitTables, Table, text_of
from train.data.files import Listing, find_image
from train.data.rows import rows_of
from train.data.samples import decoded

KINDS = "hedsketch|hed|lineart|canny|seg|depth|sketch|normal|openpose|bbox|grayscale"
NAMES = {
    "image": ("image", "image_path", "source", "file_name", "jpg", "jpeg", "png", "webp"),
    "text": ("text", "prompt", "caption", "txt"),
    "control": (),
}
_KIND = re.compile(rf"(?:^|[-_])({KINDS})(?=[-_.]|$)")


class MultiGen(Table):
    """Args:
        condition: which map, e.g. "depth".

    Raises:
        ValueError: no data of this split, or not the columns of this data set.
    """

    required, pictures = ("image", "text"), ("image",)

    def __init__(self, files: SplitTables, condition: str):
        self.condition = condition
        own = (f"control_{condition}", f"control_{condition}_path")
        if "control" in files.renamed:
            self.required = ("image", "text", "control")
        rows = rows_of(of_condition(files.listing, condition), files.split)
        super().__init__(rows, files, NAMES | {"control": own})

    def read(self, i: int) -> Sample:
        row, folder = self.row(i)
        image, text, *_ = self.columns.require(row, self.required)
        control = self._control(row, folder)
        return Sample(
            decoded(row[image], folder),
            decoded(control, folder, to_map) if control else None,
            text_of(row[text], text),
        )

    def _control(self, row: dict, folder: Path):
        own = self.columns.find(row, "control")
        if own:
            return row[own]
        for name, path in row.items():
            kind = re.fullmatch(rf"control_({KINDS})(?:_path)?", name)
            if kind and isinstance(path, str):
                sibling = path.replace(f"control_{kind[1]}", f"control_{self.condition}")
                return find_image(folder / sibling) if sibling != path else None
        return None


def of_condition(listing: Listing, condition: str) -> Listing:
    """Without the tables of other maps where the same images are listed once for each kind, as
    UniControl does: of the condition if there are such, else of one other."""
    kinds = {file: _KIND.search(file.stem) for file in listing.files}
    found = sorted({kind[1] for kind in kinds.values() if kind})
    if not found:
        return listing
    chosen = condition if condition in found else found[0]
    kept = [file for file, kind in kinds.items() if not kind or kind[1] == chosen]
    return replace(listing, files=kept)
