"""Which tables of a folder hold a split, and which of them are data at all."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from train.data.files import PACKED, Listing, list_files, named_split, split_of
from train.data.formats import FORMATS, Rows


class NoSplitError(ValueError):
    """Data without a file of the split that was asked for."""


def open_rows(folder: Path, split: str) -> Rows:
    """The rows of a split of what lies in a folder; raises as `rows_of`."""
    return rows_of(list_files(folder), split)


def rows_of(listing: Listing, split: str) -> Rows:
    """The rows of a split.

    Raises:
        NoSplitError: none of the tables is of this split.
        ValueError: there are no tables, or two kinds of them.
    """
    suffix, files = split_files(listing, split)
    return FORMATS[suffix](files)


def split_files(listing: Listing, split: str) -> tuple[str, list[Path]]:
    """The files of a split and their suffix; raises as `rows_of`. Opens none of them."""
    root, found = listing.root, tables(listing)
    if not found:
        packed = [file.name for file in listing.files if file.name.endswith(PACKED)]
        hint = f"; unpack {packed[0]} first" if packed else ""
        known = "*.parquet, *.arrow, *.tar, *.jsonl, *.csv, *.json"
        raise ValueError(f"{root} holds none of {known}{hint}")
    of_split = {
        suffix: [file for file in files if split_of(file, root) == split]
        for suffix, files in found.items()
    }
    of_split = {suffix: files for suffix, files in of_split.items() if files}
    if not of_split:
        raise NoSplitError(
            f"{root} has no {split} files; name them {split}*{next(iter(found))}, or put them "
            f"into a folder {split}"
        )
    # metadata.jsonl beside train-*.parquet is not what is meant.
    named = {
        suffix: files
        for suffix, files in of_split.items()
        if any(named_split(file, root) == split for file in files)
    }
    chosen = named if named else of_split
    if len(chosen) > 1:
        examples = " and ".join(files[0].name for files in chosen.values())
        raise ValueError(f"{root} holds {examples}, both {split}: move one kind elsewhere")
    return next(iter(chosen.items()))


def other_splits(listing: Listing, split: str) -> Counter:
    """Of the other splits, how many tables there are."""
    files = [file for files in tables(listing).values() for file in files]
    counts = Counter(split_of(file, listing.root) for file in files)
    return Counter({name: count for name, count in counts.items() if name != split})


def tables(listing: Listing) -> dict[str, list[Path]]:
    """Suffix -> the files of it that are data. A .json is taken for one only where nothing else
    is: most are descriptions."""
    found: dict[str, list[Path]] = {suffix: [] for suffix in FORMATS}
    for file in listing.files:
        if file.suffix.lower() in found:
            found[file.suffix.lower()].append(file)
    found[".arrow"] = _saved(found[".arrow"])
    found = {suffix: files for suffix, files in found.items() if files}
    if len(found) > 1:
        found.pop(".json", None)
    return found


def _saved(files: list[Path]) -> list[Path]:
    """Of a folder that `datasets.save_to_disk` wrote, the files that its state.json lists."""
    kept = []
    for folder in sorted({file.parent for file in files}):
        inside = [file for file in files if file.parent == folder]
        state = folder / "state.json"
        if not state.is_file():
            kept += inside
            continue
        try:
            facts = json.loads(state.read_text())
            listed = [entry["filename"] for entry in facts.get("_data_files") or []]
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            raise ValueError(f"{state} cannot be read: {error}") from None
        if facts.get("_indices_files"):
            raise ValueError(f"{folder} is a shuffled view; call flatten_indices() first")
        missing = [name for name in listed if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"{state} lists {missing[0]}, which is not there; copy it again")
        kept += [folder / name for name in listed] if listed else inside
    return kept
