"""Configs, presets and checkpoints on disk."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.tiny import TINY

from scar.config import PRESETS, ScarConfig, from_dict, to_dict
from scar.weights.checkpoint import (
    WeightsError,
    build_model,
    build_tokenizer,
    configure,
    load_config,
    load_model,
    load_tokenizer,
    load_weights,
    save_model,
    save_tokenizer,
    save_weights,
)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    config = PRESETS[name]
    assert from_dict(ScarConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_unknown_keys_name_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'layers'"):
        configure("toy-next-token", {"backbone": {"layer": 3}})
    with pytest.raises(WeightsError, match="toy-next-token"):
        configure("toy-next-tokens")


def test_a_checkpoint_folder_round_trips(tmp_path):
    config = configure("toy-next-token", TINY)
    model, tokenizer = build_model(config), build_tokenizer(config.tokenizer)
    save_model(model, config, tmp_path)
    save_tokenizer(tokenizer, tmp_path)
    assert load_config(tmp_path) == config
    for before, after in (
        (model, load_model(config, tmp_path)),
        (tokenizer, load_tokenizer(config.tokenizer, tmp_path)),
    ):
        assert not any(p.requires_grad for p in after.parameters())
        for key, value in after.state_dict().items():
            assert torch.allclose(value, before.state_dict()[key], rtol=1e-2, atol=1e-6)


def test_large_weights_are_sharded_and_a_lost_shard_is_noticed(tmp_path):
    state = {f"w{i}": torch.randn(1024, 2048) for i in range(5)}
    save_weights(state, tmp_path, "model")
    files = sorted(tmp_path.iterdir())
    assert len(files) > 1 and all(f.stat().st_size < 10_000_000 for f in files)
    assert load_weights(tmp_path, "model").keys() == state.keys()
    files[-1].unlink()
    with pytest.raises(WeightsError, match="missing"):
        load_weights(tmp_path, "model")


def test_damaged_missing_and_foreign_weights_get_one_sentence(tmp_path):
    config = configure("toy-next-token", TINY)
    with pytest.raises(WeightsError, match="no config.json"):
        load_config(tmp_path)
    with pytest.raises(WeightsError, match="no model weights"):
        load_model(config, tmp_path)
    save_model(build_model(config), config, tmp_path)
    deeper = {**TINY["backbone"], "layers": 3}
    other = configure("toy-next-token", {**TINY, "backbone": deeper})
    with pytest.raises(WeightsError, match="missing: backbone.layers.2"):
        load_model(other, tmp_path)
    file = next(tmp_path.glob("model*.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(WeightsError, match="damaged"):
        load_model(config, tmp_path)
    (tmp_path / "config.json").write_text('{"backbone": 3}')
    with pytest.raises(WeightsError, match="not a SCAR config"):
        load_config(tmp_path)
