"""The controlnet_aux package, imported on first use and without its noise."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from types import ModuleType


def quietly(call: Callable) -> Callable:
    """Decorate `call` to hide warnings that nobody who uses it can act on.

    controlnet_aux imports all its detectors at once, and so warns about an optional package
    (mediapipe) and renamed timm modules and models that none of ours is affected by.
    """

    @wraps(call)
    def quiet(*arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(*arguments)

    return quiet


@cache
@quietly
def detector_module(name: str) -> ModuleType:
    """The module controlnet_aux.`name`; the first call takes seconds and imports torch and timm."""
    return import_module(f"controlnet_aux.{name}")
