"""Tables of examples on disk, whatever holds them: `len(rows)`, `rows[i] -> dict`, `rows.blocks`.

    *.jsonl, *.json   one JSON object a line, image columns are paths relative to the file
    *.csv, *.tsv      a line of column names, then one example a line; paths as above
    *.parquet         as the Hugging Face Hub stores data sets; image columns are {"bytes", "path"}
    *.arrow           what `datasets.save_to_disk` writes; image columns are bytes or as above
    *.tar             WebDataset shards: members KEY.COLUMN.EXTENSION or KEY.COLUMN, and KEY.json

Nothing is held in memory but an index. `blocks` are runs of rows that are cheap to read together:
one row group of a parquet file, everything where any row is cheap.
"""

from __future__ import annotations

import csv
import hashlib
import json
import tarfile
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import numpy as np

from train.data.files import is_leftover

BLOCKS_TOGETHER = 8  # blocks whose rows are shuffled among each other, and so read at one time
KEPT_OPEN = 32  # files; MultiGen-20M has 2,433, and a process may often open 1,024
CACHE_BYTES = 2**30  # of row groups in memory


class Rows:
    """What all of them share: `counts` rows in each file (or block), found by bisection.

    Attributes:
        files: what is read.
        together: blocks that the shuffling may keep in use at one time.
    """

    together = BLOCKS_TOGETHER

    def __init__(self, files: list[Path], counts: list[int], places: list):
        self.files, self.places = files, places
        self.ends = list(accumulate(counts))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @property
    def blocks(self) -> list[range]:
        return [range(len(self))]

    def __getitem__(self, i: int) -> dict:
        part, row = self._find(i)
        return self.row(self.places[part], row)

    def name(self, i: int) -> str:
        """Where row i is, for messages."""
        part, row = self._find(i)
        return f"{self.file(self.places[part]).name} row {row}"

    def folder(self, i: int) -> Path:
        """What paths in row i are relative to."""
        return self.file(self.places[self._find(i)[0]]).parent

    def fingerprint(self, root: Path) -> dict:
        """Changes when rows or files come, go or grow."""
        return fingerprint_of(
            len(self), [f"{_relative(f, root)} {f.stat().st_size}" for f in self.files]
        )

    def file(self, place) -> Path:
        return place

    def row(self, place, i: int) -> dict:
        raise NotImplementedError

    def _find(self, i: int) -> tuple[int, int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        part = bisect_right(self.ends, i)
        return part, i - (self.ends[part - 1] if part else 0)


def fingerprint_of(samples: int, names: list[str]) -> dict:
    """A record of data that is compared with a later one."""
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    return {"samples": samples, "files": len(names), "digest": digest}


class OpenFiles:
    """At most KEPT_OPEN files, of which the one unused for longest is let go first."""

    def __init__(self, opener: Callable, closer: Callable = lambda opened: None):
        self.opener, self.closer = opener, closer
        self.opened: OrderedDict[Path, object] = OrderedDict()

    def __getitem__(self, file: Path):
        if file not in self.opened:
            self.opened[file] = self.opener(file)
        self.opened.move_to_end(file)
        while len(self.opened) > KEPT_OPEN:
            self.closer(self.opened.popitem(last=False)[1])
        return self.opened[file]


class JsonLines(Rows):
    """Lines found by their byte offsets: a file of millions costs 8 bytes a line."""

    def __init__(self, files: list[Path]):
        self.offsets = {file: _line_starts(file) for file in files}
        super().__init__(files, [len(self.offsets[file]) for file in files], files)

    def row(self, place: Path, i: int) -> dict:
        with place.open("rb") as file:
            file.seek(self.offsets[place][i])
            return json.loads(file.readline())


class Csv(Rows):
    """Comma, semicolon or tab, as the first line has most of; held in memory."""

    def __init__(self, files: list[Path]):
        self.lines = {file: _csv_rows(file) for file in files}
        super().__init__(files, [len(self.lines[file]) for file in files], files)

    def row(self, place: Path, i: int) -> dict:
        return self.lines[place][i]


class Parquet(Rows):
    """Row groups, of which those read last stay in memory, CACHE_BYTES of them at most."""

    def __init__(self, files: list[Path]):
        places, counts, largest = [], [], 1
        self.open = OpenFiles(_parquet, lambda opened: opened.close())
        self.cache, self.held, self.lock = OrderedDict(), 0, threading.Lock()
        for file in files:
            metadata = self.open[file].metadata
            for group in range(metadata.num_row_groups):
                facts = metadata.row_group(group)
                places.append((file, group))
                counts.append(facts.num_rows)
                largest = max(largest, facts.total_byte_size)
        # The groups in use and as many that are read ahead have to fit.
        self.together = min(max(CACHE_BYTES // (2 * largest), 1), BLOCKS_TOGETHER)
        super().__init__(files, counts, places)

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
                self.held += self.cache[place].nbytes
            self.cache.move_to_end(place)
            table = self.cache[place]
            while self.held > CACHE_BYTES and len(self.cache) > 1:
                self.held -= self.cache.popitem(last=False)[1].nbytes
        return _table_row(table, i)


class Arrow(Rows):
    """Memory-mapped Arrow streams."""

    def __init__(self, files: list[Path]):
        self.tables, self.lock = OpenFiles(_arrow), threading.Lock()
        super().__init__(files, [len(self.tables[file]) for file in files], files)

    def row(self, place: Path, i: int) -> dict:
        with self.lock:
            table = self.tables[place]
        return _table_row(table, i)


class Tar(Rows):
    """Uncompressed WebDataset shards, indexed once by their headers, then read by seeking."""

    def __init__(self, files: list[Path]):
        self.members = {file: _tar_index(file) for file in files}
        super().__init__(files, [len(self.members[file]) for file in files], files)

    def row(self, place: Path, i: int) -> dict:
        row: dict = {}
        with place.open("rb") as file:
            for column, (offset, size) in self.members[place][i].items():
                file.seek(offset)
                row[column] = file.read(size)
        if "json" not in row:
            return row
        facts = json.loads(row.pop("json"))
        if not isinstance(facts, dict):
            raise ValueError(f"its json is {facts!r:.40}, not a mapping of columns")
        return facts | row


FORMATS = {
    ".parquet": Parquet,
    ".arrow": Arrow,
    ".tar": Tar,
    ".jsonl": JsonLines,
    ".csv": Csv,
    ".tsv": Csv,
    ".json": JsonLines,
}


def _parquet(path: Path):
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged or not parquet: {error}") from None


def _arrow(path: Path):
    import pyarrow

    try:
        return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged or not an Arrow stream: {error}") from None


def _table_row(table, i: int) -> dict:
    return {name: table[name][i].as_py() for name in table.column_names}


def _line_starts(path: Path) -> np.ndarray:
    starts, offset = [], 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                starts.append(offset)
                if offset == 0 and line.lstrip().startswith(b"["):
                    raise ValueError(f"{path} is one JSON list; write an object on each line")
            offset += len(line)
    return np.array(starts, dtype=np.int64)


def _csv_rows(path: Path) -> list[dict]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            return list(csv.DictReader(file, delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged or not UTF-8: {error}") from None


def _tar_index(path: Path) -> list[dict[str, tuple[int, int]]]:
    """Of each example, column -> (offset, bytes); KEY is everything up to the name's first dot."""
    examples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                key, _, column = name.partition(".")
                leftover = any(map(is_leftover, Path(member.name).parts))
                if member.isfile() and column and not leftover:
                    place = (member.offset_data, member.size)
                    column = column.partition(".")[0]
                    examples.setdefault(f"{folder}/{key}", {})[column] = place
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} is damaged or compressed; unpack or re-pack it: {error}"
        ) from None
    return list(examples.values())


def _relative(file: Path, root: Path) -> str:
    return str(file.relative_to(root)) if file != root else file.name
