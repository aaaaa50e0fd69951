"""Paints ToyScenes: backdrop, objects back to front, weather, camera."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor

from scar.toyscenes.backgrounds import BACKDROPS
from scar.toyscenes.camera import photographed
from scar.toyscenes.places import OBJECT_LIGHT, backdrop, falling, weathered
from scar.toyscenes.scenes import Scene, Thing
from scar.toyscenes.seeds import Seeds
from scar.toyscenes.sprites import COLOURS, SpriteBank

SKY_DEPTH = 0.1  # of objects that hang in the sky


class Renderer:
    """Renders scenes of a bank's sprites as pictures of `size` pixels."""

    def __init__(self, bank: SpriteBank, size: int, device: torch.device):
        self.bank, self.size, self.device = bank, size, device

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
