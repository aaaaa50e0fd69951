"""Wilder ToyScenes: crowded scenes on any backdrop, with two edits of each.

Two examples share a source and name different objects, so that the words alone can tell what is to
change.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from scar.toyscenes import backgrounds
from scar.toyscenes.backgrounds import BACKDROPS
from scar.toyscenes.camera import random_look
from scar.toyscenes.edits import FAMILIES, EditSampler, Example, novel
from scar.toyscenes.language import noun, with_article
from scar.toyscenes.phrasings import clauses, wild_phrasings
from scar.toyscenes.places import PLACES, WEATHERS
from scar.toyscenes.scenes import (
    COLUMNS,
    LEAST_SIDE,
    MOST_SIDE,
    RELATIVE_SIZE,
    Scene,
    Thing,
    inside,
    plausible,
    without,
)
from scar.toyscenes.seeds import DETAILS
from scar.toyscenes.sprites import Sprite
from scar.toyscenes.synonyms import ANY_OF, confusable, in_plural, misspelt, other_names, typed

WILD_FAMILIES = (*FAMILIES, "two", "keep")
FOUR = (0.13, 0.38, 0.62, 0.87)  # where four objects stand
ATTEMPTS = 4  # at each edit, before another scene is drawn


class WildSampler(EditSampler):
    """Draws pairs of examples.

    sprites: all objects that may stand in a scene; the first `objects` may be drawn by an edit.
    """

    def __init__(self, sprites: tuple[Sprite, ...], colours: list[list[str]], objects: int):
        super().__init__(sprites[:objects], colours)
        self.everything = sprites
        self.names = frozenset(s.name for s in sprites)

    def pair(
        self, rng: Random, families: Sequence[str], wild: bool, unseen: str
    ) -> tuple[Example, Example]:
        """Two examples of these two families that share a source.

        wild: on any backdrop and among all objects, else in a place and among the vocabulary.
        unseen: as in `example`, or "background".
        """
        count = self._count(rng, families)
        while True:
            source = self._shared_scene(rng, families, count, wild, unseen == "background")
            if source is None or not plausible(source, None, ""):
                continue
            things = rng.sample(source.things, len(source.things)) or [None]
            first = self._of(rng, source, families[0], things, unseen)
            second = first and self._of(rng, source, families[1], things[::-1], unseen)
            if second and first.instruction.lower() != second.instruction.lower():
                return first, second

    def _of(
        self, rng: Random, source: Scene, family: str, things: list, unseen: str
    ) -> Example | None:
        """An edit of the first of these things."""
        if things == [None] and family != "add":
            return None
        for _ in range(ATTEMPTS):
            found = self._edited(rng, source, family, things)
            if found is None:
                continue
            _, target, main, edited, kind, words = found
            if not plausible(target, edited, kind) or not self._clear(target):
                continue
            if novel(source, target, main, family) != (unseen == "pair"):
                continue
            template = rng.choice(wild_phrasings(kind.split()[0], unseen == "phrasing"))
            if family == "two" or (things[0] and things[0].sprite.plural):
                template = in_plural(template)
            if rng.random() < 0.03 and unseen != "phrasing":
                template = misspelt(rng, template)
            instruction = typed(rng, template.format(**words))
            return Example(source, target, family, instruction, main, edited, unseen)
        return None

    def _edited(self, rng: Random, source: Scene, family: str, things: list[Thing]):
        match family:
            case "add":
                return self.added(rng, source)
            case "remove":
                return self.removed(rng, source, things[0])
            case "replace":
                return self.replaced(rng, source, things[0])
            case "recolour":
                return self.recoloured(rng, source, things[0])
            case "resize":
                return self.resized(rng, source, things[0])
            case "move":
                return self.moved(rng, source, things[0])
            case "place":
                return self.elsewhere(rng, source)
            case "weather":
                return self.in_weather(rng, source)
            case "two":
                return self.twice(rng, source, things)
        return self.kept(rng, source, things[0])

    # -- scenes --------------------------------------------------------------------------------

    def _count(self, rng: Random, families: Sequence[str]) -> int:
        """How many objects stand beside each other, so that the families fit."""
        if set(families) == {"add"}:
            return rng.randint(0, 2)
        one = 0 if "two" in families else 8
        if {"add", "move"} & set(families):
            return rng.choices((1, 2), (one, 92))[0]
        four = 0 if "resize" in families else 24
        return rng.choices((1, 2, 3, 4), (one, 36, 34, four))[0]

    def _shared_scene(
        self, rng: Random, families: Sequence[str], count: int, wild: bool, held_out: bool
    ) -> Scene | None:
        """A scene that edits of these families may fit; None if nothing came of it."""
        place = self._backdrop(rng, wild, held_out)
        changing = 0.4 if "weather" in families else 0.2 if place < len(PLACES) else 0.1
        fine = not BACKDROPS[place].outdoor or rng.random() > changing
        weather = "clear" if fine else rng.choice(WEATHERS[1:])
        details = tuple(rng.random() for _ in range(DETAILS))
        scene = Scene(place, weather, (), details)
        if wild:
            look = random_look(rng) if rng.random() < 0.75 else ()
            scene = replace(scene, shadow=rng.choice((1.0, 1.0, 0.5, 0.0)), look=look)
        open_air = BACKDROPS[place].outdoor and count < 4 and bool(self.hanging)
        sky = open_air and rng.random() < 0.12
        scene = self._filled(rng, scene, count, sky, wild)
        if open_air and rng.random() < 0.12:
            scene = self._filled(rng, scene, 1, not sky, wild)
        return scene if self._clear(scene) else None

    def _backdrop(self, rng: Random, wild: bool, held_out: bool) -> int:
        if held_out:
            return rng.randrange(backgrounds.HELD_OUT_AT, len(BACKDROPS))
        if not wild:
            return rng.randrange(len(PLACES))
        kind = rng.random()
        if kind < 0.35:
            return rng.randrange(backgrounds.DISGUISED_AT, backgrounds.KINDS_AT)
        if kind < 0.42:
            return rng.randrange(backgrounds.PLAIN_AT, backgrounds.DISGUISED_AT)
        return rng.randrange(backgrounds.KINDS_AT, backgrounds.HELD_OUT_AT)

    def _filled(self, rng: Random, scene: Scene, count: int, sky: bool, wild: bool) -> Scene:
        """The scene with so many more things, side by side in the sky or on the ground."""
        columns = [(column, x) for column, x in COLUMNS.items()]
        if count == 4:
            columns = [(min(COLUMNS, key=lambda c: abs(COLUMNS[c] - x)), x) for x in FOUR]
        vocabulary = self.hanging if sky else self.standing
        everything = [s for s in self.everything if s.hangs == sky] if wild else vocabulary
        for i, (column, x) in enumerate(rng.sample(columns, count)):
            # The first is always of the vocabulary: every example has a label.
            pool = vocabulary if rng.random() < 0.25 or not (i or scene.things) else everything
            sprite = rng.choice(pool)
            thing = self._thing(rng, sprite, column, rng.random() < 0.2)
            near = rng.random()
            side, base = thing.side, thing.base
            if wild and sky:
                base, side = rng.uniform(0.28, 0.42), rng.uniform(0.26, 0.34)
            elif wild:
                base, side = 0.54 + 0.42 * near, side * rng.uniform(0.75, 1.25)
            if count == 4:
                side = (0.26 + 0.06 * near) * RELATIVE_SIZE.get(sprite.category, 1.0)
            x += rng.uniform(-0.02, 0.02) if count > 2 else rng.uniform(-0.05, 0.05)
            mirrored = wild and rng.random() < 0.5
            thing = inside(replace(thing, x=x, base=base, side=side, mirrored=mirrored))
            scene = replace(scene, things=(*scene.things, thing))
        return scene

    def _clear(self, scene: Scene) -> bool:
        """Whether every name says which thing is meant."""
        sprites = [t.sprite for t in scene.things]
        return not any(confusable(a, b) for i, a in enumerate(sprites) for b in sprites[:i])

    def _colour(self, rng: Random, sprite: Sprite, but: str | None = None) -> str | None:
        choices = [c for c in self.colours[sprite.index] if c not in (but, sprite.colour)]
        return rng.choice(choices) if choices else None

    # -- words ---------------------------------------------------------------------------------

    def _the(self, rng: Random, scene: Scene, thing: Thing) -> str:
        others = [t for t in scene.things if t is not thing]
        alike = any(t.sprite.category in (thing.sprite.category, "sky") for t in others)
        name = thing.sprite.name
        if not alike and rng.random() < 0.25:
            name = rng.choice(other_names(thing.sprite, self.names))
        elif not alike and thing.sprite.category in ANY_OF and rng.random() < 0.06:
            name = ANY_OF[thing.sprite.category]
        colour = thing.colour if rng.random() < 0.5 else None
        if thing.colour is None and rng.random() < 0.12:
            colour = thing.sprite.colour
        return noun(thing.sprite, colour, name)

    def _a(self, rng: Random, thing: Thing) -> str:
        names = other_names(thing.sprite, self.names)
        name = rng.choice(names) if rng.random() < 0.2 else names[0]
        return with_article(thing.sprite, thing.colour, name)

    def _old(self, rng: Random, scene: Scene, thing: Thing) -> dict[str, str]:
        bare = self._the(rng, scene, thing)
        article = rng.choices(("the ", "that ", "this ", ""), (84, 4, 3, 9))[0]
        if thing.sprite.plural:
            article = {"that ": "those ", "this ": "these "}.get(article, article)
        return {"old": article + bare, "bare": bare}

    # -- edits ---------------------------------------------------------------------------------

    def resized(self, rng: Random, source: Scene, old: Thing):
        factor = rng.uniform(1.45, 1.55)
        kinds = []
        if old.side * factor <= MOST_SIDE:
            kinds.append("bigger")
        if old.side / factor >= LEAST_SIDE:
            kinds.append("smaller")
        if not kinds:
            return None
        kind = rng.choice(kinds)
        side = old.side * factor if kind == "bigger" else old.side / factor
        new = inside(replace(old, side=side))
        target = replace(source, things=(*without(source, old), new))
        return source, target, old.sprite, new, kind, self._old(rng, source, old)

    def elsewhere(self, rng: Random, source: Scene):
        if rng.random() < 0.75:
            return super().elsewhere(rng, source)
        place = rng.randrange(backgrounds.PLAIN_AT, backgrounds.DISGUISED_AT)
        details = tuple(rng.random() for _ in source.details)
        target = replace(source, place=place, details=details)
        words = {"place": BACKDROPS[place].noun, "there": BACKDROPS[place].where}
        return source, target, source.things[0].sprite, None, "place", words

    def twice(self, rng: Random, source: Scene, things: list[Thing]):
        """Two edits in one sentence, or one edit of two things."""
        if len(things) < 2:
            return None
        first, second = things[:2]
        if rng.random() < 0.35:
            return self._of_both(rng, source, first, second)
        families = [rng.choice(("remove", "replace", "recolour", "resize")) for _ in "ab"]
        if len(things) == 2 and rng.random() < 0.25:
            families[1] = "add"
        scene, texts, edited = source, {}, None
        for key, family, thing in zip("ab", families, (first, second), strict=True):
            found = self._edited(rng, scene, family, [thing])
            if found is None or novel(source, found[1], found[2], family):
                return None
            _, scene, _, new, kind, words = found
            texts[key] = rng.choice(clauses(kind.split()[0])).format(**words).strip()
            edited = new or edited
        return source, scene, first.sprite, edited, "two", texts

    def _of_both(self, rng: Random, source: Scene, first: Thing, second: Thing):
        colours = set(self.colours[first.sprite.index]) & set(self.colours[second.sprite.index])
        colours -= {t.colour or t.sprite.colour for t in (first, second)}
        colours = sorted(colours)
        family = rng.choice(("remove", "recolour")) if colours else "remove"
        rest = tuple(t for t in source.things if t is not first and t is not second)
        names = [self._the(rng, source, thing) for thing in (first, second)]
        words = {"old": f"the {names[0]} and the {names[1]}", "bare": " and ".join(names)}
        if family == "remove":
            target = replace(source, things=rest)
            words["bare"] = " or ".join(names)
            return source, target, first.sprite, None, family, words
        colour = rng.choice(colours)
        dyed = [replace(thing, colour=colour) for thing in (first, second)]
        target = replace(source, things=(*rest, *dyed))
        return source, target, first.sprite, dyed[0], family, words | {"colour": colour}

    def kept(self, rng: Random, source: Scene, thing: Thing):
        """Nothing changes: because nothing is asked for, or because it is not there."""
        if rng.random() < 0.7:
            return source, source, thing.sprite, None, "keep", {}
        seen = {t.sprite.category for t in source.things}
        absent = rng.choice([s for s in self.everything if s.category not in seen])
        kind = rng.choice(("remove", "bigger", "smaller"))
        words = {"old": f"the {absent.name}", "bare": absent.name}
        return source, source, thing.sprite, None, kind, words
