"""ToyScenes scenes put together from names instead of drawn at random."""

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import NamedTuple

from PIL import Image

from scar.errors import InputError
from scar.toyscenes.dataset import ToyScenes
from scar.toyscenes.places import PLACES
from scar.toyscenes.preview import render, suggested_edits
from scar.toyscenes.scenes import COLUMNS, RELATIVE_SIZE, Scene, Thing, inside
from scar.toyscenes.seeds import DETAILS
from scar.toyscenes.sprites import Sprite, vocabulary

MOST_OBJECTS = 3
STARTER = 48  # objects of the starter vocabulary
SIDE = 256  # pixels

# A larger object also stands nearer: its side and where it stands, as shares of the picture's side.
SIZES = {"small": (0.31, 0.76), "medium": (0.39, 0.84), "large": (0.47, 0.92)}
SKY_SIZES = {"small": (0.27, 0.32), "medium": (0.31, 0.34), "large": (0.36, 0.4)}


class Part(NamedTuple):
    """An object by name, its column (a key of COLUMNS) and its size (a key of SIZES)."""

    name: str
    column: str
    size: str


def place_names() -> list[str]:
    return [place.name for place in PLACES]


def object_names() -> list[str]:
    """The objects of the starter vocabulary."""
    return [sprite.name for sprite in vocabulary()[:STARTER]]


def compose(place: str, parts: Sequence[Part]) -> Scene:
    """The scene of one to three parts at a place; the same arguments give the same scene.

    Raises `InputError` for unknown names, two objects in one position, and the sky indoors.
    """
    index = {name: i for i, name in enumerate(place_names())}.get(place)
    if index is None:
        raise InputError(f"There is no place called '{place}'.")
    if not 1 <= len(parts) <= MOST_OBJECTS:
        raise InputError(f"Please choose one to {MOST_OBJECTS} objects.")
    things = tuple(_thing(part) for part in parts)
    if len({(t.column, t.sprite.hangs) for t in things}) < len(things):
        raise InputError("Please give every object a position of its own.")
    hanging = [t.sprite.name for t in things if t.sprite.hangs]
    if hanging and not PLACES[index].outdoor:
        raise InputError(f"There is no sky here for '{hanging[0]}'; please choose another place.")
    rng = Random(f"compose/{place}")
    return Scene(index, "clear", things, tuple(rng.random() for _ in range(DETAILS)))


def picture_and_edits(scene: Scene) -> tuple[Image.Image, list[str]]:
    """The scene at 256 x 256 pixels, and four plain instructions that fit it."""
    (image,) = render(_scenes(), [scene])
    return image, suggested_edits(scene, _scenes(), Random(scene.caption))


def _thing(part: Part) -> Thing:
    sprite = _sprite(part.name)
    sizes = SKY_SIZES if sprite.hangs else SIZES
    if part.column not in COLUMNS:
        raise InputError(f"There is no position called '{part.column}'.")
    if part.size not in sizes:
        raise InputError(f"There is no size called '{part.size}'.")
    side, base = sizes[part.size]
    side *= RELATIVE_SIZE.get(sprite.category, 1.0)
    return inside(Thing(sprite, part.column, COLUMNS[part.column], base, side))


def _sprite(name: str) -> Sprite:
    for sprite in vocabulary()[:STARTER]:
        if sprite.name == name:
            return sprite
    raise InputError(f"There is no object called '{name}'.")


@cache
def _scenes() -> ToyScenes:
    return ToyScenes(size=SIDE, objects=STARTER, wild=0.0)
