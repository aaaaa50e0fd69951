"""Outputs of the frozen networks on disk: shards that `python -m train.extract` wrote.

    FOLDER/extracted.json              of what, how many, and in which shards
    FOLDER/part-000000.safetensors     `shard` consecutive indices; rows are read one by one

A part may be stored alone (`PARTS`): VQ codes and texts take little of the disk that features do,
which are then computed from the images while training.

Texts have no padding on disk: their valid tokens lie end to end, `text_end` says where each stops.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scar.model import Batch
from scar.prefix import DropMask, TextEmbedding
from scar.validation import to_dict
from train.data.batch import Partial
from train.data.order import epoch_order
from train.recipe import Recipe, value_of

RECORD = "extracted.json"
# What may be stored -> fields of a Batch; of texts there are `text` and `text_end`.
PARTS = {
    "features": ("source", "target", "changed"),
    "tokens": ("tokens", "inputs", "weights"),  # always there
    "text": ("label",),
}
KEPT_OPEN = 32  # shards
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Layout:
    """Args:
    facts: all that the stored values depend on; see `facts_of`.
    examples: how many indices are stored.
    shard: indices in one file.
    dtype: of features and texts, a key of DTYPES.
    what: keys of PARTS.
    data: the fingerprint of the data.
    """

    facts: dict
    examples: int
    shard: int
    dtype: str
    what: list[str] = field(default_factory=lambda: list(PARTS))
    data: dict = field(default_factory=dict)

    @property
    def rows(self) -> list[str]:
        """The fields of a Batch of which each example has one row."""
        return [name for part in self.what for name in PARTS[part]]

    @property
    def whole(self) -> bool:
        return set(self.what) == set(PARTS)

    @property
    def shards(self) -> int:
        return -(-self.examples // self.shard)

    def indices(self, shard: int) -> range:
        return range(shard * self.shard, min((shard + 1) * self.shard, self.examples))


class Extracted:
    """A source of batches like any other: index i is what index i of the recipe's own data would
    be, and epochs after the first shuffle what is stored, keyed to (seed, epoch).

    Raises:
        ValueError: shards are missing or damaged, or were made for another recipe.
    """

    def __init__(self, folder: Path, recipe: Recipe, config, device: torch.device):
        self.folder, self.device, self.seed = folder, device, recipe.run.seed
        self.layout = read_layout(folder)
        stored, asked = self.layout.facts, facts_of(recipe, config)
        if stored != asked:
            names = [key for key in asked if stored.get(key) != asked[key]]
            raise ValueError(f"{folder} was extracted with another {', '.join(names)}")
        absent = [s for s in range(self.layout.shards) if not shard_path(folder, s).is_file()]
        if absent:
            raise ValueError(
                f"{folder} lacks {len(absent)} of {self.layout.shards} shards; run "
                "python -m train.extract again, it goes on where it stopped"
            )
        self.open = lru_cache(KEPT_OPEN)(self._open)
        self.order = lru_cache(2)(self._order)

    def __len__(self) -> int:
        return self.layout.examples

    def fingerprint(self) -> dict:
        layout = self.layout
        return layout.data | {"samples": layout.examples, "files": layout.shards}

    def batch(self, indices: Sequence[int]) -> Batch:
        return Batch(**self.stored(indices), drop=self._no_drop(len(indices)))

    def stored(self, indices: Sequence[int]) -> dict[str, Tensor | TextEmbedding]:
        """What is stored of examples, as fields of a Batch."""
        rows = [self._row(self.position(index)) for index in indices]
        found = {
            name: torch.cat([row[name] for row in rows]).to(self.device)
            for name in self.layout.rows
        }
        for name, value in found.items():
            whole = name in ("label", "tokens") or not value.is_floating_point()
            found[name] = value.long() if whole else value.float()
        if "text" in self.layout.what:
            found["text"] = _left_padded([row["text"] for row in rows], self.device)
        return found

    def position(self, index: int) -> int:
        """Which of the stored examples an index is."""
        epoch, place = divmod(index, len(self))
        return int(self.order(epoch)[place])

    def _row(self, position: int) -> dict[str, Tensor]:
        shard, row = divmod(position, self.layout.shard)
        file = self.open(shard)
        found = {name: file.get_slice(name)[row : row + 1] for name in self.layout.rows}
        if "text" in self.layout.what:
            end = file.get_slice("text_end")[max(row - 1, 0) : row + 1].tolist()
            found["text"] = file.get_slice("text")[end[0] if row else 0 : end[-1]]
        return found

    def _no_drop(self, count: int) -> DropMask:
        none = torch.zeros(count, dtype=torch.bool, device=self.device)
        return DropMask(none, none)

    def _open(self, shard: int):
        path = shard_path(self.folder, shard)
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged; remove it and extract again: {error}") from None

    def _order(self, epoch: int):
        layout = self.layout
        if epoch == 0:
            return range(layout.examples)  # the data's own order, which is shuffled already
        blocks = [layout.indices(shard) for shard in range(layout.shards)]
        return epoch_order(blocks, self.seed, epoch)


class PartlyExtracted(Extracted):
    """The same where a part is stored: batches have the images too.

    Args:
        open_images: gives the source of images, whose indices pass the function it is given.

    Raises:
        ValueError: the images are not those of the extraction.
    """

    def __init__(self, folder: Path, recipe: Recipe, config, device: torch.device, open_images):
        super().__init__(folder, recipe, config, device)
        self.images = open_images(self.position)
        if self.images.fingerprint() != self.layout.data:
            place = recipe.data.folder
            raise ValueError(f"{place} has changed since {folder} was extracted from it")

    def batch(self, indices: Sequence[int]) -> Partial:
        return Partial(self.images.batch(indices), self.stored(indices))


def facts_of(recipe: Recipe, config) -> dict:
    """What stored values depend on; plain enough to compare after a trip through JSON."""
    fields = ("data", "folder", "control", "controls", "detector", "tasks", "objects")
    fields += ("images", "columns", "holdout") if recipe.data.kind != "toy" else ()
    fields += ("size", "fit", "enlarge", "flip", "seed", "foreground", "precision")
    facts = {name: value_of(recipe, name) for name in fields}
    whole = to_dict(config)
    facts |= {name: whole[name] for name in ("encoder", "tokenizer")}
    facts["tokenizer folder"] = recipe.weights.tokenizer
    text = config.condition
    return json.loads(json.dumps(facts | {"text": [text.text_encoder, text.text_slots]}))


def read_layout(folder: Path) -> Layout:
    """Raises ValueError when nothing was extracted there."""
    try:
        return Layout(**json.loads((folder / RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        raise ValueError(
            f"nothing was extracted to {folder}; see python -m train.extract"
        ) from None


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"part-{shard:06d}.safetensors"


def write_shard(path: Path, batches: list[Batch], layout: Layout) -> None:
    """What `layout` stores of batches, in order, as one file; whole or not there.

    Raises:
        ValueError: it cannot be written.
    """
    dtype = DTYPES[layout.dtype]
    stored = {
        name: torch.cat([getattr(batch, name) for batch in batches]).cpu().contiguous()
        for name in layout.rows
    }
    for name, value in stored.items():
        if name in PARTS["features"]:
            stored[name] = value.to(dtype)
        elif name in ("tokens", "inputs") and not value.is_floating_point():
            stored[name] = value.int()
    if "text" in layout.what:
        pairs = [pair for batch in batches for pair in zip(*batch.text, strict=True)]
        texts = [tokens[valid] for tokens, valid in pairs]
        stored["text"] = torch.cat(texts).to(dtype).cpu().contiguous()
        stored["text_end"] = torch.tensor([len(text) for text in texts]).cumsum(0)
    try:
        save_file(stored, path)  # written aside and renamed
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be written: {error}") from None
    path.chmod(0o644)


def _left_padded(texts: list[Tensor], device: torch.device) -> TextEmbedding:
    longest = max(len(text) for text in texts)
    tokens = torch.zeros(len(texts), longest, texts[0].shape[1], device=device)
    valid = torch.zeros(len(texts), longest, dtype=torch.bool, device=device)
    for row, text in enumerate(texts):
        tokens[row, longest - len(text) :] = text.to(device)
        valid[row, longest - len(text) :] = True
    return TextEmbedding(tokens, valid)
