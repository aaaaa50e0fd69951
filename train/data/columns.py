"""What a column means: names that published data sets give it, or the one that a recipe says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from train.data.files import Listing
from train.data.formats import Rows
from train.data.samples import SampleError, foreign

CHECKED_ROWS = 20  # of which one must be readable, and the images of one be there


class Columns:
    """Args:
        names: role -> what its column may be called, the likeliest first.
        renamed: role -> column, as the recipe says; no other column is then taken.

    Raises:
        ValueError: `renamed` has a role that this data set has not.
    """

    def __init__(self, names: dict[str, tuple[str, ...]], renamed: dict[str, str]):
        unknown = [role for role in renamed if role not in names]
        if unknown:
            raise ValueError(
                f"recipe: columns names {', '.join(unknown)}; here there are {', '.join(names)}"
            )
        self.renamed = renamed
        self.names = names | {role: (column,) for role, column in renamed.items()}

    def find(self, row: dict, role: str) -> str | None:
        return next((name for name in self.names[role] if name in row), None)

    def require(self, row: dict, roles: tuple[str, ...]) -> list[str]:
        """The columns of roles. Raises SampleError when some are missing."""
        found = {role: self.find(row, role) for role in roles}
        missing = [role for role, column in found.items() if column is None]
        if missing:
            raise SampleError(
                f"{', '.join(missing)} missing; there is {', '.join(map(str, row))}; say which "
                f"is which by columns: {{{missing[0]}: NAME}}"
            )
        return list(found.values())


@dataclass(frozen=True)
class SplitTables:
    """Where the rows of a split lie, and what their columns are called."""

    listing: Listing
    split: str
    images: Path | None = None  # what paths are relative to; None: the file that names them
    renamed: dict[str, str] = field(default_factory=dict)  # role -> column


class Table:
    """A reader of rows; kinds of data say in `read` what a row holds.

    Args:
        names: role -> the usual names of its column.

    Raises:
        ValueError: the columns of this data set, or all of the first images, are missing.
    """

    required: tuple[str, ...]
    pictures: tuple[str, ...]  # those of `required` that are images

    def __init__(self, rows: Rows, files: SplitTables, names: dict[str, tuple[str, ...]]):
        self.rows, self.columns = rows, Columns(names, files.renamed)
        self.root, self.skipped = files.listing.root, files.listing.skipped
        self.images = files.images
        self.blocks, self.together = rows.blocks, rows.together
        if len(rows):
            self._check_first()

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, i: int) -> str:
        return self.rows.name(i)

    def fingerprint(self) -> dict:
        return self.rows.fingerprint(self.root)

    def row(self, i: int) -> tuple[dict, Path]:
        """A row, and the folder that paths in it are relative to. Raises SampleError."""
        with foreign("its row cannot be read"):
            row, folder = self.rows[i], self.rows.folder(i)
        if not isinstance(row, dict):
            raise SampleError("its row is no mapping of columns")
        return row, self.images or folder

    def _check_first(self) -> None:
        """Check the columns by the first row that can be read (one damaged row is no reason to
        stop), and the folder of images by the first ones."""
        rows = []
        for i in range(min(len(self), CHECKED_ROWS)):
            try:
                rows.append(self.row(i))
            except SampleError:
                continue
        if not rows:
            raise ValueError(f"{self.root}: none of the first rows can be read")
        try:
            self.columns.require(rows[0][0], self.required)
        except SampleError as error:
            raise ValueError(f"{self.root}: {error}") from None
        column = self.columns.find(rows[0][0], self.pictures[0])
        paths = [f / row[column] for row, f in rows if isinstance(row.get(column), str)]
        if len(paths) == len(rows) and not any(path.exists() for path in paths):
            raise ValueError(
                f"{self.root}: {paths[0]} is not there, nor is any of the next; unpack the images, "
                "or say by images: FOLDER what paths are relative to"
            )


def text_of(value: object, what: str) -> str:
    """A text, or the UTF-8 of one. Raises SampleError for everything else, NaN and lists too."""
    if isinstance(value, bytes):
        with foreign(f"its {what} is not UTF-8"):
            value = value.decode()
    if not isinstance(value, str):
        raise SampleError(f"its {what} is no text but {value!r:.40}")
    with foreign(f"its {what} holds half a character"):
        value.encode()
    return value.strip()


def label_of(value: object, classes: int) -> int:
    """A class label, or its decimal digits. Raises SampleError for everything else."""
    if isinstance(value, bytes | str) and value.strip().isdigit():
        value = int(value)
    if type(value) is not int or not 0 <= value < classes:
        raise SampleError(f"its label is {value!r:.40}, not one of 0 to {classes - 1}")
    return value
