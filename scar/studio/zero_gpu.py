"""A borrowed GPU on Spaces that lend one for seconds; elsewhere nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LOADING, PER_TOKEN, LONGEST = 8.0, 0.03, 110.0


def on_gpu(stream: Callable[..., Any], tokens: Callable[..., int]) -> Callable[..., Any]:
    """`stream` run on a GPU lent for as long as `tokens(*same arguments)` tokens should take."""
    try:
        import spaces
    except ImportError:
        return stream

    def seconds(*args: Any, **options: Any) -> float:
        return min(LONGEST, LOADING + PER_TOKEN * tokens(*args, **options))

    return spaces.GPU(duration=seconds)(stream)
