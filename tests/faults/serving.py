"""A studio served from this process on a free port, over pipelines the test can look into."""

import json
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageDraw

from scar.studio import build_studio, launch_studio

INSTRUCTIONS = ["add a red apple on the left", "make it night", "remove the ball"]


@contextmanager
def served(models, folder):
    """Yields the address of a studio over `models` with two example scenes kept in `folder`."""
    write_scenes(folder / "examples")
    studio = build_studio(models, folder)
    try:
        yield launch_studio(studio, "127.0.0.1", block=False)
    finally:
        studio.close()


def write_scenes(folder):
    folder.mkdir(parents=True)
    entries = []
    for index, colour in enumerate(["tomato", "gold"]):
        name = f"{index}.png"
        scene(colour).save(folder / name)
        entries.append({"file": name, "caption": f"a {colour} ball", "instructions": INSTRUCTIONS})
    (folder / "examples.json").write_text(json.dumps(entries))


def scene(colour="tomato", width=128, height=128):
    """A ball on a meadow under a sky."""
    shade = np.linspace(120, 250, height)[:, None].repeat(width, 1)
    pixels = np.stack([shade, shade, np.full_like(shade, 240)], -1).astype(np.uint8)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, height * 0.65, width, height], fill="yellowgreen")
    draw.ellipse([width * 0.3, height * 0.35, width * 0.7, height * 0.75], fill=colour)
    return image
