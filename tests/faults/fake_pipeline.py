"""A pipeline with the public interface of `ScarPipeline` and no network inside.

Its edit mixes the picture with a colour drawn from the seed and the instruction, revealed block by
block, so that tests of the studio and of its faults are fast and their answers predictable.
"""

import time
from dataclasses import dataclass
from types import SimpleNamespace
from zlib import crc32

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Output:
    image: Image.Image
    seed: int
    seconds: float
    step: int
    total: int
    tokens: int


class FakePipeline:
    """`step_seconds` is the time of one token; `fail` may raise on a call's first token.

    While `endless` is set, a run comes to its middle, stays there and never ends by itself.
    """

    size, device, total_tokens = 128, "cpu", 64
    classes = ["cat", "dog", "red apple"]
    defaults = SimpleNamespace(guidance=3.0, temperature=1.0, top_k=0, top_p=1.0)

    def __init__(self, paradigm="next-token", step_seconds=0.0, fail=lambda: None):
        self.paradigm, self.step_seconds, self.fail = paradigm, step_seconds, fail
        self.endless = False
        self.running, self.finished, self.abandoned = 0, 0, 0

    def stream_edit(self, image, instruction, *, region="auto", **options):
        yield from self._stream(image, instruction, region, **options)

    def stream_generate(self, control_map, prompt, **options):
        yield from self._stream(control_map, str(prompt), None, **options)

    def edit(self, *args, **options):
        return list(self.stream_edit(*args, **options))[-1]

    def generate(self, *args, **options):
        return list(self.stream_generate(*args, **options))[-1]

    def _stream(
        self, image, prompt, region, *, seed=None, guidance=None, temperature=1.0, top_k=0,
        top_p=1.0, preview_every=4,
    ):  # fmt: skip
        start = time.perf_counter()
        self.running += 1
        try:
            self.fail()
            final = edited(image, prompt, seed or 0)
            if isinstance(region, Image.Image):
                final = Image.composite(final, image, region.point(lambda v: 255 * (v > 127)))
            for token in self._steps(preview_every):
                time.sleep(self.step_seconds)
                if token % preview_every == 0 or token == self.total_tokens:
                    shown = revealed(image, final, token / self.total_tokens)
                    seconds = time.perf_counter() - start
                    yield Output(shown, seed or 0, seconds, token, self.total_tokens, token)
            self.finished += 1
        except GeneratorExit:
            self.abandoned += 1
            raise
        finally:
            self.running -= 1

    def _steps(self, every):
        middle = every * (self.total_tokens // every // 2)
        for token in range(1, self.total_tokens + 1):
            yield token
            while self.endless and token == middle:
                time.sleep(0.5)
                yield token


def edited(image, prompt, seed):
    """The whole edit at once: what a finished stream must show."""
    colour = np.random.default_rng(crc32(prompt.encode()) + seed).integers(0, 256, 3)
    return Image.fromarray((np.asarray(image) * 0.5 + colour * 0.5).astype(np.uint8))


def revealed(image, final, fraction):
    """The top of `final` over a dimmed `image`."""
    pixels = np.asarray(image) // 2
    rows = round(fraction * pixels.shape[0])
    pixels[:rows] = np.asarray(final)[:rows]
    return Image.fromarray(pixels)
