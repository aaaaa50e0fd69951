"""Measured here and now: `python -m scar bench edit | maps | ui`.

Speed depends on the machine, so what is compared runs in one call and is printed as a ratio.
"""

from __future__ import annotations

import os
import resource
import tempfile
from functools import partial
from statistics import median

from PIL import Image

from scar.bench_decode import median_seconds


def edit(preset: str, device: str, repeat: int) -> None:
    """One whole call on the embedded model of the preset's paradigm: seconds by stage, memory."""
    from scar import ScarPipeline

    pipe = ScarPipeline.from_pretrained(paradigm=preset.removeprefix("toy-"), device=device)
    image = Image.linear_gradient("L").resize((pipe.size, pipe.size)).convert("RGB")
    pipe.edit(image, "add a cat on the left", seed=0)
    for i in range(repeat):
        # Unseen, so that nothing is remembered of it.
        shifted = Image.eval(image, lambda v, i=i: (v + i + 1) % 256)
        out = pipe.edit(shifted, f"add a cat on the left, take {i}", seed=0)
        shares = ", ".join(
            f"{stage} {seconds / out.seconds:.0%}" for stage, seconds in out.timings.items()
        )
        print(f"{out.seconds:.2f} s for {out.tokens} tokens: {shares}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak resident memory {peak:.2f} GB")


def ui(preset: str, device: str, repeat: int) -> None:
    """The studio over the embedded model, in a browser: the first partial picture, and Stop."""
    with tempfile.TemporaryDirectory(prefix="scar-bench-") as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        from scar import ScarPipeline
        from scar.hub import EMBEDDED
        from scar.studio import Library, build_studio, launch_studio
        from scar.studio.bench import browser_page, measure

        paradigm = preset.removeprefix("toy-")
        library = Library(
            {paradigm: partial(ScarPipeline.from_pretrained, paradigm=paradigm, device=device)}
        )
        library.get(paradigm)
        studio = build_studio(library, EMBEDDED.parent)
        try:
            address = launch_studio(studio, "127.0.0.1")
            with browser_page() as page:
                answers = [measure(page, address, library, scene) for scene in range(repeat)]
        finally:
            studio.close()
    tokens = library.get(paradigm).total_tokens
    print(f"{preset} on {device}, {tokens} tokens, median (worst) of {repeat} runs, seconds")
    for field, words in {
        "partial": "Run pressed to first partial picture",
        "freed": "Stop pressed to model free",
        "again": "Stop pressed to Run back on the page",
    }.items():
        seconds = [getattr(answer, field) for answer in answers]
        print(f"{words:>37}: {median(seconds):.2f} ({max(seconds):.2f})")


def maps(repeat: int) -> None:
    """Seconds for each control map of a 512 px picture, warm, and which network drew it."""
    from preprocessors import PREPROCESSORS

    image = Image.effect_mandelbrot((512, 512), (-2, -1.5, 1, 1.5), 100).convert("RGB")
    for name, preprocessor in PREPROCESSORS.items():
        seconds = median_seconds(partial(preprocessor, image), repeat, "cpu")
        print(f"{name:>8}: {seconds:.3f} s ({preprocessor.status().backend})")
