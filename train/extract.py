"""python -m train.extract RECIPE.yaml FOLDER: store the outputs of the frozen networks.

Writes VQ codes, encoder features and text embeddings (or a part, `--what tokens,text`) of the
recipe's first `passes` epochs, with their crops. A recipe with `extracted: FOLDER` then reads them
instead of images. Stop it whenever you like: the same command goes on with the shards that are
missing, and `accelerate launch -m train.extract` shares them among processes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import PartialState
from tqdm import tqdm

from scar.config import ScarConfig
from scar.frozen import FrozenEncoders
from scar.weights.checkpoint import load_tokenizer
from train.command import exit_code
from train.data.extracted import (
    DTYPES,
    PARTS,
    RECORD,
    Layout,
    facts_of,
    read_layout,
    shard_path,
    write_shard,
)
from train.data.sources import open_source
from train.loop.precision import resolve_precision
from train.objectives.frozen import NETWORKS
from train.objectives.scar import encode_batch
from train.recipe import Recipe, change, load_recipe

SHARD = 256  # examples in a file: about 0.8 GB of DINOv2-B features at 448 px in bf16


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.extract",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="a YAML file, see train/recipes/")
    parser.add_argument("folder", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--passes", type=int, default=1, help="epochs to store, each newly cropped")
    parser.add_argument("--examples", type=int, help="store this many instead (ToyScenes: needed)")
    parser.add_argument("--shard", type=int, default=SHARD, help="examples in a file")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="bf16", help="of features; fp32 keeps every bit"
    )
    parser.add_argument(
        "--what",
        default=",".join(PARTS),
        help="tokens,text leaves out the features, which are then computed while training",
    )
    arguments = parser.parse_intermixed_args(argv)

    def run() -> None:
        extract(
            load_recipe(arguments.recipe, arguments.overrides),
            arguments.folder,
            arguments.passes,
            arguments.examples,
            arguments.shard,
            arguments.dtype,
            arguments.what.split(","),
        )

    return exit_code(run)


def extract(
    recipe: Recipe,
    folder: Path,
    passes: int = 1,
    examples: int | None = None,
    shard: int = SHARD,
    dtype: str = "bf16",
    what: Sequence[str] = tuple(PARTS),
) -> None:
    """Write this process's share of the shards that are not there yet.

    Args:
        what: keys of PARTS, "tokens" among them; networks of the others do not run.

    Raises:
        ValueError: the recipe is no SCAR recipe, its data or tokenizer are missing, or the folder
            holds what was extracted for another one, or cannot be written.
    """
    _check(recipe, examples, what)
    state = PartialState(cpu=not torch.cuda.is_available())
    recipe = resolve_precision(recipe)
    config = recipe.model
    source = open_source(change(recipe, extracted=""), "train", state.device)
    count = examples or passes * len(source)
    parts = [part for part in PARTS if part in what]
    layout = Layout(facts_of(recipe, config), count, shard, dtype, parts, source.fingerprint())
    _record(folder, layout, state.is_main_process)
    todo = [
        number
        for number in range(state.process_index, layout.shards, state.num_processes)
        if not shard_path(folder, number).is_file()
    ]
    size = recipe.schedule.batch_size // (recipe.schedule.accumulate * state.num_processes) or 1
    frozen = _frozen(recipe, config, layout, state.device)
    for number in tqdm(todo, desc="shards", disable=not state.is_main_process):
        indices = layout.indices(number)
        pieces = [indices[first : first + size] for first in range(0, len(indices), size)]
        batches = []
        for raw in map(source.batch, pieces):  # outside of autocast, as in the loop
            with torch.autocast(
                state.device.type, torch.bfloat16, recipe.compute.precision == "bf16"
            ):
                batches.append(encode_batch(frozen, raw, recipe.losses.foreground))
        write_shard(shard_path(folder, number), batches, layout)


def _check(recipe: Recipe, examples: int | None, what: Sequence[str]) -> None:
    if recipe.objective != "scar":
        raise ValueError("only recipes with objective scar have something to extract")
    if not {"tokens"} <= set(what) <= set(PARTS):
        raise ValueError(f"what to extract is tokens and perhaps others of {', '.join(PARTS)}")
    if recipe.data.kind == "toy" and set(what) != set(PARTS):
        raise ValueError("toy data are extracted whole: --what is for data on disk")
    if recipe.data.kind == "toy" and examples is None:
        raise ValueError("toy data have no end: say --examples")


def _frozen(
    recipe: Recipe, config: ScarConfig, layout: Layout, device: torch.device
) -> FrozenEncoders:
    """The networks whose outputs are stored."""
    tokenizer = load_tokenizer(config.tokenizer, Path(recipe.weights.tokenizer))
    without = frozenset(name for part, name in NETWORKS.items() if part not in layout.what)
    frozen = FrozenEncoders(config, tokenizer, without=without)
    # The memory format of the loop: bf16 convolutions round by it.
    return frozen.to(device, memory_format=torch.channels_last)


def _record(folder: Path, layout: Layout, writes: bool) -> None:
    if (folder / RECORD).is_file():
        if read_layout(folder) != layout:
            raise ValueError(f"{folder} holds what was extracted in another way; name another one")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if writes:
            (folder / RECORD).write_text(json.dumps(asdict(layout), indent=1))
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
