"""python -m train.data check NAME PATH: is a folder what its data set's reader expects?

Prints counts, the first samples and the first problems; exits with 1 when there are problems.

    python -m train.data check imagenet /data/imagenet --control canny --controls /data/controls
    python -m train.data check multigen /data/multigen --control depth --every 1
    python -m train.data check seed-edit /data/seed --split validation
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from train.data.samples import SampleError
from train.data.sources import DATA, open_reader
from train.recipe import Recipe

SHOWN = 3  # samples
PROBLEMS_SHOWN = 10


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check_parser = parser.add_subparsers(required=True).add_parser("check")
    check_parser.add_argument("name", choices=DATA[1:])
    check_parser.add_argument("path", type=Path)
    check_parser.add_argument("--split", choices=("train", "validation"), default="train")
    check_parser.add_argument("--control", default="canny", help="which control map")
    check_parser.add_argument("--controls", default="", help="folder of maps made beforehand")
    check_parser.add_argument(
        "--every", type=int, default=0, help="read every n-th sample; default: 200 in all"
    )
    arguments = parser.parse_args(argv)
    recipe = Recipe(
        "scar",
        preset="",
        out="",
        data=arguments.name,
        folder=str(arguments.path),
        control=arguments.control,
        controls=arguments.controls,
    )
    try:
        return check(open_reader(recipe, arguments.split), arguments.every)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def check(reader, every: int = 0) -> int:
    """Read every n-th sample (0: 200 spread over all) and print what was found; 1 on problems."""
    print(f"{len(reader):,} samples in {len(reader.blocks):,} blocks")
    if hasattr(reader, "classes"):
        print(f"{len(reader.classes):,} classes, {reader.classes[0]} to {reader.classes[-1]}")
    if not len(reader):
        return 1
    numbers = range(0, len(reader), every or max(1, len(reader) // 200))
    problems = _problems(reader, tqdm(numbers, disable=None, leave=False))
    print(f"{len(numbers):,} samples read, {len(problems):,} with problems")
    for problem in problems[:PROBLEMS_SHOWN]:
        print(f"  {problem}")
    return 1 if problems else 0


def _problems(reader, numbers: Iterable[int]) -> list[str]:
    problems, shown = [], 0
    for number in numbers:
        try:
            sample = reader.read(number)
        except SampleError as error:
            problems.append(f"{reader.name(number)}: {error}")
            continue
        if shown < SHOWN:
            shown += 1
            print(f"  {reader.name(number)}: {_described(sample)}")
    return problems


def _described(sample) -> str:
    def shape(image) -> str:
        return f"{image.width} x {image.height}" if image else "drawn while training"

    said = repr(sample.text) if sample.text else f"class {sample.label}"
    return f"image {shape(sample.target)}, condition {shape(sample.source)}, {said}"


if __name__ == "__main__":
    sys.exit(main())
