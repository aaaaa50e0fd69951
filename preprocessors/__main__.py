"""python -m preprocessors NAME IN OUT, or list, download WEIGHTS, or bench."""

from __future__ import annotations

import argparse
import sys
import timeit
from functools import partial
from statistics import median
from typing import Any

from PIL import Image

from preprocessors import PREPROCESSORS, Preprocessor, preprocess, weights
from preprocessors.preprocessor import BACKENDS
from scar.errors import ScarError
from scar.images import check_output, save_image
from scar.weights.pins import DETECTOR_PINS


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status, with one sentence on stderr if it is not 0."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        if command == "list":
            _list()
        elif command == "download":
            _download(options["weights"])
        elif command == "bench":
            _bench(**options)
        else:
            _draw(command, **options)
    except ScarError as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0


def _draw(name: str, input: str, output: str, **options: Any) -> None:
    check_output(output)
    save_image(preprocess(name, PREPROCESSORS[name].open(input), **options), output)


def _list() -> None:
    for name, preprocessor in PREPROCESSORS.items():
        status = preprocessor.status()
        print(f"{name:8}  {status.state:11}  {status.backend:8}  {preprocessor.description}")
        print(f"{'':10}{status.reason}")


def _download(names: list[str]) -> None:
    for name in names or DETECTOR_PINS:
        weights.download(name)
        print(f"{name}: verified")


def _bench(repeat: int) -> None:
    """Seconds for each control map of a 512 px picture, warm, and which network drew it."""
    image = Image.effect_mandelbrot((512, 512), (-2, -1.5, 1, 1.5), 100).convert("RGB")
    for name, preprocessor in PREPROCESSORS.items():
        preprocessor(image)
        seconds = median(timeit.repeat(partial(preprocessor, image), number=1, repeat=repeat))
        print(f"{name:>8}: {seconds:.3f} s ({preprocessor.status().backend})")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m preprocessors", description="Draw the control map of an image."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for preprocessor in PREPROCESSORS.values():
        _add_preprocessor(commands, preprocessor)
    commands.add_parser("list", help="show the preprocessors and what would draw them now")
    timed = commands.add_parser("bench", help="seconds for each map of a 512 px picture")
    timed.add_argument("--repeat", type=int, default=3)
    fetch = commands.add_parser("download", help="fetch and verify the real detectors' weights")
    fetch.add_argument("weights", nargs="*", help=f"from {', '.join(DETECTOR_PINS)}; default all")
    return parser


def _add_preprocessor(commands: argparse._SubParsersAction, preprocessor: Preprocessor) -> None:
    command = commands.add_parser(
        preprocessor.name,
        help=preprocessor.description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("input", metavar="IN", help="a PNG, JPEG or WEBP image")
    command.add_argument("output", metavar="OUT", help="the map to write")
    command.add_argument("--size", type=int, help="longer side of the map, default the image's")
    command.add_argument("--backend", choices=BACKENDS, default="auto", help="detector to use")
    for name, parameter in preprocessor.parameters.items():
        flag, default, text = f"--{name}", parameter.default, parameter.help
        if isinstance(default, bool):
            action = argparse.BooleanOptionalAction
            command.add_argument(flag, action=action, default=default, help=text)
        else:
            choices = parameter.choices or None
            command.add_argument(
                flag, type=type(default), choices=choices, default=default, help=text
            )


if __name__ == "__main__":
    raise SystemExit(main())
