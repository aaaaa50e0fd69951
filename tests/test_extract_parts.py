"""Extraction of a part: what is not stored is computed, and no needless network is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.datasets import CPU, own_jsonl
from helpers.recipes import RECIPES, tiny

from train.data.extracted import read_layout, shard_path
from train.data.sources import open_source
from train.dry_run import measure, memory_per_process, missing
from train.extract import extract
from train.objectives.build import build_objective
from train.objectives.frozen import build_frozen, completed, needless
from train.objectives.scar import ScarObjective, encode_batch
from train.recipe import change

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("start")


@pytest.fixture(scope="module")
def objective(root) -> ScarObjective:
    return build_objective(tiny(RECIPES / "edit/seed_unsplash.yaml", root))


@pytest.mark.parametrize("what", [("tokens", "text"), ("tokens",)], ids=",".join)
def test_a_part_is_extracted_and_the_rest_computed(what, objective, root, tmp_path):
    own_jsonl(tmp_path)
    made = tiny(RECIPES / "edit/seed_unsplash.yaml", root, folder=str(tmp_path))
    stored = change(made, extracted=str(tmp_path / "stored"))
    extract(made, tmp_path / "stored", passes=2, shard=3, dtype="fp32", what=what)
    assert read_layout(tmp_path / "stored").what == list(what)
    frozen = objective.frozen
    source, images = open_source(stored, "train", CPU), open_source(made, "train", CPU)
    assert len(source) == 8
    got, expected = (
        completed(frozen, source.batch(range(4))),
        encode_batch(frozen, images.batch(range(4)), 0.0),
    )
    assert torch.equal(got.tokens, expected.tokens) and torch.equal(got.label, expected.label)
    assert torch.allclose(got.source, expected.source, atol=1e-2)
    assert torch.allclose(got.text.tokens, expected.text.tokens, atol=1e-5)
    # In a later epoch images and codes are still those of one example and one crop.
    later = source.batch(range(8, 12))
    tokens = frozen.tokenizer.encode(later.raw.target.float() / 127.5 - 1)
    assert torch.equal(tokens, later.stored["tokens"])
    with (tmp_path / "pairs.jsonl").open("a") as file:
        file.write((tmp_path / "pairs.jsonl").read_text().splitlines()[0])
    with pytest.raises(ValueError, match="has changed since .* was extracted from it"):
        open_source(stored, "train", CPU)


def test_what_can_be_extracted(root, tmp_path):
    made = tiny(RECIPES / "edit/seed_unsplash.yaml", root)
    with pytest.raises(ValueError, match="tokens and perhaps others of features"):
        extract(made, tmp_path, what=["text"])
    with pytest.raises(ValueError, match="toy data are extracted whole"):
        extract(change(made, data="toy"), tmp_path, examples=1, what=["tokens"])


def test_networks_that_were_extracted_are_not_built_or_counted(objective, root, tmp_path):
    own_jsonl(tmp_path)
    made = tiny(RECIPES / "edit/seed_unsplash.yaml", root, folder=str(tmp_path))
    extract(made, tmp_path / "stored", shard=4)
    assert shard_path(tmp_path / "stored", 0).is_file()
    stored = change(made, extracted=str(tmp_path / "stored"))
    assert needless(stored) == {"encoder", "text"} and needless(made) == frozenset()
    assert needless(change(stored, grid_every=10)) == frozenset()  # grids are drawn with them
    config = objective.config
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    frozen = build_frozen(stored, config)
    assert torch.equal(torch.rand(1), drawn)  # fresh weights are those of a run on images
    assert frozen.encoder is None and frozen.text is None
    batch = open_source(stored, "train", CPU).batch(range(2))
    assert completed(frozen, batch) is batch
    assert set(measure(config, needless(stored)).frozen) == {"tokenizer"}
    (tmp_path / "pairs.jsonl").unlink()
    assert not [line for line in missing(stored, config) if "data" in line]


def test_an_average_that_is_not_kept_is_not_counted(objective, root):
    made = tiny(RECIPES / "edit/seed_unsplash.yaml", root)
    config = objective.config
    size = measure(config)
    kept, none = (
        memory_per_process(change(made, ema=ema), config, size, 1) for ema in (0.999, 0.0)
    )
    assert kept - none == 4 * sum(size.trained.values())
