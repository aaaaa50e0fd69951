"""What a recipe would need and cost, without training it or allocating a weight.

Memory and operations are estimates: fp32 weights, gradients, AdamW moments and average (`ema`) for
what is trained; fp32 weights of the frozen networks that nothing `extracted` replaces; activations
of a transformer layer in 16 bit as 34 bytes per token and channel (Korthikanti et al. 2022, without
the attention matrix, which is never stored), or 2 where they are computed again; logits in fp32
with their gradient, as many as exist together; 6 operations per trained and 2 per frozen weight and
token, convolutional tokenizer aside. (`torch.utils.flop_counter` would have to run the model, which
asks whether text is padded, and the meta device cannot say.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn

from preprocessors import PREPROCESSORS
from scar.config import ScarConfig
from scar.cross_entropy import LOGITS
from scar.encoder import ENCODERS, VisualEncoder, feature_shape
from scar.text import TEXT_ENCODERS, TextEncoder
from scar.weights.checkpoint import build_model, build_tokenizer
from scar.weights.pins import ENCODER_PINS
from train.data.extracted import RECORD, Layout, read_layout
from train.data.sources import open_reader
from train.objectives.frozen import needless
from train.recipe import Recipe, scheduled

# google/flan-t5-*: their shapes, so that nothing has to be downloaded to count them.
T5_SHAPES = {
    "flan-t5-small": {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
    "flan-t5-xl": {"d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
}
BYTES_TRAINED = 4 + 4  # weight, gradient
BYTES_AVERAGE = 4
BYTES_MOMENTS = {"adamw": 8, "adamw8bit": 2, "muon": 4}  # muon: one for nearly every weight
BYTES_FROZEN = 4
BYTES_ACTIVATION = 34  # per layer, token and channel
BYTES_INPUT = 2  # what gradient checkpointing keeps of them
BYTES_LOGIT = 4 + 4 + 2


@dataclass(frozen=True)
class Size:
    """Tokens of one example, and weights by part."""

    visual: int  # P_s
    text: int  # T_t, at most
    tokens: int  # N
    cells: int  # of the encoder's grid, before compression
    trained: dict[str, int]
    frozen: dict[str, int]

    @property
    def sequence(self) -> int:
        return self.visual + self.text + self.tokens - 1


def dry_run(recipe: Recipe) -> None:
    """Print parameters by part, sequence lengths, memory, steps and what is missing on disk.

    Raises:
        ValueError: the recipe itself is wrong; missing files are printed, not raised.
    """
    config = recipe.model
    print(recipe.about.strip())
    if recipe.objective == "tokenizer":
        count = _count(build_tokenizer, config.tokenizer)
        print(f"\ntrained      tokenizer {count:,}")
    else:
        size = measure(config, needless(recipe))
        if recipe.weights.train_only == "prefix":
            size = with_frozen_backbone(size)
        _print_sizes(size)
        _print_memory(recipe, config, size)
    steps = _print_schedule(recipe)
    if recipe.objective == "scar" and steps:
        operations = operations_per_example(size) * recipe.schedule.batch_size * steps
        print(f"operations   {operations:.2g} in all")
    found = missing(recipe, config)
    print("\nmissing      " + ("\n             ".join(found) or "nothing"))


def measure(config: ScarConfig, without: frozenset[str] = frozenset()) -> Size:
    """Counted on torch's meta device, `without` some frozen networks ("encoder", "text")."""
    with torch.device("meta"):
        model = build_model(config, for_training=True)
        frozen = {"tokenizer": _weights(build_tokenizer(config.tokenizer))}
        if "encoder" not in without:
            encoder = VisualEncoder(config.encoder, False)
            frozen[f"encoder {config.encoder.name}"] = _weights(encoder)
    if config.condition.text_encoder != "none" and "text" not in without:
        frozen[f"text {config.condition.text_encoder}"] = _text_weights(config)
    grid = feature_shape(config.encoder)[0]
    start = int(model.backbone.reads_pooled)  # VAR's start token
    return Size(
        visual=(grid // config.compressor.factor) ** 2,
        text=config.condition.text_slots + start,
        tokens=sum(config.tokenizer.set_sizes),
        cells=grid**2,
        trained={name: _weights(part) for name, part in model.named_children()},
        frozen=frozen,
    )


def with_frozen_backbone(size: Size) -> Size:
    """Under `train_only: prefix`; the few of VAR's positions that learn are not counted."""
    trained = {name: count for name, count in size.trained.items() if name != "backbone"}
    return replace(
        size, trained=trained, frozen=size.frozen | {"backbone": size.trained["backbone"]}
    )


def memory_per_process(recipe: Recipe, config: ScarConfig, size: Size, examples: int) -> float:
    """Bytes, for `examples` in one micro-batch of one process."""
    backbone, trained = config.backbone, sum(size.trained.values())
    weights = (BYTES_TRAINED + BYTES_MOMENTS[recipe.optimizer.name]) * trained
    weights += BYTES_FROZEN * sum(size.frozen.values())
    if recipe.optimizer.ema:  # of the whole model, frozen or not
        weights += BYTES_AVERAGE * (trained + size.frozen.get("backbone", 0))
    kept = BYTES_ACTIVATION * backbone.layers
    if recipe.compute.gradient_checkpointing:
        kept = BYTES_INPUT * backbone.layers + BYTES_ACTIVATION  # one layer at a time is whole
    wider = 1 if recipe.compute.precision == "bf16" else 2
    layers = examples * kept * wider * backbone.width * size.sequence
    logits = min(examples * size.tokens * config.tokenizer.codebook_size, LOGITS)
    return weights + layers + BYTES_LOGIT * logits


def operations_per_example(size: Size) -> float:
    """Floating-point operations of one example, forward and backward."""
    compressed = size.trained["compressor"] * size.visual * 2  # of source and target
    upsampled = size.trained.get("upsampler", 0) * size.cells
    encoder, text = (
        next((count for name, count in size.frozen.items() if name.startswith(kind)), 0)
        for kind in ("encoder", "text")
    )
    # A frozen backbone passes gradients on, and has none of its own.
    backbone = 6 * size.trained.get("backbone", 0) + 4 * size.frozen.get("backbone", 0)
    return (
        backbone * size.sequence
        + 6 * (compressed + upsampled)
        + 2 * (encoder * size.cells * 2 + text * size.text)
    )


def missing(recipe: Recipe, config: ScarConfig) -> list[str]:
    """A sentence for each thing the run needs that is not on this machine."""
    found = []
    for field in ("tokenizer", "init"):
        folder = getattr(recipe.weights, field)
        if folder and not any(Path(folder).glob("*.safetensors")):
            found.append(f"{field}: no weights in {folder}; see train/README.md")
    if recipe.objective == "scar":
        found += _missing_encoders(config, needless(recipe))
    stored = _stored(recipe)
    whole = bool(stored and stored.whole)
    if recipe.data.extracted and not stored:
        found.append(f"extracted: {recipe.data.extracted} is empty; run python -m train.extract")
    elif recipe.data.kind != "toy":
        wanted = {"train": not whole, "validation": bool(recipe.run.grid_every)}
        for split in (split for split, needed in wanted.items() if needed):
            try:
                open_reader(recipe, split)
            except ValueError as error:
                found.append(f"data, {split}: {error}")
    if recipe.data.control and not recipe.data.controls and not whole and recipe.data.kind != "toy":
        status = PREPROCESSORS[recipe.data.control].status(recipe.data.detector)
        stand_in = status.backend == "embedded" and recipe.data.detector == "auto"
        if status.state != "ready" or stand_in:
            found.append(f"{recipe.data.control} detector, should maps be drawn: {status.reason}")
    return found


def _stored(recipe: Recipe) -> Layout | None:
    there = recipe.data.extracted and (Path(recipe.data.extracted) / RECORD).is_file()
    return read_layout(Path(recipe.data.extracted)) if there else None


def _missing_encoders(config: ScarConfig, without: frozenset[str]) -> list[str]:
    found = []
    name, spec = config.encoder.name, ENCODERS[config.encoder.name]
    files, pin = ("model.safetensors", "pytorch_model.bin"), ENCODER_PINS[name].revision or "main"
    is_here = any(_cached(f"timm/{spec.timm_name}", file, pin) for file in files)
    if not spec.stages and not is_here and "encoder" not in without:
        found.append(f"encoder: {spec.timm_name} will be downloaded from the Hub")
    if config.condition.text_encoder != "none" and "text" not in without:
        text = TEXT_ENCODERS[config.condition.text_encoder].pin
        if text.revision and not _cached(text.repo, "config.json", text.revision):
            found.append(f"text encoder: {text.repo} will be downloaded from the Hub")
    return found


def _cached(repository: str, file: str, revision: str) -> bool:
    return isinstance(try_to_load_from_cache(repository, file, revision=revision), str)


def _print_sizes(size: Size) -> None:
    print()
    for label, parts in (("trained", size.trained), ("frozen", size.frozen)):
        for name, count in parts.items():
            print(f"{label:12} {name:24} {count:>15,}")
        print(f"{label:12} {'all':24} {sum(parts.values()):>15,}")
    whole = size.sequence - size.visual + size.cells
    print(
        f"\nsequence     {size.visual} visual + {size.text} text or class + {size.tokens} image "
        f"tokens - 1 = {size.sequence}; uncompressed {whole}"
    )


def _print_memory(recipe: Recipe, config: ScarConfig, size: Size) -> None:
    print("memory       estimated, without what a framework reserves, per process")
    for processes in (1, 8):
        examples = max(1, recipe.schedule.batch_size // (recipe.schedule.accumulate * processes))
        amount = memory_per_process(recipe, config, size, examples) / 2**30
        print(f"             {processes} x {examples} examples: {amount:.1f} GiB")


def _print_schedule(recipe: Recipe) -> int:
    """Returns the steps; 0 when they depend on data that are not there."""
    schedule = recipe.schedule
    if not schedule.epochs:
        print(f"steps        {schedule.steps:,} of {schedule.batch_size} examples")
        return schedule.steps
    try:
        stored = _stored(recipe)
        reader = range(stored.examples) if stored else open_reader(recipe, "train")
    except ValueError:
        print(f"steps        {schedule.epochs:g} epochs of data that are not there yet")
        return 0
    steps = scheduled(recipe, reader).schedule.steps
    print(
        f"steps        {steps:,} of {schedule.batch_size} examples: {schedule.epochs:g} epochs of "
        f"{len(reader):,}"
    )
    return steps


def _text_weights(config: ScarConfig) -> int:
    name = config.condition.text_encoder
    if name not in T5_SHAPES:
        with torch.device("meta"):
            return _weights(TextEncoder(name, config.condition.text_slots, pretrained=False))
    from transformers import T5Config, T5EncoderModel

    shape = T5Config(feed_forward_proj="gated-gelu", vocab_size=32128, **T5_SHAPES[name])
    with torch.device("meta"):
        return _weights(T5EncoderModel(shape))


def _count(build, config) -> int:
    with torch.device("meta"):
        return _weights(build(config))


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
