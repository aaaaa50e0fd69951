"""What is in a ToyScenes scene, and which scenes are fit to be seen."""

from dataclasses import dataclass, replace

from scar.toyscenes.backgrounds import BACKDROPS
from scar.toyscenes.language import WEATHER_CAPTIONS, enumeration, with_article
from scar.toyscenes.places import InputPos
from scar.toyscenes.sprites import Sprite

COLUMNS = {"left": 0.21, "middle": 0.5, "right": 0.79}

# Side of a sprite's cell, relative to animals.
RELATIVE_SIZE = {"buildings": 1.15, "vehicles": 1.1, "plants": 1.08, "household": 0.96}
RELATIVE_SIZE |= {"food": 0.9, "clothes": 0.9, "sport": 0.86, "music": 0.98, "sky": 0.84}

LEAST_SIDE, MOST_SIDE = 0.26, 0.54
MOST_HIDDEN = 0.25


@dataclass(frozen=True)
class Thing:
    """An object in a scene. Lengths are shares of the image side; `base` is where it stands."""

    sprite: Sprite
    column: str  # left | middle | right
    x: float
    base: float
    side: float
    colour: str | None = None
    mirrored: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the visible part."""
        width = self.side * self.sprite.width
        return (
            self.x - width / 2,
            self.base - self.side * self.sprite.height,
            self.x + width / 2,
            self.base,
        )


@dataclass(frozen=True)
class Scene:
    """A backdrop (its index), its weather, the objects in any order, and the backdrop's details.

    `shadow` is the strength of all shadows, `look` what the camera adds: () is nothing.
    """

    place: int
    weather: str
    things: tuple[Thing, ...]
    details: tuple[float, ...]
    shadow: float = 1.0
    look: tuple[float, ...] = ()

    @property
    def order(self) -> list[Thing]:
        """Back to front: what hangs in the sky first, then by where it stands."""
        return sorted(self.things, key=lambda t: (not t.sprite.hangs, t.base))

    @property
    def caption(self) -> str:
        place = BACKDROPS[self.place]
        weather = WEATHER_CAPTIONS[self.weather]
        if not self.things:
            return place.noun + weather
        nouns = [with_article(t.sprite, t.colour) for t in sorted(self.things, key=reading_order)]
        return f"{enumeration(nouns)} {place.where}{weather}"


def reading_order(thing: Thing) -> tuple[bool, float]:
    return thing.sprite.hangs, thing.x


def plausible(scene: Scene, edited: Thing | None, kind: str) -> bool:
    """Everything inside the frame and visible, and the sky kept for outdoor places."""
    place: InputPos = BACKDROPS[scene.place]
    if not place.outdoor and (
        scene.weather != "clear" or any(t.sprite.hangs for t in scene.things)
    ):
        return False
    order = scene.order
    for i, thing in enumerate(order):
        left, top, right, bottom = thing.box
        if left < 0 or right > 1 or top < 0.02 or bottom > 0.98:
            return False
        covered = sum(hidden_share(thing, other) for other in order[i + 1 :])
        behind = kind == "add behind" and thing is edited
        if not (0.15 < covered < 0.6 if behind else covered <= MOST_HIDDEN):
            return False
    return True


def inside(thing: Thing) -> Thing:
    """The thing with its size in bounds, pushed into the frame from the left or right."""
    side = min(max(thing.side, LEAST_SIDE), MOST_SIDE)
    room = side * thing.sprite.width / 2 + 0.01
    return replace(thing, side=side, x=min(max(thing.x, room), 1 - room))


def hidden_share(thing: Thing, nearer: Thing) -> float:
    """The share of a thing's box that a nearer thing's box covers."""
    a, b = thing.box, nearer.box
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / ((a[2] - a[0]) * (a[3] - a[1]))


def free_columns(scene: Scene, sky: bool) -> list[str]:
    taken = {t.column for t in scene.things if t.sprite.hangs == sky}
    return [c for c in COLUMNS if c not in taken]


def beside(column: str, free: list[str]) -> str | None:
    """The free column next to this one, to the right if there is a choice."""
    columns = list(COLUMNS)
    i = columns.index(column)
    return next((c for c in columns[i + 1 : i + 2] + columns[max(i - 1, 0) : i] if c in free), None)


def without(scene: Scene, thing: Thing) -> tuple[Thing, ...]:
    return tuple(t for t in scene.things if t is not thing)
