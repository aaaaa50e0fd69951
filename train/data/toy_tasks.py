"""ToyScenes as a mixture of tasks that share one form, "turn source into target, as told".

edit    picture and instruction     -> edited picture
t2i     control map and caption     -> picture
c2i     control map and class label -> picture
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from preprocessors import canny, embedded
from scar.toyscenes.dataset import Batch, PlacedObject, ToyScenes
from train.data.batch import RawBatch, to_signed
from train.recipe import Recipe

TASKS = ("edit", "t2i", "c2i")
CONTROLS = ("canny", "depth", "hed", "sketch", "lineart")
AT_ONCE = 32  # pictures that pass the map network together


class ToyTasks:
    """Task and kind of map of an example depend on the recipe's seed and the example's index alone.

    Raises ValueError for tasks that do not exist, or for labels the model has no classes for.
    """

    def __init__(self, recipe: Recipe, split: str, device: torch.device):
        unknown = sorted(set(recipe.data.tasks) - set(TASKS))
        if unknown:
            raise ValueError(f"recipe: unknown tasks {unknown}; known: {', '.join(TASKS)}")
        self.tasks, self.shares = list(recipe.data.tasks), list(recipe.data.tasks.values())
        if min(self.shares, default=0) < 0 or sum(self.shares) <= 0:
            raise ValueError("recipe: the shares of tasks must be 0 or more, and not all 0")
        classes = recipe.model.condition.classes
        if "c2i" in self.tasks and classes < recipe.data.objects:
            raise ValueError(
                f"recipe: task c2i needs a class for each of the {recipe.data.objects} objects; "
                f"set model.condition.classes, which is {classes}"
            )
        self.key = f"tasks/{split}/{recipe.run.seed}"
        self.scenes = ToyScenes(
            split, recipe.data.size, recipe.data.objects, device=device, wild=recipe.data.wild
        )
        self.maps = ControlMaps(device)

    def batch(self, indices: Sequence[int]) -> RawBatch:
        scene = self.scenes.batch(indices)
        source, target, mask = scene.source.clone(), scene.target.clone(), scene.mask.clone()
        changed = scene.mask.clone()
        text, label = list(scene.instruction), torch.full_like(scene.label, -1)
        drawn = [self.draw(index) for index in indices]
        rows = [row for row, (task, _) in enumerate(drawn) if task != "edit"]
        if rows:
            pictures = main_object_views(scene)
            target[rows] = pictures.images[rows]
            kinds = [drawn[row][1] for row in rows]
            source[rows] = self.maps(pictures.images[rows], kinds, pictures.depth[rows])
            changed[rows] = True  # nothing of a control map stays
        for row in rows:
            mask[row] = box_mask(pictures.objects[row], mask[row])
            if drawn[row][0] == "t2i":
                text[row] = pictures.caption[row]
            else:
                text[row], label[row] = "", pictures.label[row]
        return RawBatch(source, target, text, label, mask, changed)

    def fingerprint(self) -> dict:
        return {}  # the recipe decides them

    def draw(self, index: int) -> tuple[str, str]:
        """The task of an example, and the kind of its map if the task has one."""
        rng = Random(f"{self.key}/{index}")
        return rng.choices(self.tasks, self.shares)[0], rng.choice(CONTROLS)


@dataclass(frozen=True)
class Pictures:
    """B pictures, each of which shows the object that its label names."""

    images: Tensor  # uint8 (B, 3, S, S)
    depth: Tensor  # float32 (B, S, S), 0 far to 1 near
    label: Tensor  # int64 (B,): sprite index of the main object
    caption: list[str]
    objects: list[list[PlacedObject]]

    @property
    def main(self) -> list[PlacedObject]:
        """The main object of each picture."""
        pairs = zip(self.label.tolist(), self.objects, strict=True)
        return [next(o for o in objects if o.sprite == label) for label, objects in pairs]


def main_object_views(scene: Batch) -> Pictures:
    """The targets; the sources where the edit took the main object away."""
    labels = scene.label.tolist()
    kept = [
        any(o.sprite == label for o in objects)
        for label, objects in zip(labels, scene.objects, strict=True)
    ]
    where = torch.tensor(kept, device=scene.label.device)[:, None, None]

    def choose(after: list, before: list) -> list:
        return [a if k else b for k, a, b in zip(kept, after, before, strict=True)]

    return Pictures(
        torch.where(where[..., None], scene.target, scene.source),
        torch.where(where, scene.target_depth, scene.source_depth),
        scene.label,
        choose(scene.target_caption, scene.source_caption),
        choose(scene.objects, scene.source_objects),
    )


class ControlMaps:
    """Draws control maps in batches, as `preprocessors.preprocess` draws them one by one without
    the real detectors' weights."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.network = embedded.load_network(str(device))

    @torch.no_grad()
    def __call__(self, images: Tensor, kinds: Sequence[str], depth: Tensor | None = None) -> Tensor:
        """Maps with equal channels, uint8 (B, 3, S, S), of images uint8 (B, 3, S, S).

        kinds: B of CONTROLS. depth: exact depth (B, S, S), 0 far to 1 near, where it is known.
        """
        maps = torch.empty_like(images[:, 0])
        exact = [i for i, kind in enumerate(kinds) if kind == "depth" and depth is not None]
        edges = [i for i, kind in enumerate(kinds) if kind == "canny"]
        rest = sorted(set(range(len(kinds))) - {*exact, *edges})
        if exact:
            maps[exact] = _to_bytes(embedded.normalize_depth(depth[exact]))
        for i in edges:
            rgb = images[i].movedim(0, -1).cpu().contiguous().numpy()
            maps[i] = torch.from_numpy(canny.detect(rgb, low=100, high=200))
        for some in (rest[i : i + AT_ONCE] for i in range(0, len(rest), AT_ONCE)):
            maps[some] = self._network_maps(images[some], [kinds[i] for i in some])
        return maps.unsqueeze(1).repeat(1, 3, 1, 1)

    def _network_maps(self, images: Tensor, kinds: list[str]) -> Tensor:
        size = images.shape[-1]
        pixels = _resized(to_signed(images), embedded.RESOLUTION, "bicubic").clamp(-1, 1)
        maps = embedded.control_maps(self.network, pixels, kinds)  # (B, H, W)
        return _to_bytes(_resized(maps.unsqueeze(1), size, "bilinear")[:, 0])


def box_mask(objects: list[PlacedObject], like: Tensor) -> Tensor:
    """True inside the objects' boxes, bool (S, S)."""
    mask = torch.zeros_like(like, dtype=torch.bool)
    for x0, y0, x1, y1 in (o.box for o in objects):
        mask[int(y0) : ceil(y1), int(x0) : ceil(x1)] = True
    return mask


def _resized(images: Tensor, size: int, mode: str) -> Tensor:
    return F.interpolate(images, (size, size), mode=mode, antialias=True)


def _to_bytes(maps: Tensor) -> Tensor:
    return (maps * 255).round().clamp(0, 255).to(torch.uint8)
