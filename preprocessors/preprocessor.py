"""A preprocessor: an image in, a control map out, and which backend draws it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from PIL import Image

from preprocessors import embedded, weights
from scar.errors import InputError
from scar.images import Source, check_size, open_image, to_rgb
from scar.weights.pins import DETECTOR_PINS

Backend = Literal["auto", "real", "embedded"]
BACKENDS = ("auto", "real", "embedded")
MIN_SIZE, MAX_SIZE = 64, 2048


@dataclass(frozen=True)
class Status:
    """Whether a map can be drawn now, by which of the two backends, and why in one sentence."""

    state: Literal["ready", "missing", "downloading"]
    reason: str
    backend: Literal["real", "embedded"]


@dataclass(frozen=True)
class Parameter:
    """One setting of a detector: a number within `range`, one of `choices`, or a switch."""

    default: int | bool | str
    help: str
    range: tuple[int, int] | None = None
    choices: tuple[str, ...] = ()

    def check(self, name: str, value: Any) -> None:
        """Raise `InputError` unless `value` is of the default's type and within its bounds."""
        if type(value) is not type(self.default):
            kind = type(self.default).__name__
            raise InputError(f"{name} must be of type {kind}, not {type(value).__name__}.")
        if self.choices and value not in self.choices:
            raise InputError(f"{name} must be one of {', '.join(self.choices)}, not {value!r}.")
        if self.range and not self.range[0] <= int(value) <= self.range[1]:
            low, high = self.range
            raise InputError(f"{name} must be from {low} to {high}, not {value}.")


@dataclass(frozen=True)
class Preprocessor:
    """One kind of control map.

    Args:
        detect: RGB array, uint8 (H, W, 3), and the parameters -> map, uint8 (H, W). With a
            "resolution" parameter the array is the whole image scaled to about resolution x
            resolution pixels with sides that are multiples of 64; otherwise it has the size of the
            map.
        weights: the parameters -> key of `scar.weights.pins.DETECTOR_PINS`; None: needs no weights.
        convert: an image of any mode -> RGB.
    """

    name: str
    description: str
    detect: Callable[..., np.ndarray]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    weights: Callable[..., str] | None = None
    convert: Callable[[Image.Image], Image.Image] = to_rgb

    def __call__(
        self,
        image: Image.Image,
        size: int | None = None,
        *,
        backend: Backend = "auto",
        **parameters: int | bool | str,
    ) -> Image.Image:
        """Draw the map of `image`; see `preprocessors.preprocess`."""
        image = self._bounded(image)
        settings = self._settings(parameters)
        if size is not None and not MIN_SIZE <= size <= MAX_SIZE:
            raise InputError(f"size must be from {MIN_SIZE} to {MAX_SIZE} pixels, not {size}.")
        out = _fit(image.size, size)
        if self.status(backend, **settings).backend == "embedded":
            drawn = embedded.draw(self.name, image)
        else:
            resolution = settings.pop("resolution", None)
            working = _working_size(image.size, resolution) if resolution else out
            drawn = self.detect(_array(image, working), **settings)
        return Image.fromarray(drawn).resize(out, Image.Resampling.BILINEAR).convert("RGB")

    def open(self, source: Source) -> Image.Image:
        """Open a PNG, JPEG or WEBP to draw the map of it; see `scar.images.open_image`."""
        return open_image(source, self.convert)

    def status(self, backend: Backend = "auto", **parameters: int | bool | str) -> Status:
        """Say whether `backend` can draw now; nothing is loaded and the network is not touched."""
        settings = self._settings(parameters)
        if backend not in BACKENDS:
            raise InputError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}.")
        if not self.weights:
            return Status("ready", "Needs no weights.", "real")
        if backend == "embedded":
            return _embedded_status()
        real = _real_status(self.weights(**settings))
        if backend == "real" or real.state == "ready" or not embedded.available():
            return real
        return Status("ready", f"{real.reason} The embedded network stands in.", "embedded")

    def _bounded(self, image: object) -> Image.Image:
        """An 8-bit RGB image within the size limits. Raises InputError for anything else."""
        if not isinstance(image, Image.Image):
            raise InputError(f"An image (PIL.Image) is needed, not {type(image).__name__}.")
        check_size(image.size)
        return self.convert(image)

    def _settings(self, parameters: Mapping[str, object]) -> dict:
        for name, value in parameters.items():
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise InputError(f"{self.name} has no parameter {name!r}; it has: {known}.")
            self.parameters[name].check(name, value)
        return {name: p.default for name, p in self.parameters.items()} | dict(parameters)


def _real_status(name: str) -> Status:
    """Whether the real detector that loads the weights called `name` can draw."""
    package = DETECTOR_PINS[name].runtime
    if find_spec(package) is None:
        return Status("missing", f"The Python package {package} is not installed.", "real")
    state = weights.state(name)
    return Status(state, weights.explain(name, state), "real")


def _embedded_status() -> Status:
    """Whether the embedded network can draw."""
    if embedded.available():
        return Status("ready", "Drawn by the embedded network.", "embedded")
    reason = f"The embedded network {embedded.FILE.name} is missing from the assets folder."
    return Status("missing", reason, "embedded")


def _fit(image_size: tuple[int, int], size: int | None) -> tuple[int, int]:
    scale = size / max(image_size) if size else 1
    return max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale))


def _working_size(image_size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """About resolution^2 pixels whatever the aspect, so that the cost does not depend on it.

    controlnet_aux rescales to multiples of 64 without an upper bound; these sizes make that the
    identity.
    """
    width, height = image_size
    stretch = (width / height) ** 0.5
    sides = resolution * stretch, resolution / stretch
    return tuple(max(64, round(side / 64) * 64) for side in sides)


def _array(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))
