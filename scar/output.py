"""What the pipeline returns, and the clock behind its timings."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from PIL import Image

PREVIEW_INTERVAL = 0.1  # least seconds between two previews
PREVIEW_SHARE = 0.2  # largest share of the time spent on previews


@dataclass(frozen=True)
class Output:
    """A partial or finished image."""

    image: Image.Image  # RGB, at the size of the input
    seed: int
    seconds: float  # since the call
    step: int  # sets decoded; 0: the region is predicted, and no token is decoded yet
    total: int  # sets of an image; step == total on the last output
    tokens: int  # tokens decoded
    drawn: int = 0  # tokens of the whole image that are sampled, not copied from the source
    # "L", at the size of the input, 255 where the image may change; None: everywhere
    region: Image.Image | None = None
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage, on the last output


class StageTimer:
    """Seconds by stage of a call."""

    def __init__(self) -> None:
        self.start = self.last = self.last_preview = time.perf_counter()
        self.stages: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        """The time since the last mark belongs to `stage`; "pixels" is that of previews."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self.last
        self.last = now
        if stage == "pixels":
            self.last_preview = now

    def preview_is_due(self) -> bool:
        """Whether the last preview is at least `PREVIEW_INTERVAL` old, and previews have taken less
        than `PREVIEW_SHARE` of the time. The first is always due."""
        if "pixels" not in self.stages:
            return True
        age = time.perf_counter() - self.last_preview
        return age >= PREVIEW_INTERVAL and self.stages["pixels"] < PREVIEW_SHARE * self.total()

    def total(self) -> float:
        return time.perf_counter() - self.start
