"""Decoding eagerly, compiled, and at the speed of the memory: `python -m scar bench decode`.

Weights and conditions are random, in bf16 on CUDA and in fp32 elsewhere. All variants of a preset
run in one call on one device. The limit is the time to read the backbone's matrices and the cached
keys and values once per step, at the bandwidth of a large copy measured in the same run.

Letters: B images, N tokens of an image, P prefix slots, D width, V codes.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn

from scar.compiled import CompiledRunner
from scar.config import Sampling, ScarConfig
from scar.encoder import feature_shape
from scar.prefix import DropMask, Prefix, TextEmbedding
from scar.presets import configure
from scar.sampling import EagerRunner
from scar.text import text_width
from scar.weights.checkpoint import build_model, build_tokenizer

PUBLISHED = ("llamagen-l-c2i", "llamagen-xl-t2i", "var-d16", "var-d30")
EMBEDDED = ("toy-next-token", "toy-next-set")
BATCHES = (1, 8)
GUIDED = Sampling(2.0)
WARM_UP = 3  # decodes: to compile, to record CUDA graphs, to replay them


def decode(presets: Sequence[str], device: str, repeat: int, changes: dict | None = None) -> None:
    """Print milliseconds a token and an image for each preset and batch, and their ratios.

    Args:
        presets: if empty, the published shapes on CUDA and the embedded ones elsewhere.
        device: "cpu" or "cuda".
        repeat: timed decodes per variant, after the warm-up; their median is printed.
        changes: fields of the presets to replace.
    """
    bandwidth = copy_bandwidth(device)
    print(f"a copy moves {bandwidth / 1e9:.1f} GB/s on {device}")
    for preset in presets or (PUBLISHED if is_cuda(device) else EMBEDDED):
        config = configure(preset, changes)
        sizes = config.tokenizer.set_sizes
        for batch in BATCHES:
            name = f"{preset}, batch {batch} with guidance"
            try:
                print(f"{name}, {sum(sizes)} tokens in {len(sizes)} steps")
                _compare(config, batch, device, repeat, bandwidth)
            except torch.OutOfMemoryError:
                print(f"{name}: skipped, since it does not fit in the memory of the device")
            free_compiled(device)


def _compare(config: ScarConfig, batch: int, device: str, repeat: int, bandwidth: float) -> None:
    workload = Workload(config, device, torch.bfloat16 if is_cuda(device) else torch.float32, batch)
    sizes = config.tokenizer.set_sizes
    compiled = CompiledRunner()
    seconds = {
        "uncached": len(sizes) * median_seconds(workload.logits, repeat, device),
        "eager": median_seconds(partial(workload.decode, EagerRunner()), repeat, device),
    }
    start = time.perf_counter()
    for _ in range(WARM_UP):
        workload.decode(compiled)
    print(f"{'':10}compiled in {time.perf_counter() - start:.0f} s{_skipped_graphs(device)}")
    seconds["compiled"] = median_seconds(partial(workload.decode, compiled), repeat, device)
    seconds["limit"] = workload.bytes_read() / bandwidth
    for name, found in seconds.items():
        print(
            f"{name:>10}{1000 * found / sum(sizes):9.3f} ms a token{1000 * found:11.1f} ms an image"
            f"{seconds['eager'] / found:9.2f}x eager{seconds['limit'] / found:9.1%} of the limit"
        )


class Workload:
    """A model with random weights and the random conditions of a batch of images."""

    def __init__(self, config: ScarConfig, device: str, dtype: torch.dtype, batch: int = 1):
        torch.manual_seed(0)
        grid, channels = feature_shape(config.encoder)
        width = text_width(config.condition.text_encoder)
        slots = config.condition.text_slots if width else 0
        label = 0 if config.condition.classes else -1
        self.device, self.dtype = device, dtype
        with torch.device(device):
            self.model = build_model(config).eval().requires_grad_(False)
            # Some are initialised with zeros, which would make all tokens equal.
            for parameter in self.model.parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
            self.model.to(dtype)
            self.tokenizer = build_tokenizer(config.tokenizer).eval().requires_grad_(False)
            self.features = torch.randn(batch, grid, grid, channels).to(dtype)
            valid = torch.ones(batch, slots, dtype=torch.bool)
            self.text = TextEmbedding(torch.randn(batch, slots, width).to(dtype), valid)
            self.label = torch.full((batch,), label)
            shape = (batch, sum(config.tokenizer.set_sizes))
            self.tokens = torch.randint(config.tokenizer.codebook_size, shape)

    def decode(self, runner: EagerRunner, seed: int = 0) -> Tensor:
        """(B, N), with one preview after the first set."""
        generator = torch.Generator(self.device).manual_seed(seed)
        conditions = (self.features, self.text, self.label)
        count = len(self.tokenizer.set_sizes)
        *_, tokens = self.model.generate(
            *conditions, self.tokenizer, GUIDED, generator, preview_every=count, runner=runner
        )
        return tokens

    @torch.inference_mode()
    def prefix(self) -> Prefix:
        """(2 B, P, D), as under guidance."""
        none = torch.zeros(len(self.label), dtype=torch.bool, device=self.device)
        features = self.model.compressor(self.features)
        prefix = self.model.conditioner(features, self.text, self.label, DropMask(none, none))
        return prefix.joined(prefix)

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """(2 B, N, V), all tokens in one pass without a cache."""
        prefix, tokens = self.prefix(), torch.cat([self.tokens, self.tokens])
        hidden = self.model.backbone(prefix, self.tokenizer.inputs(tokens))
        return self.model.backbone.logits(hidden[:, -tokens.shape[1] :], prefix)

    @torch.inference_mode()
    def bytes_read(self) -> int:
        """Bytes that all steps of an image read: matrices, and cached keys and values."""
        backbone, sizes = cast(nn.Module, self.model.backbone), self.tokenizer.set_sizes
        matrices = sum(
            parameter.nbytes
            for module in backbone.modules()
            if isinstance(module, nn.Linear)
            for parameter in module.parameters()
        )
        cache = self.model.backbone.cache(self.prefix())
        slot = sum(buffer[:, :, 0].nbytes for buffer in (*cache.keys, *cache.values))
        positions = sum(cache.prefix + end - 1 for end in list(accumulate(sizes))[1:])
        return len(sizes) * matrices + slot * positions


def copy_bandwidth(device: str) -> float:
    """Bytes per second read and written by a copy much larger than the caches, the best of five."""
    size = 2**30 if is_cuda(device) else 2**27
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / min(seconds_of(partial(target.copy_, source), 5, device))


def is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def free_compiled(device: str) -> None:
    """Free compiled functions and the memory of their graphs."""
    torch.compiler.reset()
    gc.collect()
    if is_cuda(device):
        torch.cuda.empty_cache()


def _skipped_graphs(device: str) -> str:
    """How many compiled functions torch could not record as a CUDA graph; they lose most of the
    speed."""
    skipped = torch._dynamo.utils.counters["inductor"].pop("cudagraph_skips", 0)
    return f", {skipped} without a CUDA graph" if is_cuda(device) and skipped else ""


def median_seconds(run: Callable[[], object], repeat: int, device: str) -> float:
    return statistics.median(seconds_of(run, repeat, device))


def seconds_of(run: Callable[[], object], repeat: int, device: str) -> list[float]:
    """Seconds of each of `repeat` runs, after one warm-up run."""
    seconds = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        run()
        if is_cuda(device):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]
