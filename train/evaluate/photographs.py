"""python -m train.evaluate.photographs OUT.png: an object added to photographs nobody trained on.

The ten photographs are of scikit-image's own data, by name; none is chosen by its result. Rows of
the picture: photograph, region, result. The table says what the picture does not prove: that
nothing outside of the region changed, and which object the frozen features find inside of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scar import ScarPipeline
from scar.errors import InputError
from scar.images import check_output, open_image
from scar.toyscenes.sprites import sheet, vocabulary
from train.evaluate.metrics import Features, SpriteFinder, bounding_boxes

NAMES = (
    "astronaut.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "rocket.jpg",
)  # fmt: skip
SIDE = 256  # pixels of a picture in the sheet


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.evaluate.photographs")
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--paradigm", default="next-token", choices=("next-token", "next-set"))
    parser.add_argument("--object", default="cat", help="one of the model's objects")
    parser.add_argument("--instruction", default="add a {object} on the left")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    try:
        check_output(arguments.out)
        photographs = open_photographs()
        pipe = ScarPipeline.from_pretrained(arguments.model, paradigm=arguments.paradigm)
        print(evaluate(pipe, photographs, arguments))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def open_photographs() -> dict[str, Image.Image]:
    """The photographs by name. Raises InputError where scikit-image is not installed."""
    try:
        from skimage import data
    except ImportError:
        raise InputError("The photographs come with scikit-image: pip install it.") from None
    folder = Path(data.__file__).parent
    return {name: open_image(folder / name) for name in NAMES}


@torch.inference_mode()
def evaluate(
    pipe: ScarPipeline, photographs: dict[str, Image.Image], arguments: argparse.Namespace
) -> str:
    """Write the picture; returns the table."""
    objects = [sprite.name for sprite in vocabulary()[:48]]
    if arguments.object not in objects:
        raise InputError(f"{arguments.object!r} is none of the objects: {', '.join(objects)}.")
    instruction = arguments.instruction.format(object=arguments.object)
    finder = SpriteFinder(Features(pipe.device), sheet()[:48].float() / 255)
    columns, lines, found, exact = [], [], 0, 0
    for name, photograph in photographs.items():
        out = pipe.edit(photograph, instruction, seed=arguments.seed)
        region = out.region or Image.new("L", photograph.size, 255)
        columns.append(_column(photograph, region, out.image))
        outside = np.asarray(region) == 0
        same = np.array_equal(np.asarray(out.image)[outside], np.asarray(photograph)[outside])
        exact += same
        seen = objects[int(finder(*_crop(out.image, region)))]
        found += seen == arguments.object
        share = f"{out.drawn / out.tokens:.0%}"
        lines.append(f"{name:<24}{share:>6} of the tokens drawn   found: {seen}")
    Image.fromarray(np.concatenate(columns, axis=1)).save(arguments.out)
    count = len(photographs)
    lines.append(f"{instruction!r}: {arguments.object} found in {found} of {count};")
    lines.append(f"outside of the region exactly the photograph in {exact} of {count}")
    return "\n".join(lines)


def _crop(image: Image.Image, region: Image.Image) -> tuple[torch.Tensor, list]:
    """The image (1, 3, H, W) in [-1, 1], and the box of its region."""
    pixels = torch.from_numpy(np.asarray(image).copy()).movedim(-1, 0).float() / 127.5 - 1
    mask = torch.from_numpy(np.asarray(region) > 0).unsqueeze(0)
    return pixels.unsqueeze(0), bounding_boxes(mask)


def _column(photograph: Image.Image, region: Image.Image, result: Image.Image) -> np.ndarray:
    """(3 SIDE, SIDE, 3): photograph, the region lit in it, result."""
    dimmed = Image.eval(photograph, lambda value: value // 3)
    lit = Image.composite(photograph, dimmed, region)
    cells = [image.resize((SIDE, SIDE)) for image in (photograph, lit, result)]
    return np.concatenate([np.asarray(cell) for cell in cells])


if __name__ == "__main__":
    sys.exit(main())
