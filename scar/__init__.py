"""SCAR: semantic-context-driven autoregressive image editing and controllable generation."""

from __future__ import annotations

__all__ = ["Output", "ScarPipeline"]


def __getattr__(name: str):
    # torch is imported when the pipeline is first asked for, so that tools start at once.
    if name in __all__:
        from scar import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'scar' has no attribute {name!r}")
