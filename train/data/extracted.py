"""What the frozen networks saw, on disk: shards that `python -m train.extract` wrote.

    FOLDER/extracted.json              of what, how many, and in which shards
    FOLDER/part-000000.safetensors     `shard` consecutive indices; rows are read one by one

Texts have no padding on disk: their valid tokens lie end to end, `text_end` says where each stops.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scar.conditioning import Drop, Text
from scar.config import to_dict
from scar.model import Batch
from train.data.samples import epoch_order
from train.recipe import Recipe

RECORD = "extracted.json"
# Fields of a Batch that are stored row by row.
ROWS = ("source", "target", "label", "tokens", "inputs", "weights", "changed")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Layout:
    """Args:
    facts: all that the stored values depend on; see `facts_of`.
    examples: how many indices are stored.
    shard: indices in one file.
    dtype: of features and texts, a key of DTYPES.
    """

    facts: dict
    examples: int
    shard: int
    dtype: str

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
        self.folder, self.device, self.seed = folder, device, recipe.seed
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
        self.open = lru_cache(64)(self._open)
        self.order = lru_cache(2)(self._order)

    def __len__(self) -> int:
        return len(self.order(0))

    def batch(self, indices: Sequence[int]) -> Batch:
        rows = [self._row(*divmod(index, len(self))) for index in indices]
        columns = {name: torch.cat([row[name] for row in rows]).to(self.device) for name in ROWS}
        for name in ("label", "tokens"):
            columns[name] = columns[name].long()
        floats = columns["inputs"].is_floating_point()
        columns["inputs"] = columns["inputs"].float() if floats else columns["inputs"].long()
        none = torch.zeros(len(rows), dtype=torch.bool, device=self.device)
        text = _left_padded([row["text"] for row in rows], self.device)
        for name in ("source", "target", "weights"):
            columns[name] = columns[name].float()
        return Batch(text=text, drop=Drop(none, none), **columns)

    def _row(self, epoch: int, position: int) -> dict[str, Tensor]:
        shard, row = divmod(int(self.order(epoch)[position]), self.layout.shard)
        file = self.open(shard)
        found = {name: file.get_slice(name)[row : row + 1] for name in ROWS}
        end = file.get_slice("text_end")[max(row - 1, 0) : row + 1].tolist()
        found["text"] = file.get_slice("text")[end[0] if row else 0 : end[-1]]
        return found

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


def facts_of(recipe: Recipe, config) -> dict:
    """What stored values depend on; plain enough to compare after a trip through JSON."""
    fields = ("data", "folder", "control", "controls", "detector", "tasks", "objects")
    fields += ("size", "fit", "enlarge", "flip", "seed", "foreground", "precision")
    facts = {name: getattr(recipe, name) for name in fields}
    whole = to_dict(config)
    facts |= {name: whole[name] for name in ("encoder", "tokenizer")}
    facts["tokenizer folder"] = recipe.tokenizer
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


def write_shard(path: Path, batches: list[Batch], dtype: torch.dtype) -> None:
    """Batches, in order, as one file; whole or not there."""
    stored = {
        name: torch.cat([getattr(batch, name) for batch in batches]).cpu().contiguous()
        for name in ROWS
    }
    for name in ("source", "target"):
        stored[name] = stored[name].to(dtype)
    stored["tokens"] = stored["tokens"].int()
    if not stored["inputs"].is_floating_point():
        stored["inputs"] = stored["inputs"].int()
    texts = [tokens[valid] for batch in batches for tokens, valid in zip(*batch.text, strict=True)]
    stored["text"] = torch.cat(texts).to(dtype).cpu().contiguous()
    stored["text_end"] = torch.tensor([len(text) for text in texts]).cumsum(0)
    save_file(stored, path)  # written aside and renamed
    path.chmod(0o644)


def _left_padded(texts: list[Tensor], device: torch.device) -> Text:
    longest = max(len(text) for text in texts)
    tokens = torch.zeros(len(texts), longest, texts[0].shape[1], device=device)
    valid = torch.zeros(len(texts), longest, dtype=torch.bool, device=device)
    for row, text in enumerate(texts):
        tokens[row, longest - len(text) :] = text.to(device)
        valid[row, longest - len(text) :] = True
    return Text(tokens, valid)
