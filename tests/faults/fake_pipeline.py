"""A pipeline with the public interface of `ScarPipeline` and no network inside.

Its edit mixes the picture with a colour drawn from the seed and the instruction, revealed block by
block, so that tests of the studio and of its faults are fast and their answers predictable.
"""

import time
from collections import deque
from types import SimpleNamespace
from zlib import crc32

import numpy as np
from PIL import Image

from scar.errors import InputError
from scar.output import Output


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

    def edit(self, image, instruction, **options):
        return self.edit_batch([image], [instruction], **options)[0]

    def generate(self, control_map, prompt, **options):
        return self.generate_batch([control_map], [prompt], **options)[0]

    def edit_batch(self, images, instructions, **options):
        pairs = zip(images, instructions, strict=True)
        return [last(self.stream_edit(*pair, preview_every=0, **options)) for pair in pairs]

    def generate_batch(self, control_maps, prompts, **options):
        pairs = zip(control_maps, prompts, strict=True)
        return [last(self.stream_generate(*pair, preview_every=0, **options)) for pair in pairs]

    def stream_edit(
        self, image, instruction, *, seed=None, guidance=None, temperature=None, top_k=None,
        top_p=None, null=None, region="auto", preview_every=None,
    ):  # fmt: skip
        if not instruction.strip():
            raise InputError("The instruction is empty; say what should change.")
        if isinstance(region, str) and region != "auto":
            raise ValueError(f"region must be 'auto', a mask or None, not {region!r}")
        region = region if isinstance(region, Image.Image) else None
        return self._stream(image, instruction, region, seed, preview_every)

    def stream_generate(
        self, control_map, prompt, *, seed=None, guidance=None, temperature=None, top_k=None,
        top_p=None, null=None, preview_every=None,
    ):  # fmt: skip
        if isinstance(prompt, int) and not 0 <= prompt < len(self.classes):
            raise InputError(f"This model does not know class {prompt}.")
        if not str(prompt).strip():
            raise InputError("The prompt is empty; say what the image should show.")
        return self._stream(control_map, str(prompt), None, seed, preview_every)

    def _stream(self, image, prompt, region, seed, preview_every):
        start, seed, total = time.perf_counter(), seed or 0, self.total_tokens
        every = 4 if preview_every is None else preview_every or total
        self.running += 1
        try:
            self.fail()
            mask = region and region.point(lambda v: 255 * (v > 127))
            final = edited(image, prompt, seed)
            if mask and preview_every != 0:
                yield Output(image, seed, 0.0, 0, total, 0, total // 2, mask)
            for token in self._steps(every):
                time.sleep(self.step_seconds)
                if token % every == 0 or token == total:
                    shown = revealed(image, final, token / total)
                    if mask:
                        shown = Image.composite(shown, image, mask)
                    seconds = time.perf_counter() - start
                    drawn = total // 2 if mask else total
                    yield Output(shown, seed, seconds, token, total, token, drawn, mask)
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


def last(outputs):
    return deque(outputs, maxlen=1)[0]


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
