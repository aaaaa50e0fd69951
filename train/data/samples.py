"""From files to batches: decoding, joint cropping, shuffling, and what happens to damaged samples.

`Samples` turns a `Reader` into the `Source` that the loop asks. Everything is a function of the
recipe's seed and the index asked for, so that a run can stop, move and resume.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from preprocessors import preprocess
from scar.images import decode, to_rgb
from train.data.batch import RawBatch
from train.data.order import epoch_order
from train.protocols import Reader
from train.recipe import Recipe

FAULTS_ALLOWED = 0.01  # share of the samples read; one is always allowed
RATE_FROM = 1000  # samples; among fewer a rate says little
ATTEMPTS = 20  # replacements tried for one sample

log = logging.getLogger("train.data")


class SampleError(ValueError):
    """A sample is missing or damaged; the message says how, and can be printed."""

    def __init__(self, message: str):
        super().__init__(printable(message))


@contextmanager
def foreign(what: str) -> Iterator[None]:
    """The one place that handles what other people's data make Python and its packages raise.

    There is no list of those exceptions: a path may hold a NUL, a tar member JSON of another type,
    an image whatever Pillow did not expect. Each of them is about this sample.

    Raises:
        SampleError: for any exception, with `what` in front of its message.
    """
    try:
        yield
    except SampleError:
        raise
    except Exception as error:
        raise SampleError(f"{what} ({str(error) or type(error).__name__})") from error


def printable(text: str) -> str:
    """With lone surrogates, which a file name or JSON may hold, written out."""
    return text.encode("utf-8", "backslashreplace").decode()


class Samples:
    """Batches of a reader's samples in a seeded order.

    Index i is sample i % n of epoch i // n: the order is keyed to (seed, epoch), crop and flip to
    (seed, i). A sample that cannot be read is logged, counted and replaced by another one, keyed to
    (seed, i) as well. Reading runs ahead in threads by one batch, guessed from the last two.

    Args:
        train: shuffle, crop at random and flip; otherwise in order, from the centre.
        remap: applied to each index that is asked for.

    Raises:
        ValueError: more than 1% of the samples, and more than one, could not be read.
    """

    def __init__(
        self,
        reader: Reader,
        recipe: Recipe,
        train: bool,
        device: torch.device,
        remap: Callable[[int], int] = int,
    ):
        if not len(reader):
            raise ValueError(f"{recipe.data.folder} holds no samples")
        self.reader, self.recipe, self.train, self.device = reader, recipe, train, device
        self.remap = remap
        self.order = lru_cache(2)(self._order)
        # Threads, not a DataLoader's processes: each of those would hold an index and up to 1 GB
        # of row groups of its own, and the share of damaged samples is counted over all.
        self.pool = ThreadPoolExecutor(max(recipe.data.workers, 1), "samples")
        self.ahead: dict[int, Future] = {}
        self.last = None
        self.attempts, self.faulty = 0, set()
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.reader)

    def fingerprint(self) -> dict:
        return self.reader.fingerprint()

    def batch(self, indices: Sequence[int]) -> RawBatch:
        futures = [self.ahead.pop(i, None) or self.pool.submit(self._example, i) for i in indices]
        self._read_ahead(indices)
        sources, targets, texts, labels = zip(*(f.result() for f in futures), strict=True)
        target = torch.stack(targets).to(self.device, non_blocking=True)
        return RawBatch(
            torch.stack(sources).to(self.device, non_blocking=True),
            target,
            list(texts),
            torch.tensor(labels, device=self.device),
            # What changes is not known here: every token counts alike.
            torch.ones_like(target[:, 0], dtype=torch.bool),
        )

    def _read_ahead(self, indices: Sequence[int]) -> None:
        for future in self.ahead.values():
            future.cancel()
        self.ahead = {}
        stride = indices[0] - self.last if self.last is not None else 0
        self.last = indices[0]
        if stride > 0:
            self.ahead = {i + stride: self.pool.submit(self._example, i + stride) for i in indices}

    def _example(self, index: int) -> tuple[Tensor, Tensor, str, int]:
        index = self.remap(index)
        rng = Random(f"{self.recipe.run.seed}/{index}")
        epoch, position = divmod(index, len(self.reader))
        number = int(self.order(epoch)[position])
        for _ in range(ATTEMPTS):
            try:
                return self._framed(number, rng)
            except SampleError as error:
                self._count_fault(number, error)
                number = rng.randrange(len(self.reader))
        raise ValueError(f"{ATTEMPTS} samples in a row could not be read; the last: {number}")

    def _order(self, epoch: int) -> np.ndarray:
        if not self.train:
            return np.arange(len(self.reader))
        reader, recipe = self.reader, self.recipe
        return epoch_order(
            reader.blocks, recipe.run.seed, epoch, reader.together, recipe.schedule.batch_size
        )

    def _framed(self, number: int, rng: Random) -> tuple[Tensor, Tensor, str, int]:
        with self.lock:
            self.attempts += 1
        with foreign("it cannot be read"):
            sample = self.reader.read(number)
        recipe = self.recipe
        images = [sample.target] if sample.source is None else [sample.target, sample.source]
        target, *rest = frame(images, recipe, rng if self.train else None)
        source = rest[0] if rest else self._map(target)
        return to_tensor(source), to_tensor(target), sample.text, sample.label

    def _map(self, image: Image.Image) -> Image.Image:
        recipe = self.recipe
        return preprocess(
            recipe.data.control, image, recipe.data.size, backend=recipe.data.detector
        )

    def _count_fault(self, number: int, error: SampleError) -> None:
        name, size = printable(self.reader.name(number)), len(self.reader)
        log.warning("%s was replaced: %s", name, error)
        with self.lock:
            self.faulty.add(number)  # once, however many epochs come upon it
            faults, attempts = len(self.faulty), min(self.attempts, size)
        if faults > max(1, FAULTS_ALLOWED * min(max(attempts, RATE_FROM), size)):
            raise ValueError(
                f"{faults} of {attempts} samples could not be read, more than 1%; the last was "
                f"{name}: {error}"
            )


def frame(images: list[Image.Image], recipe: Recipe, rng: Random | None) -> list[Image.Image]:
    """Images of one scene -> size x size, by one and the same crop and flip.

    The crop is in shares of an image, so they may differ in size. `rng` None takes the centre,
    unflipped.
    """
    size, first = recipe.data.size, images[0]
    if recipe.data.fit == "squash":
        out = [image.resize((size, size), Image.Resampling.BICUBIC) for image in images]
    else:
        # The crop in pixels of the first image: a square of 1 / enlarge of its short side.
        side = min(first.size) / recipe.data.enlarge
        across, down = (rng.random(), rng.random()) if rng else (0.5, 0.5)
        left, top = across * (first.width - side), down * (first.height - side)
        out = []
        for image in images:
            x, y = image.width / first.width, image.height / first.height
            box = (left * x, top * y, (left + side) * x, (top + side) * y)
            out.append(image.resize((size, size), Image.Resampling.LANCZOS, box=box))
    if rng and rng.random() < recipe.data.flip:
        out = [ImageOps.mirror(image) for image in out]
    return out


def decoded(
    image: bytes | dict | str | Path | None,
    folder: Path | None = None,
    convert: Callable[[Image.Image], Image.Image] = to_rgb,
) -> Image.Image:
    """RGB from encoded bytes, a data set's {"bytes", "path"}, or a path relative to `folder`.

    Any format Pillow reads, as `scar.pixels.to_rgb` does it or, for a control map, `to_map`. Raises
    SampleError.
    """
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if not image:
        raise SampleError("its image is empty")
    if isinstance(image, str | Path):
        with foreign(f"{image} cannot be read"):
            image = (Path(folder or ".") / image).read_bytes()
    with foreign("its image is damaged"), decode(image) as opened:
        return convert(opened)


def to_tensor(image: Image.Image) -> Tensor:
    """RGB image -> uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
