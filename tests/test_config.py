"""Configs, presets and checkpoints on disk."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.tiny import TINY

import scar.config
from scar.config import SAMPLING_RANGES, Sampling, ScarConfig
from scar.errors import ConfigError
from scar.presets import PRESETS, configure
from scar.validation import from_dict, to_dict
from scar.weights.checkpoint import (
    WeightsError,
    build_model,
    build_tokenizer,
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
    with pytest.raises(ConfigError, match="unknown key 'backbone.layer'; did you mean 'layers'"):
        configure("toy-next-token", {"backbone": {"layer": 3}})
    with pytest.raises(ConfigError, match="toy-next-token"):
        configure("toy-next-tokens")


WRONG = [
    (
        {"backbone": {"layers": "six"}},
        "backbone.layers must be a whole number, 1 or more, not 'six'",
    ),
    ({"backbone": {"layers": True}}, "backbone.layers must be a whole number, 1 or more, not True"),
    ({"backbone": {"width": -64}}, "backbone.width must be 1 or more, not -64"),
    ({"backbone": 3}, "backbone must be a mapping, not 3"),
    ({"backbone": {"dropout": 1.5}}, "backbone.dropout must be between 0 and 1, not 1.5"),
    ({"compressor": {"factor": 3}}, "compressor.factor must be 1, 2 or 4, not 3"),
    (
        {"condition": {"learn_null_text": 1}},
        "condition.learn_null_text must be true or false, not 1",
    ),
    ({"losses": {"region": float("nan")}}, "losses.region must be a number, 0 or more, not nan"),
    (
        {"tokenizer": {"autoencoder": {"channels": [32, 3.5]}}},
        "tokenizer.autoencoder.channels.1 must be a whole number, 1 or more, not 3.5",
    ),
    (
        {"tokenizer": {"kind": "V"}},
        "tokenizer.kind must be VQConfig or MultiScaleVQConfig, not 'V'",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG)
def test_wrong_values_are_refused_in_one_sentence(changes, sentence):
    with pytest.raises(ConfigError) as caught:
        configure("toy-next-token", changes)
    assert str(caught.value) == sentence


def test_what_is_missing_is_named():
    data = to_dict(PRESETS["toy-next-set"])
    del data["backbone"]["width"]
    with pytest.raises(ConfigError, match=r"^backbone\.width is missing$"):
        from_dict(ScarConfig, data)


def test_a_config_cannot_be_changed():
    with pytest.raises(AttributeError):
        Sampling().guidance = 5.0


def test_the_constructor_and_replace_check_as_files_do():
    with pytest.raises(ConfigError, match="^guidance must be between 0 and 30, not 50$"):
        replace(Sampling(), guidance=50)
    with pytest.raises(ConfigError, match="^unknown key 'gidance'; did you mean 'guidance'"):
        Sampling(gidance=3.0)


@pytest.mark.parametrize("name", SAMPLING_RANGES)
def test_sampling_takes_what_its_table_allows_and_nothing_else(name):
    allowed = SAMPLING_RANGES[name]
    for value in (allowed.lowest, allowed.highest, *allowed.usual):
        assert getattr(Sampling(**{name: allowed.kind(value)}), name) == value
    for value in (allowed.lowest - 1, allowed.highest + 1):
        with pytest.raises(ConfigError, match=f"{name} must be between"):
            Sampling(**{name: allowed.kind(value)})


@pytest.mark.parametrize("paradigm", ["next-token", "next-set"])
def test_configs_from_before_the_ramp_was_one_of_sampling_still_load(paradigm):
    """The backbone had the guidance ramp."""
    config = PRESETS[f"toy-{paradigm}"]
    old = to_dict(config)
    old["backbone"]["guidance_ramp"] = old["sampling"].pop("guidance_ramp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_dict(ScarConfig, old) == config
        embedded = load_config(Path("assets/embedded") / paradigm)
    assert embedded.sampling.guidance_ramp is (paradigm == "next-set")


def test_importing_the_config_leaves_torch_out():
    code = "import sys, scar.config, scar.presets; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_field_is_read_somewhere():
    """`kind` tells the classes of a union apart when they are read from a file."""
    files = [*Path("scar").rglob("*.py"), *Path("train").rglob("*.py")]
    code = "".join(path.read_text() for path in files)
    for config in vars(scar.config).values():
        if dataclasses.is_dataclass(config):
            for field in dataclasses.fields(config):
                read = re.search(rf"\.{field.name}\b(?! = )", code)
                assert field.name == "kind" or read, (config, field.name)


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
