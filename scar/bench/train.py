"""Training steps compared: `python -m scar bench train`.

An example has the lengths of one at 512 px: 1024 cells of features, 120 text slots and 1024 tokens
out of 16384 codes. On CUDA the transformer is LlamaGen-XL and a batch has 8 examples; elsewhere it
is narrow and has 2. Weights, features and tokens are random. Steps run in bf16; seconds are
medians.

First the prefixes: a whole step with AdamW each, and its peak memory with weights, gradients and
moments. Then pairs that differ in one respect, run alternately: forward and backward pass, and its
peak memory above weights and gradients.
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
from typing import Literal, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn

from scar.attention import masked_sdpa, set_mask
from scar.bench.decode import free_compiled, is_cuda, seconds_of
from scar.config import ScarConfig
from scar.cross_entropy import token_loss
from scar.encoder import feature_shape
from scar.model import SCAR, Batch
from scar.next_token import NextTokenTransformer
from scar.prefix import DropMask, TextEmbedding
from scar.presets import configure
from scar.text import text_width
from scar.weights.checkpoint import build_model

PRESET = "llamagen-xl-t2i"
NARROW = {
    "backbone": {"layers": 4, "heads": 6, "width": 384},
    "encoder": {"name": "sam-b", "image_size": 512},  # the same 1024 cells, 256 channels
}
Step = Callable[[], Tensor]


def train(device: str, repeat: int, changes: dict | None = None) -> None:
    """Print seconds and peak memory of each prefix and of each pair, and their ratios.

    Args:
        device: "cpu" or "cuda".
        repeat: timed steps of each, after two warm-up steps.
        changes: fields of the preset to replace; None: the shapes for the device.
    """
    whole = is_cuda(device)
    if changes is None:
        changes = {} if whole else NARROW
    config = configure(PRESET, changes)
    batch, how = _batch(config, device, examples=8 if whole else 2), (device, repeat)
    backbone = config.backbone
    print(
        f"{len(batch.label)} examples, {backbone.layers} layers of width {backbone.width}, "
        f"on {device}\n{'':28}seconds   peak GB    time   memory"
    )
    _prefixes(config, batch, *how)
    model = build_model(config, for_training=True).to(device)
    scar = partial(_whole, model, batch)
    stored = partial(_patched, "scar.next_token.attention_over", _stored, scar)
    _pair({"stored mask": stored, "attention without a mask": scar}, *how)
    at_once = partial(token_loss, at_once=2**62)
    full = partial(_patched, "scar.model.token_loss", at_once, scar)
    _pair({"logits of the batch at once": full, "logits in parts": scar}, *how)
    compiled = build_model(config, for_training=True).to(device)
    cast(nn.Module, compiled.backbone).compile()
    _pair({"eager": scar, "compiled": partial(_whole, compiled, batch)}, *how)


def _prefixes(config: ScarConfig, batch: Batch, device: str, repeat: int) -> None:
    """One after the other, because each has its own weights and moments."""
    first: tuple[float, float] | None = None
    kinds: tuple[tuple[str, Literal[1, 2, 4], Callable[..., Tensor]], ...] = (
        ("VQ prefix", 1, _vq_prefix),
        ("1x", 1, _whole),
        ("4x", 2, _whole),
        ("16x", 4, _whole),
    )
    for name, factor, loss in kinds:
        positions = batch.source[0, ..., 0].numel() // factor**2
        positions += batch.text.valid.shape[1] + batch.tokens.shape[1] - 1
        name = f"{name}, {positions} positions"
        compressor = replace(config.compressor, factor=factor)
        try:
            found = _updates(replace(config, compressor=compressor), loss, batch, device, repeat)
            _print(name, found, first)
            first = first or found
        except torch.OutOfMemoryError:
            print(f"{name}: skipped, since it does not fit in the memory of the device")
        free_compiled(device)


def _updates(
    config: ScarConfig, loss: Callable[..., Tensor], batch: Batch, device: str, repeat: int
) -> tuple[float, float]:
    """Seconds of a step with its update, and its peak memory in GB."""
    model = build_model(config, for_training=True).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=is_cuda(device))
    step = partial(loss, model, batch)

    def update() -> None:
        _run(step, device)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    update()
    seconds = statistics.median(seconds_of(update, repeat, device))
    # Per trained parameter: itself, its gradient and two moments.
    kept = sum(p.nbytes * (1 if p.grad is None else 4) for p in model.parameters())
    return seconds, (kept + _peak(step, device)) / 1e9


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
        _print(name, found, first)
        first = first or found


def _print(name: str, found: tuple[float, float], first: tuple[float, float] | None) -> None:
    """Seconds and GB, and both relative to the first."""
    ratios = f"  {first[0] / found[0]:5.2f}x  {found[1] / first[1] - 1:+6.1%}" if first else ""
    print(f"{name:28}{found[0]:7.2f}   {found[1]:7.2f}{ratios}")


def _run(step: Step, device: str) -> None:
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        loss = step()
    loss.backward()
    if is_cuda(device):
        torch.cuda.synchronize()


def _peak(step: Step, device: str) -> int:
    """Peak memory of one step in bytes, above what was allocated before it."""
    gc.collect()
    if is_cuda(device):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _run(step, device)
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # freed memory of earlier steps may still be resident
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _resident("VmRSS")
    _run(step, device)
    return max(_resident("VmHWM") - before, 1)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def _whole(model: SCAR, batch: Batch) -> Tensor:
    return sum(model(batch))


def _vq_prefix(model: SCAR, batch: Batch) -> Tensor:
    """L_CE alone, with a prefix of VQ tokens as in models before SCAR. Those of the target stand in
    for those of the source."""
    backbone = cast(NextTokenTransformer, model.backbone)
    prefix = model.conditioner(batch.source, batch.text, batch.label, batch.drop)
    codes = backbone.tok_embeddings(batch.tokens).to(prefix.slots.dtype)
    slots = torch.cat([codes, prefix.slots[:, codes.shape[1] :]], dim=1)
    hidden = backbone(prefix._replace(slots=slots), batch.inputs)[:, -batch.tokens.shape[1] :]
    head = partial(backbone.logits, prefix=prefix)
    return token_loss(hidden, head, batch.tokens, batch.weights, backbone.codes)


def _batch(config: ScarConfig, device: str, examples: int) -> Batch:
    """A random batch, without text padding."""
    grid, channels = feature_shape(config.encoder)
    slots, width = config.condition.text_slots, text_width(config.condition.text_encoder)
    count, codes = sum(config.tokenizer.set_sizes), config.tokenizer.codebook_size
    shape, none = (examples, grid, grid, channels), torch.zeros(examples, dtype=torch.bool)
    tokens = torch.randint(codes, (examples, count), device=device)
    valid = torch.ones(examples, slots, dtype=torch.bool, device=device)
    return Batch(
        torch.randn(shape, device=device),
        torch.randn(shape, device=device),
        TextEmbedding(torch.randn(examples, slots, width, device=device), valid),
        torch.full((examples,), -1, device=device),
        tokens,
        tokens[:, :-1],
        torch.ones(examples, count, device=device),
        torch.ones(examples, grid, grid, dtype=torch.bool, device=device),
        DropMask(none.to(device), none.to(device)),
    )


def _stored(valid: Tensor, set_sizes: tuple[int, ...], causal_prefix: bool = False):
    return masked_sdpa(set_mask(valid, set_sizes, causal_prefix))


def _patched(name: str, other: Callable, step: Step) -> Tensor:
    with patch(name, other):
        return step()
