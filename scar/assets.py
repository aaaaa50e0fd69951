"""Paths of the files that ship with the code: weights, sprites, examples, the model card."""

from __future__ import annotations

from pathlib import Path

_INSTALLED = Path(__file__).parent / "assets"  # in an installed package
ASSETS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parent.parent / "assets"
EMBEDDED = ASSETS / "embedded"
