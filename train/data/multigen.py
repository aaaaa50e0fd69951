"""MultiGen-20M: captioned images with control maps.

    FOLDER/**/train-*.parquet      the Hub's: columns image, text and, for depth, control_depth
    FOLDER/train.jsonl             the original's: {"image_path", "prompt", "control_hed_path", ...}
    FOLDER/**/train-*.tar          WebDataset shards: KEY.image.jpg, KEY.json with {"text"}, and
                                   perhaps KEY.control_hed.png

The original names one kind of map; others lie in sibling folders (`control_hed` -> `control_canny`
in the path). A map that is not there is drawn from the framed image.
"""

from __future__ import annotations

import re
from pathlib import Path

from train.data.rows import open_rows
from train.data.samples import Sample, SampleError, decoded

JUDGED_BY = 20  # rows, of which one must be readable
KINDS = "hed|lineart|canny|seg|depth|sketch"


class MultiGen:
    """Args:
        condition: which map, e.g. "depth".

    Raises:
        ValueError: no data of this split, or not the columns of this data set.
    """

    def __init__(self, folder: Path, split: str, condition: str):
        self.rows = open_rows(folder, split)
        self.condition = condition
        self.blocks = self.rows.blocks
        if len(self.rows):
            self._columns(readable_row(self.rows, folder), f"{folder}: ")

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, i: int) -> str:
        return self.rows.name(i)

    def read(self, i: int) -> Sample:
        row, folder = row_of(self.rows, i)
        image, text = self._columns(row)
        control = self._control(row)
        return Sample(
            decoded(row[image], folder),
            decoded(control, folder) if control else None,
            str(row[text] or ""),
        )

    def _control(self, row: dict):
        if f"control_{self.condition}" in row:
            return row[f"control_{self.condition}"]
        paths = {key: value for key, value in row.items() if re.fullmatch(r"control_\w+_path", key)}
        own = paths.get(f"control_{self.condition}_path")
        if own or not paths:
            return own
        other = next(iter(paths.values()))
        return re.sub(f"control_({KINDS})", f"control_{self.condition}", str(other))

    def _columns(self, row: dict, where: str = "") -> tuple[str, str]:
        for pair in (("image", "text"), ("image_path", "prompt")):
            if all(name in row for name in pair):
                return pair
        raise SampleError(
            f"{where}needs image and text, or image_path and prompt; it has {', '.join(row)}"
        )


def row_of(rows, i: int) -> tuple[dict, Path]:
    """A row and the folder its paths are relative to; what is wrong with it as SampleError."""
    try:
        row, folder = rows[i], rows.folder(i)
    except (ValueError, OSError) as error:
        raise SampleError(f"its row cannot be read ({error})") from None
    if not isinstance(row, dict):
        raise SampleError("its row is no mapping of columns")
    return row, folder


def readable_row(rows, folder: Path) -> dict:
    """The first row that can be read, to judge the columns by; one damaged row is no reason to
    stop."""
    for i in range(min(len(rows), JUDGED_BY)):
        try:
            return row_of(rows, i)[0]
        except SampleError:
            continue
    raise SampleError(f"{folder}: none of the first rows can be read")
