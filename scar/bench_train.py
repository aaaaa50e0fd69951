"""Training steps in pairs that differ in one thing: `python -m scar bench train`.

An example has the lengths of one at 512 px: 1024 cells of features, 120 text slots and 1024 tokens
out of 16384 codes. Weights, features and tokens are random, the transformer is narrow enough for a
laptop. Both of a pair run in turns, in bf16; seconds are medians of forward and backward passes,
memory is the most that one of them holds above weights and gradients.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from scar.checkpoint import build_model, configure
from scar.conditioning import Drop, Text
from scar.config import ScarConfig
from scar.cross_entropy import token_loss
from scar.encoder import feature_shape
from scar.layers import masked, set_mask
from scar.model import SCAR, Batch
from scar.text import text_width

EXAMPLES = 2
PRESET = "llamagen-xl-t2i"
NARROW = {
    "backbone": {"layers": 4, "heads": 6, "width": 384},
    "encoder": {"name": "sam-b", "image_size": 512},  # the same 1024 cells, 256 channels
}
Step = Callable[[], Tensor]


def train(device: str, repeat: int, changes: dict = NARROW) -> None:
    """Print seconds and peak memory of each pair, and their ratios.

    Args:
        device: "cpu" or "cuda".
        repeat: steps of each, after two that are not counted.
        changes: fields of the preset to replace.
    """
    config = configure(PRESET, changes)
    model = build_model(config, for_training=True).to(device)
    batch = _batch(config, device)
    scar, how = partial(_whole, model, batch), (device, repeat)
    backbone = config.backbone
    print(
        f"{EXAMPLES} examples, {backbone.layers} layers of width {backbone.width}, on {device}\n"
        f"{'':28}seconds   peak GB    time   memory"
    )
    whole = replace(config, compressor=replace(config.compressor, factor=1))
    uncompressed = partial(_uncompressed, build_model(whole).to(device), batch)
    _pair({"uncompressed, L_CE alone": uncompressed, "compressed 4x, all losses": scar}, *how)
    stored = partial(_patched, "scar.next_token.attention_over", _stored, scar)
    _pair({"stored mask": stored, "attention without a mask": scar}, *how)
    at_once = partial(token_loss, at_once=2**62)
    full = partial(_patched, "scar.model.token_loss", at_once, scar)
    _pair({"logits of the batch at once": full, "logits in parts": scar}, *how)
    compiled = build_model(config, for_training=True).to(device)
    compiled.backbone.compile()
    _pair({"eager": scar, "compiled": partial(_whole, compiled, batch)}, *how)


def _pair(steps: dict[str, Step], device: str, repeat: int) -> None:
    for step in steps.values():
        for _ in range(2):
            _run(step, device)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeat):
        for name, step in steps.items():
            start = time.perf_counter()
            _run(step, device)
            seconds[name].append(time.perf_counter() - start)
    first: tuple[float, float] | None = None
    for name, step in steps.items():
        found = statistics.median(seconds[name]), _peak(step, device) / 1e9
        ratios = ""
        if first:
            ratios = f"  {first[0] / found[0]:5.2f}x  {found[1] / first[1] - 1:+6.1%}"
        print(f"{name:28}{found[0]:7.2f}   {found[1]:7.2f}{ratios}")
        first = first or found


def _run(step: Step, device: str) -> None:
    with torch.autocast(device, torch.bfloat16):
        loss = step()
    loss.backward()
    if device == "cuda":
        torch.cuda.synchronize()


def _peak(step: Step, device: str) -> int:
    """Bytes that one step holds at most above what was there before it."""
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _run(step, device)
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # what earlier steps freed may still be resident
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before = _resident("VmRSS")
    _run(step, device)
    return max(_resident("VmHWM") - before, 1)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def _whole(model: SCAR, batch: Batch) -> Tensor:
    return sum(model(batch))


def _uncompressed(model: SCAR, batch: Batch) -> Tensor:
    """A prefix slot for every cell and no further loss, as models before SCAR read an image."""
    prefix = model.conditioner(batch.source, batch.text, batch.label, batch.drop)
    hidden = model.backbone(prefix, batch.inputs)[:, -batch.tokens.shape[1] :]
    head = partial(model.backbone.logits, prefix=prefix)
    return token_loss(hidden, head, batch.tokens, batch.weights, model.backbone.output.out_features)


def _batch(config: ScarConfig, device: str) -> Batch:
    """Random, with all text slots in use."""
    grid, channels = feature_shape(config.encoder)
    slots, width = config.condition.text_slots, text_width(config.condition.text_encoder)
    count, codes = sum(config.tokenizer.set_sizes), config.tokenizer.codebook_size
    shape, none = (EXAMPLES, grid, grid, channels), torch.zeros(EXAMPLES, dtype=torch.bool)
    tokens = torch.randint(codes, (EXAMPLES, count), device=device)
    valid = torch.ones(EXAMPLES, slots, dtype=torch.bool, device=device)
    return Batch(
        torch.randn(shape, device=device),
        torch.randn(shape, device=device),
        Text(torch.randn(EXAMPLES, slots, width, device=device), valid),
        torch.full((EXAMPLES,), -1, device=device),
        tokens,
        tokens[:, :-1],
        torch.ones(EXAMPLES, count, device=device),
        Drop(none.to(device), none.to(device)),
    )


def _stored(valid: Tensor, set_sizes: tuple[int, ...], causal_prefix: bool = False):
    return masked(set_mask(valid, set_sizes, causal_prefix))


def _patched(name: str, other: Callable, step: Step) -> Tensor:
    with patch(name, other):
        return step()
