"""Whether a device decodes correctly: `python -m scar bench check --device cuda`.

On CUDA with the shapes of LlamaGen-L and VAR-d16, elsewhere with small ones; weights are random.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from scar.bench.decode import Workload, free_compiled, is_cuda
from scar.compiled import CompiledRunner
from scar.presets import configure
from scar.sampling import EagerRunner

SHAPES: dict[str, dict] = {"llamagen-l-c2i": {}, "var-d16": {}}
SMALL_BACKBONE = {"layers": 2, "heads": 2, "width": 64}
SMALL: dict[str, dict] = {
    "toy-next-token": {"backbone": SMALL_BACKBONE, "tokenizer": {"image_size": 32}},
    "toy-next-set": {
        "backbone": SMALL_BACKBONE,
        "tokenizer": {"image_size": 32, "scales": [1, 2, 4]},
    },
}
# Upper bounds. bf16 rounds every weight and every result by up to 0.4%, which grows to a few
# percent after 24 layers of random weights; fp32 results differ by the order of summation only.
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
        free_compiled(device)
    return within


def _figures(preset: str, changes: dict, device: str) -> dict[str, float]:
    config = configure(preset, changes)
    workload, compiled = Workload(config, device, torch.float32), CompiledRunner()
    logits, eager = workload.logits(), workload.decode(EagerRunner())
    tokens = workload.decode(compiled)
    for _ in range(2):  # the runs that record and replay
        tokens = workload.decode(compiled)
    pixels = workload.tokenizer.decode
    found = (
        _error(Workload(config, device, torch.bfloat16).logits(), logits),
        _error(_cached_logits(workload), logits),
        _mismatch(tokens, eager),
        _mismatch(pixels(workload.decode(EagerRunner())), pixels(eager)),
        _mismatch(pixels(workload.decode(compiled)), pixels(tokens)),
        _count_syncs(workload, compiled),
    )
    return dict(zip(TOLERANCES, found, strict=True))


@torch.inference_mode()
def _cached_logits(workload: Workload) -> Tensor:
    """(2 B, N, V), set by set with a KV cache."""
    backbone, tokenizer, prefix = workload.model.backbone, workload.tokenizer, workload.prefix()
    tokens, cache = torch.cat([workload.tokens, workload.tokens]), backbone.cache(prefix)
    logits, num_decoded = [backbone.logits(backbone.prefill(prefix, cache)[:, -1:], prefix)], 0
    for size in backbone.set_sizes[:-1]:
        num_decoded += size
        inputs = tokenizer.next_input(tokens[:, :num_decoded])
        logits.append(backbone.logits(backbone.step(inputs, num_decoded, prefix, cache), prefix))
    return torch.cat(logits, dim=1)


def _count_syncs(workload: Workload, runner: EagerRunner) -> int:
    """Host-device synchronisations of a decode, as torch counts them; 0 on the CPU."""
    if not is_cuda(workload.device):
        return 0
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            workload.decode(runner)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def _error(found: Tensor, expected: Tensor) -> float:
    """Relative error: RMS of the difference over RMS of the expected values."""
    difference = (found.double() - expected.double()).square().mean()
    return (difference / expected.double().square().mean()).sqrt().item()


def _mismatch(found: Tensor, expected: Tensor) -> float:
    """Share of the values that differ."""
    return (found != expected).double().mean().item()
