"""Fixtures that several files share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.tiny import PARADIGMS, TINY, save_tiny

from scar.presets import configure
from scar.weights.checkpoint import build_tokenizer, save_tokenizer


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A folder with the tiny model in both paradigms, like the embedded one."""
    root = tmp_path_factory.mktemp("model")
    for paradigm in PARADIGMS:
        save_tiny(root / paradigm, paradigm)
    return root


@pytest.fixture(scope="session")
def pipes(folder) -> dict:
    """A pipeline of the tiny model for each paradigm."""
    from scar import ScarPipeline

    return {p: ScarPipeline.from_pretrained(folder, paradigm=p, device="cpu") for p in PARADIGMS}


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    torch.manual_seed(0)
    config = configure("toy-next-token", {"tokenizer": TINY["tokenizer"]})
    save_tokenizer(build_tokenizer(config.tokenizer), folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Miniature data of every layout that a recipe of the paper reads; runs are kept beside it."""
    from helpers.datasets import write_imagenet, write_jsonl, write_multigen

    folder = tmp_path_factory.mktemp("data")
    write_imagenet(folder)
    write_multigen(folder / "multigen")
    (folder / "edits").mkdir()
    write_jsonl(folder / "edits")
    return folder
