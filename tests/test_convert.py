"""Published files -> checkpoint folders: what is accepted, what is refused, what stays fresh."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from scar import ScarPipeline
from scar.__main__ import main
from scar.errors import ConfigError
from scar.frozen import FrozenEncoders
from scar.presets import PRESETS, configure
from scar.weights.checkpoint import (
    WeightsError,
    build_model,
    build_tokenizer,
    load_config,
    load_model,
    load_tokenizer,
)
from scar.weights.convert import (
    CONVERTERS,
    convert,
    convert_llamagen,
    convert_var,
    load_published,
    load_start,
)
from scar.weights.hub import checkpoint_folder, published_file

GOLDEN = Path(__file__).parent / "golden"
LAYOUTS = json.loads((GOLDEN / "layouts.json").read_text())
BACKBONE = {"layers": 2, "heads": 2, "width": 32}
AUTOENCODER = {"channels": [32, 32], "blocks": 1}
COMMON = {
    "backbone": BACKBONE,
    "condition": {"classes": 10},
    "encoder": {"name": "efficientnet-lite0", "image_size": 64},
}
LLAMAGEN = {
    **COMMON,
    "tokenizer": {
        "image_size": 8,
        "codebook_size": 64,
        "autoencoder": {**AUTOENCODER, "latent": 16},
    },
}
VAR = {
    **COMMON,
    "tokenizer": {
        "scales": [1, 2, 2, 3, 3, 4, 4, 5, 5, 6],
        "image_size": 12,
        "codebook_size": 64,
        "code_dim": 8,
        "autoencoder": {**AUTOENCODER, "latent": 8},
    },
}
PRESET = {"llamagen": "llamagen-b-c2i", "vq16": "llamagen-b-c2i"} | dict.fromkeys(
    ("var", "var-tokenizer"), "var-d16"
)
CHANGES = {"llamagen": LLAMAGEN, "vq16": LLAMAGEN, "var": VAR, "var-tokenizer": VAR}
FAMILIES = [("llamagen", "vq16"), ("var", "var-tokenizer")]


def published(kind):
    """A state dict in the published layout, at tiny widths."""
    name = "llamagen-c2i" if kind == "llamagen" else kind
    return {
        key.removeprefix("weights/"): value.float() if value.is_floating_point() else value
        for key, value in load_file(GOLDEN / f"{name}.safetensors").items()
        if key.startswith("weights/")
    }


def saved(folder, content, name="weights.pt"):
    path = folder / name
    torch.save(content, path)
    return path


def converted(folder, *kinds):
    for kind in kinds:
        file = saved(folder, published(kind), f"{kind}.pt")
        convert(kind, file, PRESET[kind], folder / "out", CHANGES[kind])
    return folder / "out"


# Files of the Hub

TOKENIZER = "FoundationVision/var/vae_ch160v4096z32.pth"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_file_of_the_hub_is_fetched_at_its_commit_and_hashed(tmp_path, monkeypatch, capsys):
    file = saved(tmp_path, published("vq16"), "vq_ds16_c2i.pt")
    digest, asked = hashlib.sha256(file.read_bytes()).hexdigest(), []

    def fetch(repository, name, revision):
        asked.append((repository, name, revision))
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    source = f"FoundationVision/LlamaGen/vq_ds16_c2i.pt@{COMMIT}"
    assert published_file(source, digest) == file
    assert asked == [("FoundationVision/LlamaGen", "vq_ds16_c2i.pt", COMMIT)]
    with pytest.raises(WeightsError, match=f"its SHA-256 is {digest}"):
        published_file(f"{TOKENIZER}@{COMMIT}")  # its hash is known, and this is another file
    with pytest.raises(WeightsError, match="--sha256 HEX"):
        published_file(source)
    words = ["convert", "--from", "vq16", source, "--to", str(tmp_path / "out")]
    assert main([*words, "--preset", "llamagen-b-c2i", "--sha256", "0" * 64]) == 1
    assert "is not the file asked for" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "source", ["weights.pt", TOKENIZER, f"{TOKENIZER}@main", f"var/{COMMIT}", f"/etc@{COMMIT}"]
)
def test_a_file_of_the_hub_without_its_commit_is_refused(source):
    with pytest.raises(WeightsError, match="owner/name/file@commit"):
        published_file(source)


def test_a_file_of_the_hub_without_a_network_gives_one_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="check the name and the connection"):
        published_file(f"{TOKENIZER}@{COMMIT}")


@pytest.mark.parametrize("find", [checkpoint_folder, published_file])
@pytest.mark.parametrize("source", ["~nosuchuser/x", "x" * 300, f"scar/{'x' * 300}", "a\0b/c"])
def test_what_can_be_no_path_gives_one_sentence(find, source, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as caught:
        find(source)
    assert "\n" not in str(caught.value)


# The published layouts at full size, on the meta device


@pytest.mark.parametrize("name", LAYOUTS["layouts"])
def test_every_published_layout_is_known_completely(name):
    layout = LAYOUTS["layouts"][name]
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in layout["shapes"].items()}
    got = CONVERTERS[layout["kind"]][1](state, PRESETS[layout["preset"]])
    assert sum(v.numel() for v in got.values()) > 0.99 * sum(
        v.numel() for k, v in state.items() if "attn_bias" not in k
    )


def test_every_published_preset_is_counted():
    assert set(LAYOUTS["parameters"]) == {name for name in PRESETS if not name.startswith("toy")}


@pytest.mark.parametrize("preset", LAYOUTS["parameters"])
def test_parameter_counts_are_the_published_ones(preset):
    with torch.device("meta"):
        model = build_model(PRESETS[preset])
    fresh = ("backbone.visual_position", "backbone.prefix_level")
    known = ("backbone.", "conditioner.class_table", "conditioner.text_in", "conditioner.text_out")
    count = sum(
        p.numel()
        for name, p in model.named_parameters()
        if name.startswith(known) and not name.startswith(fresh)
    )
    assert count == LAYOUTS["parameters"][preset]


@pytest.mark.parametrize("preset", LAYOUTS["tokenizer_parameters"])
def test_tokenizer_parameter_counts_are_the_published_ones(preset):
    with torch.device("meta"):
        tokenizer = build_tokenizer(PRESETS[preset].tokenizer)
    count = sum(p.numel() for p in tokenizer.parameters())
    assert count == LAYOUTS["tokenizer_parameters"][preset]


# Refusals by name


@pytest.mark.parametrize("kind", CONVERTERS)
def test_missing_and_left_over_keys_are_named(kind):
    config = configure(PRESET[kind], CHANGES[kind])
    function = CONVERTERS[kind][1]
    state = published(kind)
    lost = next(key for key in state if key.endswith(("norm.weight", "norm1.weight", "fc1.weight")))
    with pytest.raises(WeightsError, match=f"missing: {lost}"):
        function({key: value for key, value in state.items() if key != lost}, config)
    with pytest.raises(WeightsError, match=r"left over: layers\.7\.extra$"):
        function({**state, "layers.7.extra": torch.zeros(1)}, config)
    with pytest.raises(WeightsError, match=f"of another shape: {lost}"):
        function({**state, lost: torch.zeros(3)}, config)
    with pytest.raises(WeightsError, match=f"not floating point: {lost}"):
        function({**state, lost: state[lost].long()}, config)


def test_weights_of_another_model_are_refused():
    deeper = configure("llamagen-b-c2i", {**LLAMAGEN, "backbone": {**BACKBONE, "layers": 3}})
    with pytest.raises(WeightsError, match=r"missing: layers\.2\..* and \d+ more"):
        convert_llamagen(published("llamagen"), deeper)
    with pytest.raises(WeightsError, match="missing: .*left over: "):
        convert_var(published("llamagen"), configure("var-d16", VAR))


# Files


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "args": argparse.Namespace(lr=1e-4), "steps": 3},
        lambda state: {"module": state},
        lambda state: {"state_dict": state},
        lambda state: {"epoch": 1, "trainer": {"var_wo_ddp": state, "vae_local": {}}},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappers_come_off(wrap, zipped, tmp_path):
    state = {"a.weight": torch.randn(3)}
    path = tmp_path / "weights.pt"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(load_published(path)["a.weight"], state["a.weight"])


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_names_that_wrappers_put_into_keys_come_off(prefix, tmp_path):
    state = {f"{prefix}blocks.0.weight": torch.randn(3), f"{prefix}b._orig_mod.c": torch.randn(1)}
    loaded = load_published(saved(tmp_path, {"model": state}))
    assert list(loaded) == ["blocks.0.weight", "b.c"]
    assert torch.equal(loaded["blocks.0.weight"], state[f"{prefix}blocks.0.weight"])
    twice = {"a": torch.zeros(1), f"{prefix}a": torch.zeros(1)}
    with pytest.raises(WeightsError, match="holds weights twice"):
        load_published(saved(tmp_path, twice))


def test_each_half_comes_out_of_the_file_of_a_trainer(tmp_path):
    halves = {"var_wo_ddp": published("var"), "vae_local": published("var-tokenizer")}
    file = saved(tmp_path, {"epoch": 1, "trainer": halves | {"var_opt": {"state": {}}}})
    convert("var", file, "var-d16", tmp_path / "out", VAR)
    convert("var-tokenizer", file, "var-d16", tmp_path / "out", VAR)
    tokenizer = load_tokenizer(load_config(tmp_path / "out").tokenizer, tmp_path / "out")
    expected = published("var-tokenizer")["quantize.embedding.weight"]
    assert torch.equal(tokenizer.codebook.weight, expected)
    file = saved(tmp_path, {"trainer": {"var_wo_ddp": halves["var_wo_ddp"]}})
    with pytest.raises(WeightsError, match="without vae_local, the tokenizer"):
        convert("var-tokenizer", file, "var-d16", tmp_path / "other", VAR)


def test_of_two_sets_of_weights_one_has_to_be_named(tmp_path, capsys):
    ema, plain = ({"a": torch.tensor([value])} for value in (1.0, 2.0))
    assert load_published(saved(tmp_path, {"ema": ema, "args": None}))["a"] == 1
    for other in ("model", "module", "state_dict"):
        both = saved(tmp_path, {"ema": ema, other: plain})
        assert load_published(both, weights="ema")["a"] == 1
        assert load_published(both, weights="model")["a"] == 2
        with pytest.raises(WeightsError, match="say --weights ema, .* or --weights model"):
            load_published(both)
    alone = saved(tmp_path, {"model": plain})
    assert load_published(alone, weights="model")["a"] == 2
    with pytest.raises(WeightsError, match="no weights called ema; it holds model"):
        load_published(alone, weights="ema")
    with pytest.raises(WeightsError, match="it holds one set of weights, without a name"):
        load_published(saved(tmp_path, plain), weights="ema")
    # All the way from the command line.
    state = published("llamagen")
    both = saved(tmp_path, {"ema": {k: v + 1 for k, v in state.items()}, "model": state})
    words = ["convert", "--from", "llamagen", str(both), "--preset", "llamagen-b-c2i"]
    assert main([*words, "--to", str(tmp_path / "out")]) == 1
    assert "--weights ema" in capsys.readouterr().err
    convert("llamagen", both, "llamagen-b-c2i", tmp_path / "out", LLAMAGEN, weights="ema")
    model = load_model(load_config(tmp_path / "out"), tmp_path / "out")
    assert torch.equal(model.backbone.norm.weight, state["norm.weight"] + 1)


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_values_beside_weights_do_no_harm(zipped, tmp_path):
    beside = {
        "loss": np.float64(0.5),
        "step": np.int64(3),
        "done": np.bool_(True),
        "curve": np.arange(3.0),
        "args": argparse.Namespace(lr=np.float32(1e-4), out=Path("runs"), seen={1, 2}),
        "more": SimpleNamespace(betas=(0.9, 0.95), dtype=torch.bfloat16),
    }
    path = tmp_path / "weights.pt"
    content = {"model": {"a": torch.ones(2)}, **beside}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(load_published(path)["a"], torch.ones(2))


def test_a_refused_file_says_what_is_in_it_and_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match=r"fractions\.Fraction; .* save its state dict alone"):
        load_published(saved(tmp_path, {"model": {}, "ratio": Fraction(1, 3)}))
    with pytest.raises(WeightsError, match="among its keys are generator, discriminator; save"):
        load_published(saved(tmp_path, {"generator": {}, "discriminator": {}}))
    with pytest.raises(WeightsError, match="but a list"):
        load_published(saved(tmp_path, [1]))


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_hostile_file_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "ran"
    path = saved(tmp_path, {"a": torch.zeros(1), "b": Hostile(f"touch {trace}")})
    with pytest.raises(WeightsError, match="more than tensors"):
        load_published(path)
    assert not trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused_in_one_line(share, zipped, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.randn(1000)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError) as caught:
        load_published(path)
    assert "weights.pt" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [[torch.zeros(1)], {}, {"a": 1}, {"model": {"a": "b"}}, torch.zeros(1), {1: 2}]
)
def test_what_is_no_state_dict_is_refused(content, tmp_path):
    with pytest.raises(WeightsError, match="no state dict"):
        load_published(saved(tmp_path, content))


def test_other_files_are_refused(tmp_path):
    picture = tmp_path / "picture.pt"
    Image.new("RGB", (8, 8)).save(picture, format="PNG")
    for path in (tmp_path, tmp_path / "nothing.pt", picture):
        with pytest.raises(WeightsError):
            load_published(path)


# Folders


@pytest.mark.parametrize("kinds", FAMILIES)
@pytest.mark.parametrize("tokenizer_first", [False, True])
def test_a_converted_folder_loads_exactly(kinds, tokenizer_first, tmp_path, capsys):
    folder = converted(tmp_path, *(kinds[::-1] if tokenizer_first else kinds))
    config = load_config(folder)
    assert config == configure(PRESET[kinds[0]], CHANGES[kinds[0]])
    model, tokenizer = load_model(config, folder), load_tokenizer(config.tokenizer, folder)
    expected = CONVERTERS[kinds[0]][1](published(kinds[0]), config)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in expected.items())
    expected = CONVERTERS[kinds[1]][1](published(kinds[1]), config)
    assert all(torch.equal(tokenizer.state_dict()[key], value) for key, value in expected.items())
    progress = capsys.readouterr().err
    assert "writing model" in progress and "writing tokenizer" in progress


@pytest.mark.parametrize("kinds", FAMILIES)
def test_a_pipeline_runs_on_a_converted_folder(kinds, tmp_path):
    folder = converted(tmp_path, *kinds)
    config = load_config(folder)
    tokenizer = load_tokenizer(config.tokenizer, folder)
    frozen = FrozenEncoders(config, tokenizer, pretrained=False)
    pipe = ScarPipeline(config, load_model(config, folder), frozen)
    control = Image.new("RGB", (32, 32), "white")
    first, again = (pipe.generate(control, 3, seed=0).image for _ in range(2))
    assert first.size == control.size and first.tobytes() == again.tobytes()
    assert len(first.getcolors(32 * 32)) > 1


def test_a_folder_is_not_overwritten_or_mixed(tmp_path):
    folder = converted(tmp_path, "llamagen")
    with pytest.raises(WeightsError, match="already holds model weights"):
        converted(tmp_path, "llamagen")
    with pytest.raises(WeightsError, match="another tokenizer"):
        converted(tmp_path, "var-tokenizer")
    with pytest.raises(WeightsError, match="is a file"):
        convert("vq16", tmp_path / "vq16.pt", "llamagen-b-c2i", tmp_path / "llamagen.pt")
    assert load_config(folder) == configure("llamagen-b-c2i", LLAMAGEN)


def test_unknown_layouts_and_presets_name_the_known_ones(tmp_path):
    file = saved(tmp_path, published("vq16"))
    with pytest.raises(WeightsError, match="llamagen, vq16, var, var-tokenizer"):
        convert("vqgan", file, "llamagen-b-c2i", tmp_path / "out")
    with pytest.raises(ConfigError, match="llamagen-b-c2i"):
        convert("vq16", file, "llamagen", tmp_path / "out")


@pytest.mark.parametrize("moment", ["scar.weights.convert.save_weights", "shutil.move"])
def test_a_failure_leaves_nothing_half_written(moment, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    file = saved(tmp_path, published("vq16"), "vq16.pt")
    monkeypatch.setattr(moment, full)
    with pytest.raises(WeightsError, match="No space left"):
        convert("vq16", file, PRESET["vq16"], tmp_path / "out", LLAMAGEN)
    assert [path.name for path in tmp_path.iterdir()] == ["vq16.pt"]


def test_a_refused_file_leaves_no_folder(tmp_path):
    file = saved(tmp_path, {"a": torch.zeros(1)})
    with pytest.raises(WeightsError, match="left over: a"):
        convert("vq16", file, PRESET["vq16"], tmp_path / "out", LLAMAGEN)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


# The start of training


def start(folder, preset, changes):
    torch.manual_seed(1)
    model = build_model(configure(preset, changes), for_training=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    return model, before, load_start(model, folder)


@pytest.mark.parametrize("kind", ["llamagen", "var"])
def test_a_start_keeps_what_was_published_and_names_what_is_fresh(kind, tmp_path):
    folder = converted(tmp_path, kind)
    model, before, fresh = start(folder, PRESET[kind], CHANGES[kind])
    recorded = set(json.loads((folder / "start.json").read_text())["fresh"])
    upsampler = {key for key in before if key.startswith("upsampler.")}
    assert upsampler and set(fresh) == recorded | upsampler
    own = {"backbone.visual_position", "backbone.prefix_level"} if kind == "var" else set()
    assert {key for key in fresh if key.startswith("backbone.")} == own
    known = CONVERTERS[kind][1](published(kind), model.config)
    assert set(known) | set(fresh) == set(before)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] if key in fresh else known[key])


def test_a_start_may_change_the_compressor_and_add_text(tmp_path):
    changes = {
        **VAR,
        "compressor": {"kind": "conv", "factor": 4},
        "condition": {"classes": 10, "text_encoder": "minilm-l6", "text_slots": 4},
    }
    _, _, fresh = start(converted(tmp_path, "var"), "var-d16", changes)
    assert {"compressor.conv.weight", "conditioner.text_in.weight", "conditioner.pool.weight"} < {
        *fresh
    }
    assert "conditioner.class_table.weight" not in fresh


def test_a_start_refuses_another_backbone_and_a_condition_without_a_place(tmp_path):
    folder = converted(tmp_path, "llamagen")
    with pytest.raises(WeightsError, match=r"missing: backbone\.layers\.2\."):
        start(folder, "llamagen-b-c2i", {**LLAMAGEN, "backbone": {**BACKBONE, "layers": 3}})
    with pytest.raises(WeightsError, match=r"left over: backbone\.layers\.1\."):
        start(folder, "llamagen-b-c2i", {**LLAMAGEN, "backbone": {**BACKBONE, "layers": 1}})
    with pytest.raises(WeightsError, match=r"left over: conditioner\.class_table\.weight"):
        start(folder, "llamagen-b-c2i", {**LLAMAGEN, "condition": {"classes": 0}})


def test_a_start_leaves_a_condition_behind_where_that_is_asked_for(tmp_path):
    folder = converted(tmp_path, "llamagen")
    text = {"classes": 0, "text_encoder": "minilm-l6", "text_slots": 4}
    with pytest.raises(WeightsError, match=r"init_ignore: \[conditioner\.class_table\]$"):
        start(folder, "llamagen-b-c2i", {**LLAMAGEN, "condition": text})
    model = build_model(configure("llamagen-b-c2i", {**LLAMAGEN, "condition": text}))
    fresh = load_start(model, folder, ignore=["conditioner.class_table"])
    assert "conditioner.text_in.weight" in fresh and not hasattr(model.conditioner, "class_table")
    assert torch.equal(model.backbone.norm.weight, published("llamagen")["norm.weight"])
    changes = {**LLAMAGEN, "backbone": {**BACKBONE, "layers": 1}}
    shallow = build_model(configure("llamagen-b-c2i", changes))
    with pytest.raises(WeightsError, match=r"left over: backbone\.layers\.1\."):
        load_start(shallow, folder, ignore=["backbone.layers.1"])
