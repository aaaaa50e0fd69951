"""The inputs of the pipeline: checked requests, and images and texts encoded by frozen networks.

Letters: B batch, S pixels along a side, h x w grid of the features, C their channels, N tokens of
an image, T text tokens, W width of the text encoder.
"""

from __future__ import annotations

import hashlib
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Generic, Literal, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from scar.compiled import padded
from scar.config import Sampling, ScarConfig, check_seed
from scar.errors import ConfigError, InputError
from scar.frozen import FrozenEncoders
from scar.images import fit_square, to_map, to_mask, to_rgb
from scar.prefix import TextEmbedding

CACHE_SIZE = 16  # images, and texts, whose encodings are kept

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """B images to decode together."""

    images: list[Image.Image]  # RGB, sources or control maps, of any sizes
    texts: list[str]
    labels: list[int]  # -1: the text is the condition
    seed: int
    sampling: Sampling
    region: list[Image.Image] | Literal["auto"] | None  # masks of the sizes of the images
    preview_every: int | None


def edit_request(
    config: ScarConfig,
    images: Sequence[Image.Image],
    instructions: Sequence[str],
    *,
    seed: int | None = None,
    region: Image.Image | str | None = "auto",
    preview_every: int | None = 0,
    **sampling: Any,
) -> Request:
    """Raises InputError for an empty instruction or an option out of range."""
    if any(not instruction.strip() for instruction in instructions):
        raise InputError("The instruction is empty; say what should change.")
    images, texts = [to_rgb(image) for image in images], list(instructions)
    masks: list[Image.Image] | Literal["auto"] | None
    if isinstance(region, Image.Image):
        masks = [to_mask(region, image.size) for image in images]
    elif region == "auto":
        masks = "auto"
    elif region is None:
        masks = None
    else:
        raise InputError(f"region must be 'auto', a mask or None, not {region!r}")
    settings = _sampling(config, sampling)
    return Request(images, texts, [-1] * len(texts), _seed(seed), settings, masks, preview_every)


def generate_request(
    config: ScarConfig,
    control_maps: Sequence[Image.Image],
    prompts: Sequence[str | int],
    *,
    seed: int | None = None,
    preview_every: int | None = 0,
    **sampling: Any,
) -> Request:
    """Raises InputError for an empty prompt, an unknown class or an option out of range."""
    texts = [prompt if isinstance(prompt, str) else "" for prompt in prompts]
    labels = [-1 if isinstance(prompt, str) else int(prompt) for prompt in prompts]
    for text, label in zip(texts, labels, strict=True):
        _check_prompt(text, label, config.condition.classes)
    settings = _sampling(config, sampling)
    maps = [to_map(control_map) for control_map in control_maps]
    return Request(maps, texts, labels, _seed(seed), settings, None, preview_every)


class EncodedImage:
    """An image encoded by the frozen networks. Its tokens are made when they are first needed."""

    def __init__(self, image: Image.Image, size: int, frozen: FrozenEncoders, device: torch.device):
        self.square, self.box = fit_square(image, size)
        self.frozen = frozen
        pixels = (pil_to_tensor(self.square).float() / 127.5 - 1).unsqueeze(0)
        self.pixels = pixels.to(device)  # (1, 3, S, S) in [-1, 1]
        assert frozen.encoder is not None  # only training builds a SCAR without
        self.features: Tensor = frozen.encoder(self.pixels)  # (1, h, w, C)

    @cached_property
    def tokens(self) -> Tensor:
        return self.frozen.tokenizer.encode(self.pixels)  # (1, N)

    @cached_property
    def reconstruction(self) -> Tensor:
        return self.frozen.tokenizer.decode(self.tokens)  # (1, 3, S, S)


class InputEncoder:
    """Encodes images and texts, and keeps the last `CACHE_SIZE` of each.

    Args:
        size: S.
        min_slots: text tokens that every text is padded to; 0: to the longest of its batch.
    """

    def __init__(self, frozen: FrozenEncoders, size: int, device: torch.device, min_slots: int):
        self.frozen, self.size, self.device, self.min_slots = frozen, size, device, min_slots
        self._images: _LRU[EncodedImage] = _LRU()
        self._texts: _LRU[TextEmbedding] = _LRU()

    def encode_images(self, images: list[Image.Image]) -> list[EncodedImage]:
        return [self._encode_image(image) for image in images]

    def encode_texts(self, texts: list[str]) -> TextEmbedding:
        """B strings -> (B, T, W), left-padded to the longest."""
        found = [self._encode_text(text) for text in texts]
        slots = max([self.min_slots, *(text.valid.shape[1] for text in found)])
        found = [padded(text, slots) for text in found]
        return TextEmbedding(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _encode_text(self, text: str) -> TextEmbedding:
        return self._texts.get(text, partial(self.frozen.encode_text, [text]))  # (1, T, W)

    def _encode_image(self, image: Image.Image) -> EncodedImage:
        key = hashlib.sha256(image.tobytes() + repr(image.size).encode()).hexdigest()
        make = partial(EncodedImage, image, self.size, self.frozen, self.device)
        return self._images.get(key, make)


class _LRU(Generic[T]):
    """The `CACHE_SIZE` values that were used last."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, T] = OrderedDict()

    def get(self, key: str, make: Callable[[], T]) -> T:
        if key not in self._values:
            self._values[key] = make()
        self._values.move_to_end(key)
        while len(self._values) > CACHE_SIZE:
            self._values.popitem(last=False)
        return self._values[key]


def _check_prompt(text: str, label: int, classes: int) -> None:
    if label == -1 and not text.strip():
        raise InputError("The prompt is empty; say what the image should show.")
    if label != -1 and not 0 <= label < classes:
        remedy = (
            f"its classes are 0 to {classes - 1}"
            if classes
            else "it has no classes; use a sentence"
        )
        raise InputError(f"This model does not know class {label}: {remedy}.")


def _sampling(config: ScarConfig, options: dict[str, Any]) -> Sampling:
    """The model's defaults, replaced by the options that are not None."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return replace(config.sampling, **given)
    except ConfigError as error:
        raise InputError(str(error)) from error


def _seed(seed: int | None) -> int:
    return random.randrange(2**31) if seed is None else check_seed(seed)
