"""That a device decodes what it should: `python -m scar bench check --device cuda`.

On CUDA with the shapes of LlamaGen-L and VAR-d16, elsewhere with small ones; weights are random.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from scar.bench.decode import Task, forget, is_cuda
from scar.compiled import Compiled
from scar.presets import configure
from scar.sampling import Steps

SHAPES: dict[str, dict] = {"llamagen-l-c2i": {}, "var-d16": {}}
SMALL_BACKBONE = {"layers": 2, "heads": 2, "width": 64}
SMALL = {
    "toy-next-token": {"backbone": SMALL_BACKBONE, "tokenizer": {"image_size": 32}},
    "toy-next-set": {
        "backbone": SMALL_BACKBONE,
        "tokenizer": {"image_size": 32, "scales": [1, 2, 4]},
    },
}
# The most each figure may be. bf16 moves every weight and every result by up to 0.4%, which grows
# to a few percent behind 24 layers of random weights; fp32 differs in the order of its sums only.
TOLERANCES = {
    "bf16 against fp32 logits, relative error": 1e-1,
    "cached against uncached logits, relative error": 1e-4,
    "compiled against eager, share of tokens that differ": 0.0,
    "eager twice, share of image bytes that differ": 0.0,
    "compiled twice, share of image bytes that differ": 0.0,
    "times the host waits in a compiled decode": 8,
}


def check(device: str) -> bool:
    """Print each figure beside its tolerance; whether all are within."""
    within = True
    for preset, changes in (SHAPES if is_cuda(device) else SMALL).items():
        print(f"{preset} on {device}")
        for name, found in _figures(preset, changes, device).items():
            good = found <= TOLERANCES[name]
            within &= good
            verdict = "" if good else "  TOO MUCH"
            print(f"{name:>53}: {found:8.2g}, at most {TOLERANCES[name]:g}{verdict}")
        forget(device)
    return within


def _figures(preset: str, changes: dict, device: str) -> dict[str, float]:
    config = configure(preset, changes)
    task, compiled = Task(config, device, torch.float32), Compiled()
    logits, eager = task.logits(), task.decode(Steps())
    tokens = task.decode(compiled)
    for _ in range(2):  # the runs that record and replay
        tokens = task.decode(compiled)
    pixels = task.tokenizer.decode
    found = (
        _error(Task(config, device, torch.bfloat16).logits(), logits),
        _error(_cached_logits(task), logits),
        _differ(tokens, eager),
        _differ(pixels(task.decode(Steps())), pixels(eager)),
        _differ(pixels(task.decode(compiled)), pixels(tokens)),
        _waits(task, compiled),
    )
    return dict(zip(TOLERANCES, found, strict=True))


@torch.inference_mode()
def _cached_logits(task: Task) -> Tensor:
    """(2 B, N, V), set by set behind a cache."""
    backbone, tokenizer, prefix = task.model.backbone, task.tokenizer, task.prefix()
    tokens, cache = torch.cat([task.tokens, task.tokens]), backbone.cache(prefix)
    logits, known = [backbone.logits(backbone.prefill(prefix, cache)[:, -1:], prefix)], 0
    for size in backbone.set_sizes[:-1]:
        known += size
        inputs = tokenizer.next_input(tokens[:, :known])
        logits.append(backbone.logits(backbone.step(inputs, known, prefix, cache), prefix))
    return torch.cat(logits, dim=1)


def _waits(task: Task, steps: Steps) -> int:
    """How often torch says that a decode made the host wait for the device; 0 on the CPU."""
    if not is_cuda(task.device):
        return 0
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            task.decode(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def _error(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of what is expected."""
    difference = (found.double() - expected.double()).square().mean()
    return (difference / expected.double().square().mean()).sqrt().item()


def _differ(found: Tensor, expected: Tensor) -> float:
    return (found != expected).double().mean().item()
