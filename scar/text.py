"""Frozen text encoders: strings -> left-padded token embeddings.

To add one: a row in `TEXT_ENCODERS` and its pin in `scar.weights.pins.TEXT_ENCODER_PINS`.

Letters: B batch, T text tokens, W width of the text encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from scar.errors import ConfigError
from scar.prefix import TextEmbedding
from scar.weights.pins import TEXT_ENCODER_PINS, Pin, packaged_file


@dataclass(frozen=True)
class TextEncoderSpec:
    """One row of the table of text encoders."""

    pin: Pin
    width: int  # W
    is_t5: bool = False  # an encoder-decoder, of which only the encoder is built


TEXT_ENCODERS = {
    "minilm-l6": TextEncoderSpec(TEXT_ENCODER_PINS["minilm-l6"], 384),
    "flan-t5-small": TextEncoderSpec(TEXT_ENCODER_PINS["flan-t5-small"], 512, is_t5=True),
    "flan-t5-xl": TextEncoderSpec(TEXT_ENCODER_PINS["flan-t5-xl"], 2048, is_t5=True),
}


def text_width(name: str) -> int:
    """W of a text encoder; 0 for "none"."""
    if name == "none":
        return 0
    if name not in TEXT_ENCODERS:
        raise ConfigError(f"unknown text encoder {name!r}; known: none, {', '.join(TEXT_ENCODERS)}")
    return TEXT_ENCODERS[name].width


class TextEncoder(nn.Module):
    """B strings -> `TextEmbedding` (B, T, W), where T is the length of the longest string, at most
    `slots`.

    Args:
        name: a key of `TEXT_ENCODERS`.
        pretrained: load the published weights; False leaves them random (tests).

    Raises:
        ConfigError: unknown name. WeightsError: the package with the weights is missing. OSError:
        the Hub cannot be reached.
    """

    def __init__(self, name: str, slots: int, pretrained: bool = True):
        super().__init__()
        from transformers import AutoConfig, AutoModel, AutoTokenizer, T5EncoderModel

        self.width, self.slots = text_width(name), slots
        spec = TEXT_ENCODERS[name]
        source, options = _source(spec.pin)
        self.tokenizer = AutoTokenizer.from_pretrained(source, **options)
        if pretrained:
            architecture: Any = T5EncoderModel if spec.is_t5 else AutoModel
            self.model = architecture.from_pretrained(source, use_safetensors=True, **options)
        else:
            build: Any = T5EncoderModel if spec.is_t5 else AutoModel.from_config
            self.model = build(AutoConfig.from_pretrained(source, **options))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> TextEncoder:
        return super().train(False)

    @torch.no_grad()
    def forward(self, strings: list[str]) -> TextEmbedding:
        device = next(self.model.parameters()).device
        batch = self.tokenizer(
            strings, padding=True, truncation=True, max_length=self.slots, return_tensors="pt"
        ).to(device)
        states = self.model(**batch).last_hidden_state.float()  # (B, T, W)
        return left_padded(TextEmbedding(states, batch["attention_mask"].bool()))


def left_padded(text: TextEmbedding) -> TextEmbedding:
    """Move the valid tokens of each text to its end and zero the rest."""
    order = text.valid.to(torch.int8).argsort(dim=1, stable=True)  # (B, T), padding first
    valid = text.valid.gather(1, order)  # (B, T)
    tokens = text.tokens.gather(1, order.unsqueeze(-1).expand_as(text.tokens))
    return TextEmbedding(tokens * valid.unsqueeze(-1), valid)


def _source(pin: Pin) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` of transformers takes: a Hub id or a folder, and options."""
    if not pin.package:
        return pin.repo, {"revision": pin.revision}
    return str(packaged_file(pin).parent), {"local_files_only": True}
