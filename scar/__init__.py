"""SCAR: semantic-context-driven autoregressive image editing and controllable generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scar.output import Output
    from scar.pipeline import ScarPipeline

__all__ = ["Output", "ScarPipeline"]


def __getattr__(name: str) -> object:
    # Lazy, so that `import scar` does not import torch.
    if name in __all__:
        from scar import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'scar' has no attribute {name!r}")
