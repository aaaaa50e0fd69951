"""python -m train.data check: is a folder what its data set's reader expects?

Prints counts, what was skipped, the first samples and the first problems; exits with 1 when there
are problems. Takes a recipe, or the name of a kind of data and its folder; fields follow.

    python -m train.data check train/recipes/edit/seed_unsplash.yaml folder=/data/seed
    python -m train.data check imagenet /data/imagenet --control canny --controls /data/controls
    python -m train.data check multigen /data/multigen --control depth --every 1
    python -m train.data check seed-edit /data/own 'columns={instruction: said}' --split validation
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from typing import get_args

from tqdm import tqdm

from train.command import exit_code
from train.data.samples import SampleError, foreign, printable
from train.data.sources import open_reader
from train.protocols import Reader
from train.recipe import Recipe, load_recipe, make_recipe
from train.sections import Data

SHOWN = 3  # samples
NAMES_SHOWN = 10
PROBLEMS_SHOWN = 10


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["check"])
    parser.add_argument("name", metavar=f"RECIPE.yaml | {' | '.join(get_args(Data)[1:])}")
    parser.add_argument("words", nargs="*", metavar="PATH | key=value")
    parser.add_argument("--split", choices=("train", "validation"), default="train")
    parser.add_argument("--control", help="which control map; default: canny")
    parser.add_argument("--controls", help="folder of maps made beforehand")
    parser.add_argument(
        "--every", type=int, default=0, help="read every n-th sample; default: 200 in all"
    )
    arguments = parser.parse_intermixed_args(argv)
    return exit_code(
        lambda: check(open_reader(_recipe(arguments), arguments.split), arguments.every)
    )


def _recipe(arguments: argparse.Namespace) -> Recipe:
    paths = [word for word in arguments.words if "=" not in word]
    fields = [word for word in arguments.words if "=" in word]
    fields += [f"folder={path}" for path in paths]
    for name in ("control", "controls"):
        value = getattr(arguments, name)
        fields += [f"{name}={value}"] if value is not None else []
    if arguments.name.endswith((".yaml", ".yml")):
        return load_recipe(arguments.name, fields)
    # The published models of ImageNet's 1,000 classes, unless `preset` says another one.
    plain = {"objective": "scar", "preset": "llamagen-l-c2i", "out": "", "control": "canny"}
    return make_recipe(plain | {"data": arguments.name}, fields)


def check(reader: Reader, every: int = 0) -> int:
    """Read every n-th sample (0: 200 spread over all) and print what was found; 1 on problems."""
    print(f"{len(reader):,} samples in {len(reader.blocks):,} blocks")
    if hasattr(reader, "classes"):
        print(f"{len(reader.classes):,} classes, {reader.classes[0]} to {reader.classes[-1]}")
    if reader.others:
        print(f"left to other splits: {_counted(reader.others)}")
    if reader.skipped:
        print(f"never data, skipped: {_counted(reader.skipped)}")
    if not len(reader):
        return 1
    numbers = range(0, len(reader), every or max(1, len(reader) // 200))
    problems = _problems(reader, tqdm(numbers, disable=None, leave=False))
    print(f"{len(numbers):,} samples read, {len(problems):,} with problems")
    for problem in problems[:PROBLEMS_SHOWN]:
        print(f"  {problem}")
    return 1 if problems else 0


def _counted(names: Counter) -> str:
    shown = [f"{name} ({count:,})" for name, count in names.most_common(NAMES_SHOWN)]
    return printable(", ".join(shown)) + (", ..." if len(names) > NAMES_SHOWN else "")


def _problems(reader: Reader, numbers: Iterable[int]) -> list[str]:
    problems, shown = [], 0
    for number in numbers:
        name = printable(reader.name(number))
        try:
            with foreign("it cannot be read"):
                sample = reader.read(number)
        except SampleError as error:
            problems.append(f"{name}: {error}")
            continue
        if shown < SHOWN:
            shown += 1
            print(f"  {name}: {_described(sample)}")
    return problems


def _described(sample) -> str:
    def shape(image) -> str:
        return f"{image.width} x {image.height}" if image else "drawn while training"

    said = repr(sample.text) if sample.text else f"class {sample.label}"
    return f"image {shape(sample.target)}, condition {shape(sample.source)}, {said}"


if __name__ == "__main__":
    sys.exit(main())
