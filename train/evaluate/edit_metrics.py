"""Measures of an edit as a person sees it: is what was asked for there, and is all else as it was?

Pixels are compared at 128 px, to which larger pictures are averaged, so that figures of models that
draw more pixels compare.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scar.region import changed_cells
from scar.toyscenes.dataset import Batch, PlacedObject
from train.evaluate.metrics import Features, SpriteFinder, bounding_boxes, psnr

OTHERS = 20  # other targets of the family that an output must be farther from
MARGIN = 0.95
SIDE = 128  # pixels a side at which pixels are compared
CELLS = 16  # a side, for the figures of the region
LOCAL = 0.75  # a change of less of the picture is local; place and weather change 85% or more
SAME = 35.0  # dB: a picture that nobody tells from the source

# Something else changed if, outside of the true change grown by MOAT pixels, the mean colour of a
# WINDOW x WINDOW square differs from the source's by more than DIFFERENT of the range in a channel.
# Over 200 validation scenes 99% of what the tokenizers merely blur stays below, and 99% of the
# objects that appear, vanish or become others, and all that are recoloured, moved or resized, come
# above; windows of 8 and 16 pixels, and means over the channels, tell them apart less well.
MOAT, WINDOW, DIFFERENT = 4, 12, 0.2


@dataclass
class EditExamples:
    """Test examples in memory, images in [-1, 1]."""

    raw: list[Batch]
    source: Tensor  # (n, 3, S, S)
    target: Tensor
    mask: Tensor  # bool (n, S, S), where they differ

    def all(self, field: str) -> list:
        return [value for batch in self.raw for value in getattr(batch, field)]

    @property
    def local(self) -> Tensor:
        """(n,) bool: the edit leaves much of the picture as it is."""
        return self.mask.float().mean((1, 2)) < LOCAL


def successes(features: Features, scenes: EditExamples, output: Tensor) -> Tensor:
    """(n,) bool: in the edit's region the output is closer to the target than to the source, and
    closer to it than 95% of other targets of the family are. Where nothing was to change, the
    output is the source."""
    boxes = bounding_boxes(scenes.mask)
    of_output, of_target, of_source = (
        features(images, boxes) for images in (output, scenes.target, scenes.source)
    )
    families = scenes.all("family")
    reached = (of_output - of_target).norm(dim=1)
    success = reached < (of_output - of_source).norm(dim=1)
    generator = torch.Generator().manual_seed(0)
    for i, family in enumerate(families):
        others = pick(families, family)
        others = others[others != i]
        others = others[torch.randperm(len(others), generator=generator)[:OTHERS]]
        # The output's distance to its own target against its distance to the others'.
        farther = (of_output[i] - of_target[others]).norm(dim=1) > reached[i]
        success[i] &= farther.float().mean() >= MARGIN if len(others) else True
    unchanged = psnr(compared(output), compared(scenes.source)) >= SAME
    return torch.where(scenes.mask.any(2).any(1), success, unchanged)


class Bystanders:
    """The objects that an edit does not change, as far as they can be told: those that stand in
    source and target alike and that the finder names right in both."""

    def __init__(self, finder: SpriteFinder, scenes: EditExamples):
        placed = bystanders(scenes)
        shown = [found(finder, images, placed) for images in (scenes.source, scenes.target)]
        self.finder = finder
        self.placed = [
            x for x, told in zip(placed, (shown[0] & shown[1]).tolist(), strict=True) if told
        ]
        self.row = torch.tensor([row for row, _ in self.placed], dtype=torch.long)

    def kept(self, output: Tensor) -> Tensor:
        """(m,) bool: the object is found in the output, in the box it had."""
        return found(self.finder, output, self.placed)


def bystanders(scenes: EditExamples) -> list[tuple[int, PlacedObject]]:
    """Row and object of everything that stands in source and target alike."""
    rows = zip(scenes.all("source_objects"), scenes.all("objects"), strict=True)
    return [
        (row, before)
        for row, (source, target) in enumerate(rows)
        for before in source
        if any(
            (before.sprite, before.box, before.colour) == (after.sprite, after.box, after.colour)
            for after in target
        )
    ]


def recall(finder: SpriteFinder, scenes: EditExamples, images: Tensor) -> float:
    """Share of all target objects whose crop finds its sprite."""
    placed = [(i, o) for i, objects in enumerate(scenes.all("objects")) for o in objects]
    return mean(found(finder, images, placed))


def new_recall(finder: SpriteFinder, scenes: EditExamples, images: Tensor) -> float:
    """The same over the objects that the edit brings in."""
    rows = zip(scenes.all("source_objects"), scenes.all("objects"), strict=True)
    placed = [
        (row, after)
        for row, (source, target) in enumerate(rows)
        for after in target
        if all(after.sprite != before.sprite for before in source)
    ]
    return mean(found(finder, images, placed))


def found(finder: SpriteFinder, images: Tensor, placed: list[tuple[int, PlacedObject]]) -> Tensor:
    """(m,) bool: the crop of the object in images[row] finds its sprite."""
    if not placed:
        return torch.zeros(0, dtype=torch.bool)
    rows = torch.tensor([row for row, _ in placed])
    nearest = finder(images[rows], [o.box for _, o in placed]).cpu()
    return nearest == torch.tensor([o.sprite for _, o in placed])


def changed_elsewhere(output: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """(n,) bool: the output differs visibly from the source outside of the true change.

    output, source: (n, 3, S, S) in [-1, 1]. mask: bool (n, S, S). What is visible: see `MOAT`.
    """
    output, source = compared(output), compared(source)
    side = output.shape[-1]
    window, moat = (max(1, round(pixels * side / SIDE)) for pixels in (WINDOW, MOAT))
    inside = changed_cells(mask, side).float().unsqueeze(1)
    inside = F.max_pool2d(inside, 2 * moat + 1, stride=1, padding=moat)
    outside = F.max_pool2d(inside, window, stride=1) == 0  # squares without any of it
    difference = (F.avg_pool2d(output - source, window, stride=1) / 2).abs().amax(1, keepdim=True)
    return (outside & (difference > DIFFERENT)).flatten(1).any(1)


def background_psnr(output: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """(n,) PSNR in dB at 128 px where nothing was to change; NaN if that is less than a tenth of
    the picture, 100 if it is the source's exactly."""
    background = ~F.adaptive_max_pool2d(mask.float().unsqueeze(1), compared(source).shape[-1])[
        :, 0
    ].bool()
    values = psnr(compared(output), compared(source), background)
    return torch.where(background.float().mean((1, 2)) > 0.1, values, torch.nan)


def compared(images: Tensor) -> Tensor:
    """(n, 3, S, S), averaged to 128 px if it is larger."""
    return F.interpolate(images, (SIDE, SIDE), mode="area") if images.shape[-1] > SIDE else images


def region_figures(region: Tensor, mask: Tensor) -> dict[str, float]:
    """How a region, bool (n, S, S), covers the true changes, in the cells of a 16 x 16 grid that
    they touch."""
    marked, true = (changed_cells(x, CELLS).flatten(1) for x in (region, mask))
    both = (marked & true).sum()
    return {
        "region: true cells marked (recall), %": 100 * share(both, true.sum()),
        "region: marked cells true (precision), %": 100 * share(both, marked.sum()),
        "region: covers the whole change, % of edits": 100 * mean(~(true & ~marked).any(1)),
        "region: marked cells for each true one": share(marked.sum(), true.sum()),
    }


def exact_outside(output: Tensor, source: Tensor, region: Tensor) -> float:
    """The share of outputs that equal the source, bit for bit, in all pixels outside of their
    region (n, S, S); NaN if no region leaves any outside."""
    differs = ((output != source).any(1) & ~region).flatten(1).any(1)
    return mean(~differs[~region.flatten(1).all(1)])


def mean(values: Tensor) -> float:
    """Of bools or numbers, NaN left out; NaN if there are none."""
    return values.float().nanmean().item()


def share(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")


def pick(values: list[str], wanted: str) -> Tensor:
    return torch.tensor([i for i, value in enumerate(values) if value == wanted], dtype=torch.long)
