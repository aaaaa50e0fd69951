"""Which files of a folder are data: the one walk and the one list of names that never count."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path

IMAGES = (".jpeg", ".jpg", ".png", ".webp")
TABLES = (".parquet", ".arrow", ".tar", ".jsonl", ".csv", ".tsv", ".json")
PACKED = (".gz", ".tgz", ".zip", ".7z", ".part-aa", ".partaa")
PAIR_FOLDERS = ("source", "target")
OWN = ({"recipe.json", "metrics.jsonl"}, {"extracted.json"})  # what a run or extraction wrote
# What systems and tools leave behind, as fnmatch patterns of lower-case names.
LEFTOVERS = (
    ".*",  # hidden: .ipynb_checkpoints, .DS_Store, ._companions of copies
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),  # of a NAS
    *("$recycle.bin", "system volume information", "thumbs.db", "desktop.ini"),  # of Windows
    *("__macosx", "__pycache__", "lost+found"),
    *("_success", "_temporary", "_metadata", "_common_metadata", "_delta_log"),  # Spark's marks
    "cache-*.arrow",  # results that `datasets` keeps for another call
    *("*~", "*.bak", "*.backup", "*.old", "*.orig", "*.swp", "*.lock"),
    *("*.tmp", "*.temp", "*.part", "*.partial", "*.crdownload", "*.incomplete"),
)
SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "test",
    "testing": "test",
}
_WORD = "|".join(sorted(SPLITS, key=len, reverse=True))
# A split's name stands at the start of a file's, before its number, or alone: train-00000,
# coco_val2017, set-test-0003-of-0010; `valentine` and `crash_test_dummies` name none.
_SPLIT = re.compile(rf"^({_WORD})\d*(?:[-_.]|$)|(?:^|[-_.])({_WORD})\d*(?:[-_.]\d.*)?$", re.I)
_LEFTOVER = re.compile("|".join(map(translate, LEFTOVERS)), re.I)
_FOLDER = re.compile(rf"({_WORD})\d*", re.I)


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is never data."""
    return _LEFTOVER.match(name) is not None


@dataclass
class Listing:
    """The tables below `root` and what lies in folders of pairs, sorted; what was skipped by name,
    and how often."""

    root: Path
    files: list[Path]
    skipped: Counter = field(default_factory=Counter)


def list_files(root: Path) -> Listing:
    """Walk a folder, or take the file itself; symbolic links are followed, to each folder once.

    Raises:
        ValueError: there is no such folder or file.
    """
    if not root.exists():
        raise ValueError(f"there is no data folder {root}")
    listing = Listing(root, [])
    if root.is_file():
        listing.files.append(root)
        return listing
    visited = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:  # a link to where the walk has been
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        if any(mark <= set(names) for mark in OWN):
            listing.skipped[os.path.basename(folder)] += 1
            folders.clear()
            continue
        listing.skipped.update(filter(is_leftover, [*folders, *names]))
        folders[:] = sorted(name for name in folders if not is_leftover(name))
        pairs = os.path.basename(folder) in PAIR_FOLDERS
        # Not every name: beside a table there may be millions of images.
        listing.files += [
            Path(folder, name)
            for name in names
            if (pairs or name.lower().endswith(TABLES + PACKED)) and not is_leftover(name)
        ]
    listing.files.sort()
    return listing


def split_of(file: Path, root: Path) -> str:
    """ "train", "validation" or "test"; files that name no split are "train"."""
    return named_split(file, root) or "train"


def named_split(file: Path, root: Path) -> str | None:
    """What the nearest folder below `root` that is named like a split says, else the file's name;
    None where no name says a split."""
    folders = file.relative_to(root).parts[:-1] if file != root else ()
    for part in reversed(folders):
        found = _FOLDER.fullmatch(part.partition(".")[0])  # Spark: train.parquet/part-00000
        if found:
            return SPLITS[found[1].lower()]
    found = _SPLIT.search(file.stem)
    return SPLITS[(found[1] or found[2]).lower()] if found else None


def find_image(path: Path) -> Path | None:
    """The file itself, or one beside it of the same stem with another image suffix."""
    if path.exists():
        return path
    for suffix in IMAGES:
        for other in (path.with_suffix(suffix), path.with_suffix(suffix.upper())):
            if other.exists():
                return other
    return None


def natural(name: str) -> list:
    """A sort key by which 2.png comes before 10.png."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
