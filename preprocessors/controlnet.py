"""The controlnet_aux package, imported on first use and without its noise."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from types import ModuleType


@cache
def detector_module(name: str) -> ModuleType:
    """The module controlnet_aux.`name`; the first call takes seconds and imports torch and timm.

    controlnet_aux imports all its detectors at once, and so warns about an optional package
    (mediapipe) and renamed timm modules that none of ours uses.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(f"controlnet_aux.{name}")
