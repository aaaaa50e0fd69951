"""What the parts of training ask of each other: objectives, sources of batches, readers of data.

A reader knows samples as they lie on disk, a source gives batches of them on the device, and an
objective turns a batch into losses. The loop knows nothing else of any of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from scar.model import Batch
from train.data.batch import Partial, RawBatch, Sample


class Reader(Protocol):
    """The samples of one split of a data set."""

    blocks: Sequence[range]  # consecutive samples that are cheap to read together
    together: int  # how many blocks are shuffled among each other
    others: Counter  # other splits -> their files
    skipped: Counter  # names that are never data -> how often

    def __len__(self) -> int: ...

    def read(self, i: int) -> Sample:
        """Raises SampleError where sample `i` is missing or damaged."""

    def name(self, i: int) -> str:
        """Of sample `i`, for messages."""

    def fingerprint(self) -> dict:
        """JSON-ready; equal for the same data."""


class Source(Protocol):
    """Batches, as a function of the recipe's seed and of the indices asked for."""

    def batch(self, indices: Sequence[int]) -> RawBatch | Batch | Partial: ...

    def fingerprint(self) -> dict:
        """What tells data from other data; empty where the recipe alone decides them."""


class Objective(Protocol):
    """A module that is trained. What `stateful` holds beyond `trainable` changes without gradients,
    as the codebook's averages do."""

    def __call__(self, raw: RawBatch | Batch | Partial, step: int) -> dict[str, Tensor]:
        """Weighted loss terms by name; their sum is minimised."""

    def start(self, source: Source) -> None:
        """Prepare fresh weights from data, before the first step."""

    def trainable(self) -> nn.Module:
        """The module whose weights are optimised and averaged."""

    def stateful(self) -> nn.Module:
        """What a checkpoint must hold to resume."""

    def picture(self, raw: RawBatch) -> Tensor:
        """A grid of examples, (3, H, W) in [-1, 1]."""

    def export(self, folder: Path) -> None:
        """Write the weights in the form that `scar.weights.checkpoint` loads."""

    def train(self, mode: bool = True) -> nn.Module: ...

    def eval(self) -> nn.Module: ...
