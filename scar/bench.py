"""Measured here and now: `python -m scar bench decode | edit | maps | ui`.

Speed depends on the machine, so what is compared runs in one call and is printed as a ratio.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from PIL import Image

from scar.checkpoint import build_model, build_tokenizer, configure
from scar.conditioning import Drop, Text
from scar.config import Sampling
from scar.encoder import feature_shape
from scar.text import text_width


def edit(preset: str, device: str, repeat: int) -> None:
    """One whole call on the embedded model of the preset's paradigm: seconds by stage, memory."""
    from scar import ScarPipeline

    pipe = ScarPipeline.from_pretrained(paradigm=preset.removeprefix("toy-"), device=device)
    image = Image.linear_gradient("L").resize((pipe.size, pipe.size)).convert("RGB")
    pipe.edit(image, "add a cat on the left", seed=0)
    for i in range(repeat):
        # Unseen, so that nothing is remembered of it.
        shifted = Image.eval(image, lambda v, i=i: (v + i + 1) % 256)
        out = pipe.edit(shifted, f"add a cat on the left, take {i}", seed=0, every=10**6)
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
        from scar.pipeline import EMBEDDED
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


@torch.inference_mode()
def decode(preset: str, device: str, repeat: int) -> None:
    """Milliseconds a token with the KV cache against recomputing everything, random weights."""
    config = configure(preset)
    model = build_model(config).to(device).eval()
    tokenizer = build_tokenizer(config.tokenizer).to(device).eval()
    features, text, label = _conditions(config, device)
    sampling = Sampling(2.0)
    count = sum(config.tokenizer.set_sizes)

    def cached() -> None:
        generator = torch.Generator(device).manual_seed(0)
        for _ in model.generate(features, text, label, tokenizer, sampling, generator):
            pass

    def full() -> None:
        none = torch.zeros(1, dtype=torch.bool, device=device)
        prefix = model.conditioner(model.compressor(features), text, label, Drop(none, none))
        prefix = prefix.joined(prefix)
        tokens = torch.zeros(2, count, dtype=torch.long, device=device)
        inputs = tokenizer.inputs(tokens)
        for _ in config.tokenizer.set_sizes:
            hidden = model.backbone(prefix, inputs)
            model.backbone.logits(hidden[:, -count:], prefix)

    times = {
        name: _median(run, repeat, device) for name, run in (("cached", cached), ("full", full))
    }
    steps = len(config.tokenizer.set_sizes)
    print(f"{preset} on {device}, {count} tokens in {steps} steps, guidance, batch 1")
    for name, seconds in times.items():
        print(f"{name:>7}: {seconds:.3f} s an image, {1000 * seconds / count:.2f} ms a token")
    print(f"  ratio: {times['full'] / times['cached']:.1f}x")


def maps(preset: str, device: str, repeat: int) -> None:
    """Seconds for each control map of a 512 px picture, warm, and which network drew it."""
    from preprocessors import PREPROCESSORS

    image = Image.effect_mandelbrot((512, 512), (-2, -1.5, 1, 1.5), 100).convert("RGB")
    for name, preprocessor in PREPROCESSORS.items():
        seconds = _median(partial(preprocessor, image), repeat, "cpu")
        print(f"{name:>8}: {seconds:.3f} s ({preprocessor.status().backend})")


def _conditions(config, device: str) -> tuple[torch.Tensor, Text, torch.Tensor]:
    grid, channels = feature_shape(config.encoder)
    width, slots = text_width(config.condition.text_encoder), config.condition.text_slots
    slots = slots if width else 0
    tokens = torch.randn(1, slots, width, device=device)
    text = Text(tokens, torch.ones(1, slots, dtype=torch.bool, device=device))
    label = torch.tensor([0 if config.condition.classes else -1], device=device)
    return torch.randn(1, grid, grid, channels, device=device), text, label


def _median(run: Callable[[], None], repeat: int, device: str) -> float:
    run()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]
