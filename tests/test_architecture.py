"""The shapes in docs/architecture.md are those of the real classes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scar.assets import EMBEDDED
from scar.encoder import feature_shape
from scar.prefix import DropMask, TextEmbedding
from scar.presets import PRESETS
from scar.sampling import EagerRunner, cfg_rows, guide
from scar.text import text_width
from scar.weights.checkpoint import build_model, build_tokenizer, load_config

ROOT = Path(__file__).parents[1]


def documented(column):
    """The shapes in one column of the tables, by name, for a batch of one."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    shapes = {}
    for row in rows:
        sizes = row[column].strip("()").replace("2 B", "2").replace("B", "1")
        shapes[row[0].strip("`")] = tuple(int(size) for size in sizes.split(", "))
    return shapes


def measured_tokens(config):
    """What the tokenizer makes of one picture, on the meta device: no arithmetic."""
    with torch.device("meta"):
        tokenizer = build_tokenizer(config.tokenizer)
        images = torch.empty(1, 3, config.tokenizer.image_size, config.tokenizer.image_size)
        tokens = tokenizer.encode(images)
        read = tokenizer.next_input(tokens[:, : -tokenizer.set_sizes[-1]])
        latents = []
        tokenizer.post_quant_conv.register_forward_hook(lambda *call: latents.append(call[-1]))
        pixels = tokenizer.decode(tokens)
    return {
        "images": images, "Z": tokens, "inputs": tokenizer.inputs(tokens), "step": read,
        "last": tokens[:, -tokenizer.set_sizes[-1] :], "tokens": tokens, "latents": latents[0],
        "pixels": pixels,
    }  # fmt: skip


@torch.no_grad()
def measured_model(config):
    """What SCAR makes of the features of one picture, with one layer of uninitialised weights."""
    side, channels = feature_shape(config.encoder)
    with torch.device("meta"):
        model = build_model(config, for_training=True)
    model.to_empty(device="cpu").eval()
    slots, width = config.condition.text_slots, text_width(config.condition.text_encoder)
    features, text = torch.zeros(1, side, side, channels), torch.zeros(1, slots, width)
    text = TextEmbedding(text, torch.ones(1, slots, dtype=torch.bool))
    label, none = torch.tensor([-1]), torch.tensor([False])
    compressed = model.compressor(features)
    visual = model.conditioner.project(compressed)  # P_s
    prefix = model.conditioner(compressed, text, label, DropMask(none, none))
    prefilled = model.prefill(features, text, label, config.sampling, EagerRunner())
    assert cfg_rows(config.sampling) == 2
    last = model.backbone.logits(prefilled.hidden[:, -1:], prefix.joined(prefix))
    cells = visual.shape[1]
    read = config.encoder.image_size
    return {
        "resized": torch.empty(1, 3, read, read), "F_s": features, "F_c": compressed,
        "P_s": visual, "text": text.tokens, "T_t": prefix.slots[:, cells:],
        "slots": prefix.slots, "pooled": prefix.pooled, "H_s": prefilled.hidden[:1, :cells],
        "U_k": model.upsampler(compressed),
        "region": model.region(prefilled.hidden[:1, :cells], visual),
        "prefilled": prefilled.hidden, "keys": prefilled.cache.keys[0],
        "guided": guide(last, 1.0),
    }  # fmt: skip


@pytest.mark.parametrize(("column", "name"), [(2, "next-token"), (3, "next-set"), (4, "xl")])
def test_the_page_gives_the_shapes_that_the_classes_make(column, name):
    config = PRESETS["llamagen-xl-t2i"] if name == "xl" else load_config(EMBEDDED / name)
    config = replace(
        config,
        backbone=replace(config.backbone, layers=1),
        losses=replace(config.losses, region=1.0),
    )
    tensors = measured_tokens(config) | measured_model(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    batch, _, positions, _ = shapes["keys"]  # a training pass covers as many positions
    shapes["hidden"] = (batch // 2, positions, config.backbone.width)
    shapes["logits"] = (*shapes["Z"], config.tokenizer.codebook_size)
    assert documented(column) == shapes


def test_every_file_the_page_names_exists():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:scar|train|preprocessors)(?:/\w+)+(?:\.py)?", page))
    assert len(named) > 15
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
