"""ToyScenes: an endless, exact data set of instructed image edits.

3-D stickers stand on procedural places. Every example has a source and a target picture, an
instruction, the edit's mask, captions, and depth; example i of a split and a seed is the same scene
everywhere, and the same bytes on one kind of device.

    python -m train.data.toy --preview sheet.png      a labelled contact sheet
    python -m train.data.toy --bench                  rendered pairs per second
    python -m train.data.toy --examples assets/examples
"""

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from .toy_backgrounds import BACKDROPS
from .toy_camera import photographed
from .toy_edits import FAMILIES, EditSampler, Example
from .toy_places import OBJECT_LIGHT, PLACES, backdrop, falling, weathered
from .toy_scenes import Scene, Thing
from .toy_seeds import Seeds
from .toy_sprites import COLOURS, SpriteBank, vocabulary
from .toy_wild import WILD_FAMILIES, WildSampler

SPLITS = ("train", "validation", "test", "wild")
TRAIN_WEIGHTS = {"add": 20, "remove": 13, "replace": 18, "recolour": 13}
TRAIN_WEIGHTS |= {"resize": 8, "move": 9, "place": 11, "weather": 8}
TRAIN_WEIGHTS |= {"two": 5, "keep": 4}
SKY_DEPTH = 0.1  # of objects that hang in the sky


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
        self.bank = SpriteBank(len(sprites) if self.wild else objects, size, self.device)
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
        # Neighbours share a backdrop, or at least a place, and are painted together.
        order = sorted(range(len(scenes)), key=lambda i: backdrop_key(scenes[i]))
        workers = 1 if self.device.type != "cpu" else min(torch.get_num_threads(), len(scenes))
        share = -(-len(scenes) // workers)
        parts = [order[i : i + share] for i in range(0, len(order), share)]
        drawn = in_threads(lambda part: self._render([scenes[i] for i in part]), parts)
        back = sorted(range(len(order)), key=lambda i: order[i])
        pictures, depth = (torch.cat(tensors) for tensors in zip(*drawn, strict=True))
        return pictures[back], depth[back]

    def _render(self, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        # With the fullest scenes first, every layer is a leading slice that is painted in place.
        fullest = sorted(range(len(scenes)), key=lambda i: -len(scenes[i].things))
        scenes = [scenes[i] for i in fullest]
        rgb, depth, seeds = self._backdrops(scenes)
        orders = [scene.order for scene in scenes]
        for k in range(max((len(order) for order in orders), default=0)):
            count = sum(len(order) > k for order in orders)
            self._paste([order[k] for order in orders[:count]], scenes[:count], rgb, depth)
        for weather in ("snow", "rain"):
            rows = [i for i, scene in enumerate(scenes) if scene.weather == weather]
            if rows:
                cover = falling(weather, Seeds(seeds[rows], self.size))[:, None]
                white = 1.0 if weather == "snow" else 0.86
                rgb[rows] = rgb[rows] + (white - rgb[rows]) * cover
        rows = [i for i, scene in enumerate(scenes) if scene.look]
        if rows:
            looks = torch.tensor([scenes[i].look for i in rows], device=self.device)
            rgb[rows] = photographed(rgb[rows], looks)
        pictures = rgb.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
        back = sorted(range(len(scenes)), key=lambda i: fullest[i])
        return pictures[back], depth[back]

    def _backdrops(self, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor]:
        """RGB (B, 3, S, S), depth (B, S, S) and the scenes' numbers (B, DETAILS)."""
        keys = list(dict.fromkeys(map(backdrop_key, scenes)))
        numbers = torch.tensor([k[2] for k in keys], device=self.device)
        rgb = torch.empty(len(keys), 3, self.size, self.size, device=self.device)
        depth = torch.empty(len(keys), self.size, self.size, device=self.device)
        for place, weather in sorted({k[:2] for k in keys}):
            rows = [i for i, k in enumerate(keys) if k[:2] == (place, weather)]
            seeds = Seeds(numbers[rows], self.size)
            clear, sky, far = backdrop(BACKDROPS[place], seeds)
            rgb[rows] = weathered(weather, clear, sky, seeds, BACKDROPS[place])
            depth[rows] = far
        where = {key: i for i, key in enumerate(keys)}
        rows = [where[backdrop_key(s)] for s in scenes]
        return rgb[rows], depth[rows], numbers[rows]

    def _paste(self, things: list[Thing], scenes: list[Scene], rgb: Tensor, depth: Tensor) -> None:
        """Put one thing into each of the first scenes of rgb and depth, in place."""
        colours = [None, *COLOURS]
        drawn, opacity, own_opacity = self.bank.layers(
            torch.tensor([t.sprite.index for t in things], device=self.device),
            torch.tensor([colours.index(t.colour) - 1 for t in things], device=self.device),
            torch.tensor([self.cell(t) for t in things], device=self.device),
            torch.tensor([-1.0 if t.mirrored else 1.0 for t in things], device=self.device),
            torch.tensor([s.shadow for s in scenes], device=self.device),
            torch.tensor([OBJECT_LIGHT[s.weather] for s in scenes], device=self.device),
            self.size,
        )
        rgb[: len(things)].mul_(1 - opacity).add_(drawn)
        near = [thing_depth(t, s) for t, s in zip(things, scenes, strict=True)]
        near = torch.tensor(near, device=self.device)[:, None, None]
        layer = depth[: len(things)]
        layer.copy_(torch.where(own_opacity[:, 0] > 0.5, near, layer))

    def cell(self, thing: Thing) -> tuple[float, float, float]:
        """Left, top and side in pixels of the sprite cell whose lower edge the thing stands on."""
        side = thing.side * self.size
        foot = side * 2 / 128  # the packed cells leave two pixels of 128 below the object
        return thing.x * self.size - side / 2, thing.base * self.size - side + foot, side

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


def backdrop_key(scene: Scene) -> tuple[int, str, tuple[float, ...]]:
    """Scenes with the same key have the same backdrop."""
    return scene.place, scene.weather, scene.details


def in_threads(function: Callable, parts: list) -> list:
    """Map a function over parts, each in its own thread with single-threaded torch.

    Thousands of small operations that each wait for all threads take ten times as long on a busy
    machine as independent threads do.
    """
    if len(parts) == 1:
        return [function(parts[0])]
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            len(parts), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(function, parts))
    finally:
        torch.set_num_threads(threads)  # also the default of threads started later


def thing_depth(thing: Thing, scene: Scene) -> float:
    """The depth of the ground where the thing stands, as `toy_paint.ground_depth` has it."""
    if thing.sprite.hangs:
        return SKY_DEPTH
    place = BACKDROPS[scene.place]
    horizon = place.horizon + place.sway * (scene.details[0] - 0.5)
    return 0.2 + 0.8 * min(max((thing.base - horizon) / (1 - horizon), 0.0), 1.0)


def change_mask(source: Tensor, target: Tensor) -> Tensor:
    """Where two pictures uint8 (B, 3, S, S) differ, grown by 1/64 of the side: bool (B, S, S)."""
    changed = (source != target).any(1, keepdim=True).float()
    reach = max(1, source.shape[-1] // 64)
    return F.max_pool2d(changed, 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0


def bench(size: int, pairs: int) -> tuple[float, float]:
    """Rendered pairs per second, and milliseconds of processor time for one."""
    scenes = ToyScenes(size=size)
    scenes.batch(range(64))
    start, used = time.perf_counter(), time.process_time()
    for first in range(0, pairs, 64):
        scenes.batch(range(first, first + 64))
    spent = time.perf_counter() - start, time.process_time() - used
    return pairs / spent[0], 1000 * spent[1] / pairs


def main() -> None:
    parser = argparse.ArgumentParser(description="ToyScenes: previews, speed and demo examples.")
    parser.add_argument("--preview", type=Path, help="write a labelled contact sheet to this PNG")
    parser.add_argument("--examples", type=Path, help="write the demo's example scenes here")
    parser.add_argument("--bench", action="store_true", help="print rendered pairs per second")
    arguments = parser.parse_args()
    if arguments.bench:
        for size, pairs in ((128, 512), (256, 256)):
            speed, used = bench(size, pairs)
            print(f"{size} px: {speed:.0f} pairs/s, {used:.1f} ms of processor time a pair")
    if arguments.preview or arguments.examples:
        from .toy_preview import contact_sheet, write_examples

        if arguments.preview:
            contact_sheet().save(arguments.preview)
        if arguments.examples:
            write_examples(arguments.examples)


if __name__ == "__main__":
    main()
