"""Tables of examples on disk, whatever holds them: `len(rows)`, `rows[i] -> dict`, `rows.blocks`.

    *.jsonl      one JSON object a line, image columns are paths relative to the file
    *.parquet    as the Hugging Face Hub stores data sets; image columns are {"bytes", "path"}
    *.arrow      what `datasets.save_to_disk` writes; image columns are bytes or {"bytes", "path"}
    *.tar        WebDataset shards: members KEY.COLUMN.EXTENSION and KEY.json

Nothing is held in memory but an index. `blocks` are runs of rows that are cheap to read together:
one row group of a parquet file, everything where any row is cheap.
"""

from __future__ import annotations

import json
import tarfile
import threading
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path

import numpy as np

BLOCKS_TOGETHER = 8  # blocks whose rows are shuffled among each other, and so read at one time


def open_rows(folder: Path, split: str) -> Rows:
    """The rows of a split: of files whose name or folder starts with it (`train-00000.parquet`,
    `validation.jsonl`, `train/data-0.arrow`); files that name no split are all "train".

    Raises:
        ValueError: there is no such folder, or no file of the split in it.
    """
    if not folder.exists():
        raise ValueError(f"there is no data folder {folder}")
    for suffix, kind in KINDS.items():
        found = [folder] if folder.suffix == suffix else sorted(folder.rglob(f"*{suffix}"))
        files = [file for file in found if _split_of(file, folder) == split]
        if files:
            return kind(files)
        if found:
            raise ValueError(
                f"{folder} has no {split} files; name them {split}*{suffix}, or put them into a "
                f"folder {split}"
            )
    raise ValueError(f"{folder} holds none of {', '.join('*' + suffix for suffix in KINDS)}")


def _split_of(file: Path, folder: Path) -> str:
    names = [file.name, *(part for part in file.relative_to(folder).parts[:-1])]
    for name in names:
        if name.startswith(("validation", "val", "test")):
            return "test" if name.startswith("test") else "validation"
    return "train"


class Rows:
    """What all of them share: `counts` rows in each file (or block), found by bisection."""

    def __init__(self, counts: list[int], places: list):
        self.places = places
        self.ends = list(accumulate(counts))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @property
    def blocks(self) -> list[range]:
        return [range(len(self))]

    def __getitem__(self, i: int) -> dict:
        if not 0 <= i < len(self):
            raise IndexError(i)
        part = bisect_right(self.ends, i)
        return self.row(self.places[part], i - (self.ends[part - 1] if part else 0))

    def name(self, i: int) -> str:
        """Where row i is, for messages."""
        part = bisect_right(self.ends, i)
        start = self.ends[part - 1] if part else 0
        return f"{self.file(self.places[part]).name} row {i - start}"

    def file(self, place) -> Path:
        return place

    def folder(self, i: int) -> Path:
        """What paths in row i are relative to."""
        return self.file(self.places[bisect_right(self.ends, i)]).parent

    def row(self, place, i: int) -> dict:
        raise NotImplementedError


class JsonLines(Rows):
    """Lines found by their byte offsets: a file of millions costs 8 bytes a line."""

    def __init__(self, files: list[Path]):
        self.offsets = {file: _line_starts(file) for file in files}
        super().__init__([len(self.offsets[file]) for file in files], files)

    def row(self, place: Path, i: int) -> dict:
        with place.open("rb") as file:
            file.seek(self.offsets[place][i])
            return json.loads(file.readline())


class Parquet(Rows):
    """Row groups, of which the last few read stay in memory."""

    def __init__(self, files: list[Path]):
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        places, counts = [], []
        self.open, self.cache, self.lock = {}, OrderedDict(), threading.Lock()
        for file in files:
            try:
                self.open[file] = ParquetFile(file)
            except (ArrowException, OSError) as error:
                raise ValueError(f"{file} is damaged or not parquet: {error}") from None
            metadata = self.open[file].metadata
            for group in range(metadata.num_row_groups):
                places.append((file, group))
                counts.append(metadata.row_group(group).num_rows)
        super().__init__(counts, places)

    @property
    def blocks(self) -> list[range]:
        starts = [0, *self.ends[:-1]]
        return [range(start, end) for start, end in zip(starts, self.ends, strict=True)]

    def file(self, place) -> Path:
        return place[0]

    def row(self, place, i: int) -> dict:
        with self.lock:
            if place not in self.cache:
                file, group = place
                self.cache[place] = self.open[file].read_row_group(group)
            self.cache.move_to_end(place)
            while len(self.cache) > 2 * BLOCKS_TOGETHER:  # those in use and those read ahead
                self.cache.popitem(last=False)
            table = self.cache[place]
        return {name: table[name][i].as_py() for name in table.column_names}


class Arrow(Rows):
    """Memory-mapped Arrow streams."""

    def __init__(self, files: list[Path]):
        import pyarrow

        tables = []
        for file in files:
            state = file.parent / "state.json"
            if state.is_file() and json.loads(state.read_text()).get("_indices_files"):
                raise ValueError(f"{file.parent} is a shuffled view; call flatten_indices() first")
            try:
                tables.append((file, pyarrow.ipc.open_stream(pyarrow.memory_map(str(file)))))
            except (pyarrow.ArrowException, OSError) as error:
                raise ValueError(f"{file} is damaged or not an Arrow stream: {error}") from None
        self.tables = {file: stream.read_all() for file, stream in tables}
        super().__init__([len(self.tables[file]) for file in files], files)

    def row(self, place: Path, i: int) -> dict:
        table = self.tables[place]
        return {name: table[name][i].as_py() for name in table.column_names}


class Tar(Rows):
    """Uncompressed WebDataset shards, indexed once by their headers, then read by seeking."""

    def __init__(self, files: list[Path]):
        self.members = {file: _tar_index(file) for file in files}
        super().__init__([len(self.members[file]) for file in files], files)

    def row(self, place: Path, i: int) -> dict:
        row: dict = {}
        with place.open("rb") as file:
            for column, (offset, size) in self.members[place][i].items():
                file.seek(offset)
                data = file.read(size)
                row |= json.loads(data) if column == "json" else {column: data}
        return row


KINDS = {".jsonl": JsonLines, ".parquet": Parquet, ".arrow": Arrow, ".tar": Tar}


def _line_starts(path: Path) -> np.ndarray:
    starts, offset = [], 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                starts.append(offset)
            offset += len(line)
    return np.array(starts, dtype=np.int64)


def _tar_index(path: Path) -> list[dict[str, tuple[int, int]]]:
    """Of each example, column -> (offset, bytes); KEY is everything up to the name's first dot."""
    examples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                key, _, column = name.partition(".")
                if member.isfile() and column:
                    place = (member.offset_data, member.size)
                    column = column.partition(".")[0]
                    examples.setdefault(f"{folder}/{key}", {})[column] = place
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} is damaged or compressed; unpack or re-pack it: {error}"
        ) from None
    return list(examples.values())
