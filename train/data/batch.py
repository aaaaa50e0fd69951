"""The forms in which examples travel: from a reader, from a source, and partly stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from scar.prefix import TextEmbedding


@dataclass(frozen=True)
class RawBatch:
    """B examples of "turn source into target, as told"."""

    source: Tensor  # uint8 (B, 3, S, S): the image to edit, or a control map
    target: Tensor  # uint8 (B, 3, S, S)
    text: list[str]  # instruction or caption; "" where a class label is the condition
    label: Tensor  # int64 (B,): class label, -1 where text is the condition
    mask: Tensor  # bool (B, S, S): what counts more in L_CE, the edit or the objects
    # bool (B, S, S): every pixel in which source and target differ; None where data do not say
    changed: Tensor | None = None


class Sample(NamedTuple):
    """One example as it lies on disk."""

    target: Image.Image  # RGB
    source: Image.Image | None  # RGB, of the target's shape; None: a control map has to be drawn
    text: str = ""
    label: int = -1


@dataclass(frozen=True)
class Partial:
    """Examples of which a part is stored; `train.objectives.frozen.completed` does the rest."""

    raw: RawBatch
    stored: dict[str, Tensor | TextEmbedding]  # fields of a Batch

    @property
    def label(self) -> Tensor:
        return self.raw.label


def to_signed(images: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1
