"""ToyScenes: an endless, exact data set of instructed image edits.

3-D stickers stand on procedural places. Every example has a source and a target picture, an
instruction, the edit's mask, captions, and depth; example i of a split and a seed is the same scene
everywhere, and the same bytes on one kind of device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import torch
from torch import Tensor

from scar.toyscenes.edits import FAMILIES, EditSampler, Example
from scar.toyscenes.places import PLACES
from scar.toyscenes.render import Renderer, change_mask, thing_depth
from scar.toyscenes.scenes import Scene
from scar.toyscenes.sprites import sprite_bank, vocabulary
from scar.toyscenes.wild import WILD_FAMILIES, WildSampler

SPLITS = ("train", "validation", "test", "wild")
TRAIN_WEIGHTS = {"add": 20, "remove": 13, "replace": 18, "recolour": 13}
TRAIN_WEIGHTS |= {"resize": 8, "move": 9, "place": 11, "weather": 8}
TRAIN_WEIGHTS |= {"two": 5, "keep": 4}


@dataclass(frozen=True)
class PlacedObject:
    """An object in a picture: `box` is x0, y0, x1, y1 in pixels, `depth` 0 far to 1 near."""

    sprite: int
    name: str
    box: tuple[float, float, float, float]
    depth: float
    colour: str | None


@dataclass(frozen=True)
class Batch:
    """B rendered examples of side S."""

    source: Tensor  # uint8 (B, 3, S, S)
    target: Tensor  # uint8 (B, 3, S, S)
    mask: Tensor  # bool (B, S, S): where source and target differ, slightly dilated; may be empty
    source_depth: Tensor  # float32 (B, S, S), 0 far to 1 near
    target_depth: Tensor
    label: Tensor  # int64 (B,): the main object if it is of the vocabulary, else one that is shown
    instruction: list[str]
    family: list[str]
    source_caption: list[str]
    target_caption: list[str]
    held_out: list[str]  # "" | "phrasing" | "pair" | "background": why a test example is new
    objects: list[list[PlacedObject]]  # of the target, back to front
    source_objects: list[list[PlacedObject]]
    edited: list[int | None]  # index into objects of the new or changed one


class ToyScenes:
    """Renders examples by index.

    split: "train", "validation" (new scenes, nothing held out), "test" (half like validation, a
    quarter in phrasings and a quarter with object pairings that training never sees) or "wild" (two
    fifths like wild training, the rest in phrasings, with object pairings or on backdrops that
    training never sees).
    size: 64 to 512 pixels, a multiple of 16. objects: the first so many of the vocabulary, at
    least 8. families: a subset of the split's, None for all.
    wild: the share of training scenes that leave the eighteen places, with any object in them and
    as a camera would take them. 0 draws the plain world of "validation"; otherwise examples 2i and
    2i + 1 are two edits of one source. Only the vocabulary is ever drawn by add and replace.
    Raises ValueError for anything else.
    """

    places = tuple(place.name for place in PLACES)

    def __init__(
        self,
        split: str = "train",
        size: int = 128,
        objects: int = 48,
        seed: int = 0,
        device: str | torch.device = "cpu",
        families: Sequence[str] | None = None,
        wild: float = 0.5,
    ):
        sprites = vocabulary()
        if split not in SPLITS:
            raise ValueError(f"Unknown split {split!r}: use one of {', '.join(SPLITS)}.")
        if not 64 <= size <= 512 or size % 16:
            raise ValueError(f"size must be a multiple of 16 from 64 to 512, not {size}.")
        if not 8 <= objects <= len(sprites):
            raise ValueError(f"objects must be from 8 to {len(sprites)}, not {objects}.")
        if not 0 <= wild <= 1:
            raise ValueError(f"wild must be a share from 0 to 1, not {wild}.")
        self.wild = {"train": wild, "wild": 1.0}.get(split, 0.0)
        known = WILD_FAMILIES if self.wild else FAMILIES
        if families is not None and (not families or set(families) - set(known)):
            unknown = sorted(set(families) - set(known))
            raise ValueError(f"Unknown families {unknown}: choose from {', '.join(known)}.")
        self.families = tuple(families or known)
        self.split, self.size, self.seed = split, size, seed
        self.device = torch.device(device)
        self.names = [s.name for s in sprites[:objects]]
        shown = len(sprites) if self.wild else objects
        self.bank = sprite_bank(shown, size, self.device)
        self.renderer = Renderer(self.bank, size, self.device)
        if self.wild:
            self.sampler = WildSampler(sprites, self.bank.colours, objects)
        else:
            self.sampler = EditSampler(sprites[:objects], self.bank.colours)
        self._pair = lru_cache(256)(self._pair)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Render the examples of these indices, in this order. Raises ValueError for none."""
        if not len(indices):
            raise ValueError("A batch needs at least one index.")
        examples = [self.example(i) for i in indices]
        scenes = [e.source for e in examples] + [e.target for e in examples]
        pictures, depth = self.render(scenes)
        source, target = pictures.chunk(2)
        source_depth, target_depth = depth.chunk(2)
        placed = [self.placed(scene) for scene in scenes]
        return Batch(
            source=source,
            target=target,
            mask=change_mask(source, target),
            source_depth=source_depth,
            target_depth=target_depth,
            label=torch.tensor([self.label(e) for e in examples], device=self.device),
            instruction=[e.instruction for e in examples],
            family=[e.family for e in examples],
            source_caption=[e.source.caption for e in examples],
            target_caption=[e.target.caption for e in examples],
            held_out=[e.held_out for e in examples],
            objects=placed[len(examples) :],
            source_objects=placed[: len(examples)],
            edited=[e.target.order.index(e.edited) if e.edited else None for e in examples],
        )

    def example(self, index: int) -> Example:
        """Example `index` before rendering."""
        if self.wild:
            return self._pair(index // 2)[index % 2]
        rng = Random(f"{self.split}/{self.seed}/{len(self.names)}/{index}")
        unseen = ""
        if self.split == "train":
            weights = [TRAIN_WEIGHTS[f] for f in self.families]
            family = rng.choices(self.families, weights)[0]
        else:
            family = rng.choice(self.families)
        if self.split == "test":
            unseen = rng.choice(("", "", "phrasing", "pair"))
        return self.sampler.example(rng, family, unseen)

    def _pair(self, number: int) -> tuple[Example, Example]:
        """Examples 2 * number and the next one, two edits of one source."""
        rng = Random(f"pair/{self.split}/{self.seed}/{len(self.names)}/{number}")
        wild, unseen, weights = rng.random() < self.wild, "", None
        if self.split == "train":
            weights = [TRAIN_WEIGHTS[f] for f in self.families]
        else:
            unseen = rng.choice(("", "", "phrasing", "pair", "background"))
        families = rng.choices(self.families, weights, k=2)
        return self.sampler.pair(rng, families, wild, unseen)

    def label(self, example: Example) -> int:
        """The index of the main object, or else of one of the vocabulary that is shown."""
        things = (*example.target.things, *example.source.things)
        shown = [example.main.index, *(thing.sprite.index for thing in things)]
        return next(index for index in shown if index < len(self.names))

    def render(self, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        """Pictures uint8 (B, 3, S, S) and depth float32 (B, S, S) of scenes."""
        return self.renderer.render(scenes)

    def placed(self, scene: Scene) -> list[PlacedObject]:
        """The scene's objects back to front, in pixels."""
        return [
            PlacedObject(
                thing.sprite.index,
                thing.sprite.name,
                tuple(min(max(v, 0.0), 1.0) * self.size for v in thing.box),
                thing_depth(thing, scene),
                thing.colour,
            )
            for thing in scene.order
        ]
