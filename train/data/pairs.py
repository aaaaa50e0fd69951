"""A folder of pairs, as people make it by hand."""

from __future__ import annotations

from pathlib import Path

from train.data.files import IMAGES, PAIR_FOLDERS, Listing, natural, split_of
from train.data.formats import Rows


class PairFolders(Rows):
    """source/NAME, target/NAME (any image suffix), and instructions.txt beside the two folders.

    Its lines are NAME, a tab and the instruction; or the instructions alone, a line for each source
    in the order of names (2.png before 10.png). Each of `folders` holds such a trio.

    Raises:
        ValueError: an image without its partner, or another number of lines than of pairs.
    """

    def __init__(self, folders: dict[Path, list[Path]]):
        self.pairs = {folder: _pairs(folder, files) for folder, files in folders.items()}
        files = [file for inside in folders.values() for file in inside]
        files += [folder / "instructions.txt" for folder in folders]
        counts = [len(pairs) for pairs in self.pairs.values()]
        super().__init__(files, counts, list(self.pairs))

    def folder(self, i: int) -> Path:
        return self.places[self._find(i)[0]]

    def row(self, place: Path, i: int) -> dict:
        return dict(
            zip(("source_image", "target_image", "instruction"), self.pairs[place][i], strict=True)
        )

    def name(self, i: int) -> str:
        part, row = self._find(i)
        return self.pairs[self.places[part]][row][0]


def open_pairs(listing: Listing, split: str) -> PairFolders | None:
    """None where there are no such folders of this split."""
    found = pair_folders(listing)
    folders = {f: files for f, files in found.items() if _split(f, listing.root) == split}
    return PairFolders(folders) if folders else None


def pair_splits(listing: Listing) -> list[str]:
    """The split of each folder that holds a source/ and a target/."""
    return [_split(folder, listing.root) for folder in pair_folders(listing)]


def pair_folders(listing: Listing) -> dict[Path, list[Path]]:
    """Folder -> the images in its source/ and target/."""
    folders: dict[Path, list[Path]] = {}
    for file in listing.files:
        if file.parent.name in PAIR_FOLDERS and file.suffix.lower() in IMAGES:
            folders.setdefault(file.parent.parent, []).append(file)
    return {f: files for f, files in folders.items() if (f / "instructions.txt").is_file()}


def _split(folder: Path, root: Path) -> str:
    return split_of(folder / "pair", root)


def _pairs(folder: Path, files: list[Path]) -> list[tuple[str, str, str]]:
    """(source, target, instruction) with paths relative to `folder`."""
    sources, targets = (
        {f.stem: f"{side}/{f.name}" for f in files if f.parent.name == side}
        for side in PAIR_FOLDERS
    )
    alone = sorted(sources.keys() ^ targets.keys())
    if alone:
        raise ValueError(f"{folder}: {alone[0]} is not both in source/ and in target/")
    names = sorted(sources, key=natural)
    instructions = _instructions(folder / "instructions.txt", names)
    return [(sources[name], targets[name], instructions[name]) for name in names]


def _instructions(file: Path, names: list[str]) -> dict[str, str]:
    try:
        lines = [line for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error}") from None
    if lines and all("\t" in line for line in lines):
        parts = [line.partition("\t") for line in lines]
        said = {Path(name.strip()).stem: text for name, _, text in parts}
        missing = [name for name in names if name not in said]
        if missing:
            raise ValueError(f"{file} has no line for {missing[0]}")
        return said
    if len(lines) != len(names):
        raise ValueError(
            f"{file} has {len(lines)} lines for {len(names)} pairs; begin each with the image's "
            "name and a tab, or write one for each"
        )
    return dict(zip(names, lines, strict=True))
