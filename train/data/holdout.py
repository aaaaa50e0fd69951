"""Validation examples out of the training split, where a data set has none of its own."""

from __future__ import annotations

from train.data.batch import Sample
from train.protocols import Reader

HELD_OUT_MOST = 512  # samples; more would only take time


class HeldOut:
    """Every `stride`-th sample of a reader (validation), or all others (training).

    No sample is in both, and which is where depends on nothing but the number of samples.

    Args:
        share: of the samples; at most HELD_OUT_MOST are held out.
    """

    def __init__(self, reader: Reader, share: float, validation: bool):
        self.reader, self.validation = reader, validation
        self.stride = max(round(1 / share), 2, -(-len(reader) // HELD_OUT_MOST))
        self.together = reader.together
        held = len(reader) // self.stride
        self.blocks = [range(held)] if validation else self._blocks()
        self.count = held if validation else len(reader) - held

    def __len__(self) -> int:
        return self.count

    def __getattr__(self, name: str):
        return getattr(self.reader, name)  # what else a reader knows: classes, skipped

    def name(self, i: int) -> str:
        return self.reader.name(self._number(i))

    def read(self, i: int) -> Sample:
        return self.reader.read(self._number(i))

    def fingerprint(self) -> dict:
        return self.reader.fingerprint() | {"every": self.stride}

    def _number(self, i: int) -> int:
        """Held out are stride - 1, 2 stride - 1, ..."""
        if self.validation:
            return (i + 1) * self.stride - 1
        return i + i // (self.stride - 1)

    def _blocks(self) -> list[range]:
        """The reader's blocks without what is held out, numbered by what is left."""
        ends = [(b.start, b.stop) for b in self.reader.blocks]
        return [range(a - a // self.stride, b - b // self.stride) for a, b in ends]
