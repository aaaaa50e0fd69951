"""Seconds by stage of one call of the embedded model: `python -m scar bench edit`."""

from __future__ import annotations

import resource

from PIL import Image


def edit(preset: str, device: str, repeat: int) -> None:
    """Print seconds by stage, and peak memory, for the embedded model of the preset's paradigm."""
    from scar import ScarPipeline

    pipe = ScarPipeline.from_pretrained(paradigm=preset.removeprefix("toy-"), device=device)
    image = Image.linear_gradient("L").resize((pipe.size, pipe.size)).convert("RGB")
    pipe.edit(image, "add a cat on the left", seed=0)
    for i in range(repeat):
        # A new image and a new text each time, so that no cache helps.
        shifted = image.point([(value + i + 1) % 256 for value in range(256)] * 3)
        out = pipe.edit(shifted, f"add a cat on the left, take {i}", seed=0)
        shares = ", ".join(
            f"{stage} {seconds / out.seconds:.0%}" for stage, seconds in out.timings.items()
        )
        print(f"{out.seconds:.2f} s for {out.tokens} tokens: {shares}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak resident memory {peak:.2f} GB")
