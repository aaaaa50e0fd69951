"""The controlnet_aux package, imported on first use and without its warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from types import ModuleType


def quietly(call: Callable) -> Callable:
    """Decorate `call` to hide warnings that its users cannot act on.

    controlnet_aux imports all its detectors at once, and so warns about an optional package
    (mediapipe) and renamed timm modules that the detectors used here do not need.
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
