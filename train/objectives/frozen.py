"""The frozen networks that a run needs, given what `python -m train.extract` has stored."""

from __future__ import annotations

from pathlib import Path

import torch

from scar.config import ScarConfig
from scar.frozen import FrozenEncoders
from scar.model import Batch
from scar.prefix import DropMask
from scar.weights.checkpoint import load_tokenizer
from train.data.batch import Partial, to_signed
from train.data.extracted import RECORD, read_layout
from train.recipe import Recipe

NETWORKS = {"features": "encoder", "text": "text"}  # stored part -> the network it replaces


def needless(recipe: Recipe) -> frozenset[str]:
    """Which networks a run never calls: those whose outputs are stored, unless grids need them. The
    tokenizer is always built, as it is exported."""
    if not recipe.data.extracted or recipe.run.grid_every:
        return frozenset()
    folder = Path(recipe.data.extracted)
    stored = read_layout(folder).what if (folder / RECORD).is_file() else NETWORKS
    return frozenset(NETWORKS[part] for part in stored if part in NETWORKS)


def build_frozen(recipe: Recipe, config: ScarConfig) -> FrozenEncoders:
    """The networks that a recipe needs, pretrained. Raises WeightsError as `load_tokenizer`."""
    # Fresh weights are initialised afterwards and must not depend on which networks are built.
    with torch.random.fork_rng(devices=[]):
        tokenizer = load_tokenizer(config.tokenizer, Path(recipe.weights.tokenizer))
        return FrozenEncoders(config, tokenizer, without=needless(recipe))


def completed(frozen: FrozenEncoders, examples: Batch | Partial) -> Batch:
    """Stored examples, the rest computed from their images; no condition dropped."""
    if isinstance(examples, Batch):
        return examples
    raw, found = examples.raw, dict(examples.stored)
    if "source" not in found:
        source, target = to_signed(raw.source), to_signed(raw.target)
        before, after = frozen.features(source, target)
        cells = frozen.changed_cells(before, after, raw.changed)
        found |= {"source": before, "target": after, "changed": cells}
    if "text" not in found:
        found |= {"text": frozen.encode_text(raw.text), "label": raw.label}
    none = torch.zeros_like(raw.label, dtype=torch.bool)
    return Batch(**found, drop=DropMask(none, none))
