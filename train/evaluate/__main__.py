"""python -m train.evaluate toy_edit | toy_control --split test --n 500: what a model can do, in
figures.

Prints a table, writes JSON, and with --grid draws the first test examples by index.
`train.evaluate.edits` and `train.evaluate.control` say what the figures mean, and what they miss.
For a look at a model in training: --n 60 --quick.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path

from scar import ScarPipeline
from scar.command_line import add_sampling, sampling_options
from scar.toyscenes.dataset import SPLITS
from scar.toyscenes.sprites import vocabulary
from train.command import exit_code
from train.evaluate.control import control_table, evaluate_control
from train.evaluate.edits import REGIONS, edit_table, evaluate_edits


def main(argv: list[str] | None = None) -> int:
    return exit_code(partial(evaluate, parse(argv)))


def evaluate(arguments: argparse.Namespace) -> None:
    pipe = ScarPipeline.from_pretrained(arguments.model, paradigm=arguments.paradigm)
    if arguments.task == "toy_control":
        figures = evaluate_control(pipe, arguments)
        print(control_table(figures))
    else:
        figures = evaluate_edits(pipe, arguments)
        print(edit_table(figures))
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, with `sampling` for those that differ from the model's; whatever can be wrong
    with them ends the program here, before anything is loaded."""
    parser = argparse.ArgumentParser(prog="python -m train.evaluate", description=__doc__)
    parser.add_argument("task", choices=("toy_edit", "toy_control"))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--paradigm", default="next-token", choices=("next-token", "next-set"))
    parser.add_argument("--split", default="test", choices=[s for s in SPLITS if s != "train"])
    parser.add_argument("--n", type=positive, default=500, help="examples")
    parser.add_argument("--objects", type=int, default=48, help="ToyScenes vocabulary")
    parser.add_argument(
        "--region", default="auto", choices=REGIONS, help="where edits are free to draw"
    )
    parser.add_argument(
        "--quick", action="store_true", help="skip edits by another's instruction or picture"
    )
    add_sampling(parser)
    parser.add_argument("--out", type=output_file, help="JSON file to write")
    parser.add_argument("--grid", type=output_file, help="PNG of the first examples")
    arguments = parser.parse_args(argv)
    if not 8 <= arguments.objects <= len(vocabulary()):
        parser.error(f"--objects must be from 8 to {len(vocabulary())}, not {arguments.objects}")
    if arguments.task == "toy_control" and arguments.split == "wild":
        parser.error("the wild split is one of edits; choose another for toy_control")
    if arguments.grid and arguments.grid.suffix != ".png":
        parser.error(f"--grid must name a .png file, not {arguments.grid}")
    try:
        arguments.sampling = sampling_options(arguments)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text}")
    return int(text)


def output_file(text: str) -> Path:
    """A path that can be written, in a folder that exists from now on."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot make the folder {path.parent}") from error
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {path}: it is a folder or protected")
    return path


if __name__ == "__main__":
    sys.exit(main())
