"""The edits of ToyScenes: what changes between two scenes, and the instruction that asks for it."""

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from scar.toyscenes.backgrounds import BACKDROPS
from scar.toyscenes.language import (
    DESTINATIONS,
    POSITIONS,
    phrasings,
    spoken_name,
    vary_style,
    with_article,
)
from scar.toyscenes.language import noun as noun_phrase
from scar.toyscenes.places import PLACES, WEATHERS
from scar.toyscenes.scenes import (
    COLUMNS,
    LEAST_SIDE,
    RELATIVE_SIZE,
    Scene,
    Thing,
    beside,
    free_columns,
    inside,
    plausible,
    without,
)
from scar.toyscenes.seeds import DETAILS
from scar.toyscenes.sprites import Sprite

FAMILIES = ("add", "remove", "replace", "recolour", "resize", "move", "place", "weather")

# Of all (object, family) and (object, place) pairs, this share is never trained on.
HELD_OUT_PERCENT = 15


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


class EditSampler:
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
            instruction = vary_style(rng, template.format(**words))
            return Example(source, target, family, instruction, main, edited, unseen)

    # -- families, each on a scene of its own --------------------------------------------------

    def _add(self, rng: Random):
        return self.added(rng, self._scene(rng, 0, 2))

    def _remove(self, rng: Random):
        source = self._scene(rng, 1, 3)
        return self.removed(rng, source, rng.choice(source.things))

    def _replace(self, rng: Random):
        source = self._scene(rng, 1, 3)
        return self.replaced(rng, source, rng.choice(source.things))

    def _recolour(self, rng: Random):
        source = self._scene(rng, 1, 3)
        return self.recoloured(rng, source, rng.choice(source.things))

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
        return source, target, old.sprite, new, kind, self._old(rng, source, old)

    def _move(self, rng: Random):
        source = self._scene(rng, 1, 3)
        return self.moved(rng, source, rng.choice(source.things))

    def _place(self, rng: Random):
        return self.elsewhere(rng, self._scene(rng, 1, 3))

    def _weather(self, rng: Random):
        return self.in_weather(rng, self._scene(rng, 1, 3, outdoor=True, calm=0.6))

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
        hang = BACKDROPS[scene.place].outdoor and rng.random() < 0.22
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

    def _the(self, rng: Random, scene: Scene, thing: Thing) -> str:
        colour = thing.colour if rng.random() < 0.5 else None
        name = spoken_name(rng, thing.sprite, self.names)
        return noun_phrase(thing.sprite, colour, name)

    def _a(self, rng: Random, thing: Thing) -> str:
        name = spoken_name(rng, thing.sprite, self.names)
        return with_article(thing.sprite, thing.colour, name)

    def _old(self, rng: Random, scene: Scene, thing: Thing) -> dict[str, str]:
        bare = self._the(rng, scene, thing)
        return {"old": f"the {bare}", "bare": bare}

    # -- edits of a scene: (source, target, main object, edited thing, kind of phrasing, words) -

    def added(self, rng: Random, source: Scene):
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
            words["x"] = f"the {self._the(rng, source, other)}"
        elif manner < 0.35 and standing and not sprite.hangs:
            other = rng.choice(standing)
            thing, kind = self._behind(rng, sprite, other, coloured), "behind"
            words["x"] = f"the {self._the(rng, source, other)}"
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
        bare = noun_phrase(sprite, thing.colour)
        words = {"new": self._a(rng, thing), "where": where, "thing": bare}
        return source, target, sprite, thing, f"add {kind}", words

    def _behind(self, rng: Random, sprite: Sprite, front: Thing, coloured: bool) -> Thing:
        thing = self._thing(rng, sprite, front.column, coloured)
        aside = rng.choice((-1, 1)) * rng.uniform(0.05, 0.09)
        side = max(thing.side, front.side * 1.12)
        return inside(replace(thing, x=front.x + aside, base=front.base - 0.13, side=side))

    def removed(self, rng: Random, source: Scene, thing: Thing):
        target = replace(source, things=without(source, thing))
        return source, target, thing.sprite, None, "remove", self._old(rng, source, thing)

    def replaced(self, rng: Random, source: Scene, old: Thing):
        sprite = rng.choice(self.hanging if old.sprite.hangs else self.standing)
        if any(sprite is t.sprite for t in source.things):
            return None
        new = self._thing(rng, sprite, old.column, rng.random() < 0.2)
        scale = RELATIVE_SIZE.get(sprite.category, 1.0)
        scale /= RELATIVE_SIZE.get(old.sprite.category, 1.0)
        new = inside(replace(new, x=old.x, base=old.base, side=old.side * scale))
        target = replace(source, things=(*without(source, old), new))
        words = self._old(rng, source, old) | {"new": self._a(rng, new)}
        return source, target, sprite, new, "replace", words

    def recoloured(self, rng: Random, source: Scene, old: Thing):
        colour = self._colour(rng, old.sprite, but=old.colour)
        if colour is None:
            return None
        new = replace(old, colour=colour)
        target = replace(source, things=(*without(source, old), new))
        words = self._old(rng, source, old) | {"colour": colour}
        return source, target, old.sprite, new, "recolour", words

    def moved(self, rng: Random, source: Scene, old: Thing):
        free = free_columns(source, old.sprite.hangs)
        if not free:
            return None
        column = rng.choice(free)
        x = old.x - COLUMNS[old.column] + COLUMNS[column]
        new = inside(replace(old, column=column, x=x))
        target = replace(source, things=(*without(source, old), new))
        words = self._old(rng, source, old) | {"to": rng.choice(DESTINATIONS[column])}
        return source, target, old.sprite, new, "move", words

    def elsewhere(self, rng: Random, source: Scene):
        place = rng.randrange(len(PLACES))
        if place == source.place:
            return None
        target = replace(source, place=place, details=tuple(rng.random() for _ in source.details))
        words = {"place": PLACES[place].noun, "there": PLACES[place].where}
        return source, target, source.things[0].sprite, None, "place", words

    def in_weather(self, rng: Random, source: Scene):
        weather = rng.choice(WEATHERS)
        if weather == source.weather:
            return None
        target = replace(source, weather=weather)
        return source, target, source.things[0].sprite, None, weather, {}


@cache
def is_held_out(name: str, other: str) -> bool:
    """Whether the pair of an object and a family, or an object and a place, is kept for testing."""
    digest = hashlib.sha256(f"{name}|{other}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def novel(source: Scene, target: Scene, main: Sprite, family: str) -> bool:
    """Whether the example shows a pair that training never sees."""
    return is_held_out(main.name, family) or any(
        is_held_out(thing.sprite.name, BACKDROPS[scene.place].name)
        for scene in (source, target)
        for thing in scene.things
    )
