"""Many outputs of a pipeline, batch by batch, as tensors that can be measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from tqdm import tqdm

from scar import ScarPipeline

BATCH = 50


@dataclass(frozen=True)
class Edits:
    """n edited images."""

    images: Tensor  # uint8 (n, 3, S, S)
    region: Tensor  # bool (n, S, S): where the edit was free to change the picture
    drawn: float  # share of the tokens that were drawn rather than copied


def edit_all(
    pipe: ScarPipeline,
    sources: Tensor,
    instructions: list[str],
    region: str | None,
    sampling: dict,
    title: str,
) -> Edits:
    """Edit sources, uint8 (n, 3, S, S), one instruction each.

    region: "auto", predicted by the model, or None, the whole picture. sampling: what differs from
    the model's defaults, as keyword arguments of `ScarPipeline.edit_batch`.
    """
    outputs = []
    for i in tqdm(range(0, len(sources), BATCH), desc=title, leave=False):
        some = slice(i, i + BATCH)
        outputs += pipe.edit_batch(
            _pictures(sources[some]), instructions[some], region=region, seed=i, **sampling
        )
    images = _tensor([out.image for out in outputs]).to(sources.device)
    free = torch.ones_like(images[:, 0], dtype=torch.bool)
    for i, out in enumerate(outputs):
        if out.region is not None:
            free[i] = pil_to_tensor(out.region)[0].to(free.device) > 127
    drawn = sum(out.drawn for out in outputs) / sum(out.tokens for out in outputs)
    return Edits(images, free, drawn)


def generate_all(
    pipe: ScarPipeline, maps: Tensor, prompts: list[str] | list[int], sampling: dict, title: str
) -> Tensor:
    """Images uint8 (n, 3, S, S) from control maps uint8 (n, 3, S, S), each with a caption or a
    class label."""
    outputs = []
    for i in tqdm(range(0, len(maps), BATCH), desc=title, leave=False):
        some = slice(i, i + BATCH)
        outputs += pipe.generate_batch(_pictures(maps[some]), prompts[some], seed=i, **sampling)
    return _tensor([out.image for out in outputs]).to(maps.device)


def seconds_an_edit(
    pipe: ScarPipeline,
    sources: Tensor,
    instructions: list[str],
    region: str | None,
    sampling: dict,
    count: int = 5,
) -> float:
    """Median seconds of the first `count` edits, one at a time, after one that warms up."""
    taken = []
    for i in (0, *range(min(count, len(sources)))):
        start = time.perf_counter()
        pipe.edit_batch(
            _pictures(sources[i : i + 1]),
            instructions[i : i + 1],
            region=region,
            seed=i,
            **sampling,
        )
        taken.append(time.perf_counter() - start)
    return median(taken[1:])


def _pictures(images: Tensor) -> list:
    return [to_pil_image(image) for image in images.cpu()]


def _tensor(pictures: list) -> Tensor:
    return torch.stack([pil_to_tensor(picture) for picture in pictures])
