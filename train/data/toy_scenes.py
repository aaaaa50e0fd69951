"""What is in a ToyScenes example: the two scenes, the edit between them, and its words."""

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from .toy_language import (
    DESTINATIONS,
    POSITIONS,
    WEATHER_CAPTIONS,
    enumeration,
    phrasings,
    spoken_name,
    utter,
    with_article,
)
from .toy_language import noun as noun_phrase
from .toy_paint import DETAILS
from .toy_places import PLACES, WEATHERS, Place
from .toy_sprites import Sprite

FAMILIES = ("add", "remove", "replace", "recolour", "resize", "move", "place", "weather")

# Of all (object, family) and (object, place) pairs, this share is never trained on.
HELD_OUT_PERCENT = 15

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
    """A place (index), its weather, the objects in any order, and the place's random details."""

    place: int
    weather: str
    things: tuple[Thing, ...]
    details: tuple[float, ...]

    @property
    def order(self) -> list[Thing]:
        """Back to front: what hangs in the sky first, then by where it stands."""
        return sorted(self.things, key=lambda t: (not t.sprite.hangs, t.base))

    @property
    def caption(self) -> str:
        place = PLACES[self.place]
        weather = WEATHER_CAPTIONS[self.weather]
        if not self.things:
            return place.noun + weather
        nouns = [with_article(t.sprite, t.colour) for t in sorted(self.things, key=reading_order)]
        return f"{enumeration(nouns)} {place.where}{weather}"


@dataclass(frozen=True)
class Example:
    """An edit: `edited` is the new or changed object of the target, None if there is none."""

    source: Scene
    target: Scene
    family: str
    instruction: str
    main: Sprite
    edited: Thing | None
    held_out: str


def reading_order(thing: Thing) -> tuple[bool, float]:
    return thing.sprite.hangs, thing.x


@cache
def is_held_out(name: str, other: str) -> bool:
    """Whether the pair of an object and a family, or an object and a place, is kept for testing."""
    digest = hashlib.sha256(f"{name}|{other}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


class Imagination:
    """Draws examples from a vocabulary. All randomness comes from the passed generator."""

    def __init__(self, sprites: tuple[Sprite, ...], colours: list[list[str]]):
        self.sprites = sprites
        self.colours = colours  # for each sprite, the colours that visibly differ from its own
        self.names = frozenset(s.name for s in sprites)
        self.standing = [s for s in sprites if not s.hangs]
        self.hanging = [s for s in sprites if s.hangs]

    def example(self, rng: Random, family: str, unseen: str) -> Example:
        """An example of a family; `unseen` is "" or what training never saw of it:

        "phrasing" (the words) or "pair" (the object with this family, or with this place).
        """
        while True:
            found = getattr(self, f"_{family}")(rng)
            if found is None:
                continue
            source, target, main, edited, kind, words = found
            if not (plausible(source, edited, kind) and plausible(target, edited, kind)):
                continue
            if novel(source, target, main, family) != (unseen == "pair"):
                continue
            template = rng.choice(phrasings(kind.split()[0], unseen == "phrasing"))
            instruction = utter(rng, template.format(**words))
            return Example(source, target, family, instruction, main, edited, unseen)

    # -- scenes --------------------------------------------------------------------------------

    def _scene(
        self, rng: Random, least: int, most: int, outdoor: bool = False, calm: float = 0.8
    ) -> Scene:
        place = rng.randrange(len(PLACES))
        while outdoor and not PLACES[place].outdoor:
            place = rng.randrange(len(PLACES))
        fine = rng.random() < calm or not PLACES[place].outdoor
        weather = "clear" if fine else rng.choice(WEATHERS[1:])
        details = tuple(rng.random() for _ in range(DETAILS))
        scene = Scene(place, weather, (), details)
        for _ in range(rng.randint(least, most)):
            sprite = self._new_sprite(rng, scene)
            column = rng.choice(free_columns(scene, sprite.hangs) or ["full"])
            if column == "full":
                continue
            thing = self._thing(rng, sprite, column, rng.random() < 0.2)
            scene = replace(scene, things=(*scene.things, thing))
        return scene

    def _new_sprite(self, rng: Random, scene: Scene) -> Sprite:
        present = {t.sprite.index for t in scene.things}
        hang = PLACES[scene.place].outdoor and rng.random() < 0.22
        unused = any(s.index not in present for s in self.hanging)
        pool = self.hanging if hang and unused else self.standing
        while (sprite := rng.choice(pool)).index in present:
            continue
        return sprite

    def _thing(self, rng: Random, sprite: Sprite, column: str, coloured: bool) -> Thing:
        x = COLUMNS[column] + rng.uniform(-0.03, 0.03)
        near = rng.random()
        base = 0.74 + 0.2 * near
        side = (0.34 + 0.1 * near) * RELATIVE_SIZE.get(sprite.category, 1.0)
        if sprite.hangs:
            base = rng.uniform(0.3, 0.36)
            side = rng.uniform(0.28, 0.34)
        colour = self._colour(rng, sprite) if coloured else None
        return inside(Thing(sprite, column, x, base, side, colour))

    def _colour(self, rng: Random, sprite: Sprite, but: str | None = None) -> str | None:
        choices = [c for c in self.colours[sprite.index] if c != but]
        return rng.choice(choices) if choices else None

    def _the(self, rng: Random, thing: Thing) -> str:
        colour = thing.colour if rng.random() < 0.5 else None
        name = spoken_name(rng, thing.sprite, self.names)
        return noun_phrase(thing.sprite, colour, name)

    def _a(self, rng: Random, thing: Thing) -> str:
        name = spoken_name(rng, thing.sprite, self.names)
        return with_article(thing.sprite, thing.colour, name)

    def _old(self, rng: Random, thing: Thing) -> dict[str, str]:
        bare = self._the(rng, thing)
        return {"old": f"the {bare}", "bare": bare}

    # -- families: (source, target, main object, edited thing, kind of phrasing, its words) ----

    def _add(self, rng: Random):
        source = self._scene(rng, 0, 2)
        sprite = self._new_sprite(rng, source)
        free = free_columns(source, sprite.hangs)
        coloured = rng.random() < 0.25
        standing = [t for t in source.things if not t.sprite.hangs]
        manner = rng.random()
        words = {}
        if manner < 0.2 and standing and not sprite.hangs:
            other = rng.choice(standing)
            column = beside(other.column, free)
            if column is None:
                return None
            thing, kind = self._thing(rng, sprite, column, coloured), "next"
            words["x"] = f"the {self._the(rng, other)}"
        elif manner < 0.35 and standing and not sprite.hangs:
            other = rng.choice(standing)
            thing, kind = self._behind(rng, sprite, other, coloured), "behind"
            words["x"] = f"the {self._the(rng, other)}"
        elif manner < 0.5:
            # Without a position the first free column of this order is meant.
            column = next(c for c in ("middle", "right", "left") if c in free)
            thing, kind = self._thing(rng, sprite, column, coloured), "anywhere"
        else:
            column = rng.choice(free)
            thing, kind = self._thing(rng, sprite, column, coloured), column
        if sprite.hangs:
            kind = f"sky {kind}"
        where = rng.choice(POSITIONS[kind]).format(**words)
        target = replace(source, things=(*source.things, thing))
        words = {"new": self._a(rng, thing), "where": where}
        return source, target, sprite, thing, f"add {kind}", words

    def _behind(self, rng: Random, sprite: Sprite, front: Thing, coloured: bool) -> Thing:
        thing = self._thing(rng, sprite, front.column, coloured)
        aside = rng.choice((-1, 1)) * rng.uniform(0.05, 0.09)
        side = max(thing.side, front.side * 1.12)
        return inside(replace(thing, x=front.x + aside, base=front.base - 0.13, side=side))

    def _remove(self, rng: Random):
        source = self._scene(rng, 1, 3)
        thing = rng.choice(source.things)
        target = replace(source, things=without(source, thing))
        return source, target, thing.sprite, None, "remove", self._old(rng, thing)

    def _replace(self, rng: Random):
        source = self._scene(rng, 1, 3)
        old = rng.choice(source.things)
        sprite = rng.choice(self.hanging if old.sprite.hangs else self.standing)
        if any(sprite is t.sprite for t in source.things):
            return None
        new = self._thing(rng, sprite, old.column, rng.random() < 0.2)
        scale = RELATIVE_SIZE.get(sprite.category, 1.0)
        scale /= RELATIVE_SIZE.get(old.sprite.category, 1.0)
        new = inside(replace(new, x=old.x, base=old.base, side=old.side * scale))
        target = replace(source, things=(*without(source, old), new))
        words = self._old(rng, old) | {"new": self._a(rng, new)}
        return source, target, sprite, new, "replace", words

    def _recolour(self, rng: Random):
        source = self._scene(rng, 1, 3)
        old = rng.choice(source.things)
        colour = self._colour(rng, old.sprite, but=old.colour)
        if colour is None:
            return None
        new = replace(old, colour=colour)
        target = replace(source, things=(*without(source, old), new))
        words = self._old(rng, old) | {"colour": colour}
        return source, target, old.sprite, new, "recolour", words

    def _resize(self, rng: Random):
        source = self._scene(rng, 1, 3)
        old = rng.choice(source.things)
        kind = rng.choice(("bigger", "smaller"))
        small = rng.uniform(LEAST_SIDE, 0.35)
        large = small * rng.uniform(1.45, 1.55)
        before, after = (small, large) if kind == "bigger" else (large, small)
        new = inside(replace(old, side=after))
        rest = without(source, old)
        target = replace(source, things=(*rest, new))
        source = replace(source, things=(*rest, inside(replace(old, side=before))))
        return source, target, old.sprite, new, kind, self._old(rng, old)

    def _move(self, rng: Random):
        source = self._scene(rng, 1, 3)
        old = rng.choice(source.things)
        free = free_columns(source, old.sprite.hangs)
        if not free:
            return None
        column = rng.choice(free)
        x = old.x - COLUMNS[old.column] + COLUMNS[column]
        new = inside(replace(old, column=column, x=x))
        target = replace(source, things=(*without(source, old), new))
        words = self._old(rng, old) | {"to": rng.choice(DESTINATIONS[column])}
        return source, target, old.sprite, new, "move", words

    def _place(self, rng: Random):
        source = self._scene(rng, 1, 3)
        place = rng.randrange(len(PLACES))
        if place == source.place:
            return None
        target = replace(source, place=place, details=tuple(rng.random() for _ in source.details))
        words = {"place": PLACES[place].noun, "there": PLACES[place].where}
        return source, target, source.things[0].sprite, None, "place", words

    def _weather(self, rng: Random):
        source = self._scene(rng, 1, 3, outdoor=True, calm=0.6)
        weather = rng.choice(WEATHERS)
        if weather == source.weather:
            return None
        target = replace(source, weather=weather)
        return source, target, source.things[0].sprite, None, weather, {}


def plausible(scene: Scene, edited: Thing | None, kind: str) -> bool:
    """Everything inside the frame and visible, and the sky kept for outdoor places."""
    place: Place = PLACES[scene.place]
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


def novel(source: Scene, target: Scene, main: Sprite, family: str) -> bool:
    """Whether the example shows a pair that training never sees."""
    return is_held_out(main.name, family) or any(
        is_held_out(thing.sprite.name, PLACES[scene.place].name)
        for scene in (source, target)
        for thing in scene.things
    )


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
