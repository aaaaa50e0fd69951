"""ZeroGPU Spaces lend a GPU for seconds, to a process forked for a call; elsewhere nothing changes.

The main process may load a model, but no computation may touch the device outside of that worker,
and what the worker changes (models, caches, locks) is gone with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

LOADING, PER_TOKEN, LONGEST = 8.0, 0.03, 110.0


def is_zero_gpu() -> bool:
    """Whether this is a Space whose GPU is lent call by call."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true", "t", "yes")


def on_gpu(stream: Callable[..., Any], tokens: Callable[..., int]) -> Callable[..., Any]:
    """`stream` run on a GPU lent for as long as `tokens(*same arguments)` tokens should take.
    `tokens` runs in the main process."""
    try:
        import spaces
    except ImportError:
        return stream

    def seconds(*args: Any, **options: Any) -> float:
        return min(LONGEST, LOADING + PER_TOKEN * tokens(*args, **options))

    return spaces.GPU(duration=seconds)(stream)
