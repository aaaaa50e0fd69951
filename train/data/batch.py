"""The form in which every data source hands examples to training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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


def to_signed(images: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1
