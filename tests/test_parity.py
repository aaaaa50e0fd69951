"""Converted weights reproduce what the reference implementations computed (tests/golden)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.tiny import TINY
from safetensors.torch import load_file

import scar.text
from scar.config import Sampling
from scar.prefix import Conditioner, DropMask, TextEmbedding
from scar.presets import PRESETS, configure
from scar.sampling import EagerRunner, decode
from scar.weights.checkpoint import BACKBONES, build_tokenizer, load_strictly
from scar.weights.convert import (
    convert_llamagen,
    convert_var,
    convert_var_tokenizer,
    convert_vq16,
)
from scar.weights.pins import Pin

GOLDEN = Path(__file__).parent / "golden"
SMALL = {"backbone": TINY["backbone"], "condition": {"classes": 10}}
AUTOENCODER = {"channels": [32, 32], "blocks": 1}
SCALES = [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
VAR_TOKENIZER = {
    "scales": SCALES,
    "image_size": 12,
    "codebook_size": 64,
    "code_dim": 8,
    "autoencoder": {**AUTOENCODER, "latent": 8},
}


def golden(name):
    """(weights in the reference's layout, inputs and outputs)"""
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    parts = {"weights": {}, "data": {}}
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = value.float() if value.is_floating_point() else value
    return parts["weights"], parts["data"]


class Converted:
    """Conditioner and backbone with converted weights and no visual prefix, as published."""

    def __init__(self, config, state):
        backbone = BACKBONES[type(config.backbone)]
        self.backbone = backbone(config.backbone, config.tokenizer, prefix_grid=0).eval()
        self.conditioner = Conditioner(
            config.condition,
            features=4,
            cells=0,
            text_width=scar.text.text_width(config.condition.text_encoder),
            width=config.backbone.width,
            pooled=backbone.reads_pooled,
        )
        fresh = ("visual", "null_visual", "prefix_level")
        for name, module in (("backbone", self.backbone), ("conditioner", self.conditioner)):
            own = {k: v for k, v in module.state_dict().items() if k.startswith(fresh)}
            given = {
                key.removeprefix(f"{name}."): value
                for key, value in state.items()
                if key.startswith(f"{name}.")
            }
            load_strictly(module, own | given)

    def prefix(self, label, text=None, null=False):
        batch = len(label)
        none = torch.zeros(batch, dtype=torch.bool)
        text = text or TextEmbedding(
            torch.zeros(batch, 0, 0), torch.zeros(batch, 0, dtype=torch.bool)
        )
        return self.conditioner(
            torch.zeros(batch, 0, 0, 4), text, label, DropMask(none, none | null)
        )

    def logits(self, prefix, inputs, count):
        hidden = self.backbone(prefix, inputs)
        return self.backbone.logits(hidden[:, -count:], prefix)

    def sample(self, sampling, tokenizer, seed, label, text=None):
        prefix = self.prefix(label, text)
        if sampling.guidance != 1:
            prefix = prefix.joined(self.prefix(label, text, null=True))
        generator = torch.Generator().manual_seed(seed)
        prefilled = EagerRunner().prefill(self.backbone, prefix)
        *_, tokens = decode(self.backbone, prefilled, tokenizer, sampling, generator)
        return tokens


class LastToken:
    @staticmethod
    def next_input(tokens, sets=1):
        return tokens[:, -sets:]

    last_tokens = next_input


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.fixture(scope="module")
def c2i():
    weights, data = golden("llamagen-c2i")
    tokenizer = {"image_size": 128, "codebook_size": 64}
    config = configure("llamagen-b-c2i", {**SMALL, "tokenizer": tokenizer})
    return Converted(config, convert_llamagen(weights, config)), data


@pytest.fixture(scope="module")
def t2i():
    weights, data = golden("llamagen-t2i")
    width = data["text"].shape[-1]
    with pytest.MonkeyPatch.context() as patch:
        spec = scar.text.TextEncoderSpec(Pin("nowhere"), width)
        patch.setitem(scar.text.TEXT_ENCODERS, "tiny", spec)
        changes = {
            "backbone": {**TINY["backbone"], "prefix_attention": "causal"},
            "condition": {"text_encoder": "tiny", "text_slots": 6},
            "tokenizer": {"image_size": 64, "codebook_size": 64},
        }
        config = configure("llamagen-xl-t2i", changes)
        yield Converted(config, convert_llamagen(weights, config)), data


@pytest.fixture(scope="module")
def var_tokenizer():
    weights, data = golden("var-tokenizer")
    config = configure("var-d16", {**SMALL, "tokenizer": VAR_TOKENIZER})
    tokenizer = build_tokenizer(config.tokenizer).eval().requires_grad_(False)
    load_strictly(tokenizer, convert_var_tokenizer(weights, config))
    return tokenizer, data


@pytest.fixture(scope="module")
def var():
    weights, data = golden("var")
    config = configure("var-d16", {**SMALL, "tokenizer": VAR_TOKENIZER})
    return Converted(config, convert_var(weights, config)), data


@torch.no_grad()
def test_llamagen_class_logits(c2i):
    model, data = c2i
    null = data["labels"] == 10
    assert null.any() and not null.all()
    prefix = model.prefix(data["labels"].masked_fill(null, -1))
    close(model.logits(prefix, data["tokens"][:, :-1], 64), data["logits"])


LLAMAGEN_C2I = {
    "greedy": Sampling(3.0, temperature=0.0),
    "greedy_unguided": Sampling(1.0, temperature=0.0),
    "sampled": Sampling(2.0, temperature=1.1, top_k=50, top_p=0.9),
    "sampled_all": Sampling(4.0),
}


@pytest.mark.parametrize("name", LLAMAGEN_C2I)
def test_llamagen_class_tokens(c2i, name):
    model, data = c2i
    tokens = model.sample(LLAMAGEN_C2I[name], LastToken, 102, data["sample_labels"])
    assert torch.equal(tokens, data[name])


@torch.no_grad()
def test_llamagen_caption_logits_with_padding(t2i):
    model, data = t2i
    text, label = TextEmbedding(data["text"], data["valid"]), torch.full((3,), -1)
    assert data["valid"].sum(1).tolist() == [6, 3, 3]
    inputs = data["tokens"][:, :-1]
    close(model.logits(model.prefix(label, text), inputs, 16), data["logits"])
    # Slots that every caption of a batch leaves empty may be cut.
    short = TextEmbedding(data["text"][1:, 3:], data["valid"][1:, 3:])
    close(model.logits(model.prefix(label[1:], short), inputs[1:], 16), data["logits"][1:])


@torch.no_grad()
def test_full_prefix_attention_is_another_function_of_the_same_weights(t2i):
    model, data = t2i
    prefix = model.prefix(torch.full((3,), -1), TextEmbedding(data["text"], data["valid"]))
    causal = model.backbone.config
    model.backbone.config = replace(causal, prefix_attention="full")
    full = model.logits(prefix, data["tokens"][:, :-1], 16)
    model.backbone.config = causal
    assert (full - data["logits"]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("name", "sampling"), [("greedy", Sampling(3.0, 0.0)), ("sampled", Sampling(7.5, top_k=50))]
)
def test_llamagen_caption_tokens(t2i, name, sampling):
    model, data = t2i
    text = TextEmbedding(data["text"], data["valid"])
    tokens = model.sample(sampling, LastToken, 112, torch.full((3,), -1), text)
    assert torch.equal(tokens, data[name])


@torch.no_grad()
def test_vq16():
    weights, data = golden("vq16")
    tokenizer = {
        "image_size": 8,
        "codebook_size": 64,
        "autoencoder": {**AUTOENCODER, "latent": 16},
    }
    config = configure("llamagen-b-c2i", {"tokenizer": tokenizer})
    tokenizer = build_tokenizer(config.tokenizer).eval()
    load_strictly(tokenizer, convert_vq16(weights, config))
    assert torch.equal(tokenizer.encode(data["images"]), data["tokens"])
    close(tokenizer.decode(data["tokens"]), data["decoded"])


@torch.no_grad()
def test_var_tokenizer(var_tokenizer):
    tokenizer, data = var_tokenizer
    assert torch.equal(tokenizer.encode(data["images"]), data["tokens"])
    close(tokenizer.inputs(data["tokens"]), data["inputs"])
    close(tokenizer.decode(data["tokens"]), data["decoded"])


@torch.no_grad()
def test_var_logits(var):
    model, data = var
    prefix = model.prefix(data["labels"].masked_fill(data["labels"] == 10, -1))
    close(model.logits(prefix, data["inputs"], sum(s * s for s in SCALES)), data["logits"])


VAR = {
    "greedy": Sampling(2.5, temperature=0.0, guidance_ramp=True),
    "sampled": Sampling(2.5, top_k=50, top_p=0.96, guidance_ramp=True),
    "sampled_all": Sampling(5.0, guidance_ramp=True),
}


@pytest.mark.parametrize("name", VAR)
def test_var_tokens_and_images_under_the_guidance_ramp(var, var_tokenizer, name):
    model, data = var
    tokenizer = var_tokenizer[0]
    tokens = model.sample(VAR[name], tokenizer, 135, torch.tensor([1, 2]))
    assert torch.equal(tokens, data[name])
    with torch.no_grad():
        close((tokenizer.decode(tokens) + 1) / 2, data[f"{name}_image"])


def test_published_sampling_settings():
    """LlamaGen's sample_t2i.py; VAR's README: cfg 1.5, which is a scale of 1 + 1.5 here."""
    t2i, var = PRESETS["llamagen-xl-t2i"].sampling, PRESETS["var-d30"].sampling
    assert (t2i.guidance, t2i.top_k, t2i.top_p) == (7.5, 1000, 1.0)
    assert (var.guidance, var.top_k, var.top_p) == (2.5, 900, 0.96)
