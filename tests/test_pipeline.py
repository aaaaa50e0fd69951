"""The pipeline and the command line, on a tiny random model in the real layout."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.tiny import PARADIGMS, picture
from PIL import Image

from scar import ScarPipeline
from scar.__main__ import main
from scar.images import InputError, open_image, open_map
from scar.inputs import CACHE_SIZE
from scar.sampling import SamplingError
from scar.weights.checkpoint import (
    WeightsError,
)


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_edit_keeps_the_size_and_repeats_with_a_seed(pipes, paradigm):
    pipe = pipes[paradigm]
    first = pipe.edit(picture(), "add a cat", seed=5)
    again = pipe.edit(picture(), "add a cat", seed=5)
    other = pipe.edit(picture(), "add a cat", seed=6)
    assert pipe.paradigm == paradigm
    assert first.image.size == (96, 64) and first.image.mode == "RGB"
    assert first.image.tobytes() == again.image.tobytes() != other.image.tobytes()
    assert first.seed == 5 and first.tokens == pipe.total_tokens
    assert {"encode", "prefill", "decode", "pixels"} <= first.timings.keys()


def test_a_batch_may_hold_more_than_the_caches(pipes):
    texts = [f"add {count} cats" for count in range(CACHE_SIZE + 2)]
    pictures = [picture(seed=seed) for seed in range(len(texts))]
    outputs = pipes["next-set"].edit_batch(pictures, texts, seed=0)
    assert len({out.image.tobytes() for out in outputs}) == len(texts)


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_stream_shows_the_picture_growing(pipes, paradigm):
    outputs = list(pipes[paradigm].stream_edit(picture(), "add a cat", seed=1, preview_every=1))
    assert [out.step for out in outputs] == list(range(1, outputs[0].total + 1))
    assert outputs[-1].step == outputs[-1].total
    assert len({out.image.tobytes() for out in outputs}) > 3
    few = list(pipes[paradigm].stream_edit(picture(), "add a cat", seed=1, preview_every=1000))
    assert len(few) == 2
    assert few[-1].image.tobytes() == outputs[-1].image.tobytes()


def test_a_seed_is_drawn_and_named(pipes):
    pipe = pipes["next-set"]
    out = pipe.edit(picture(), "add a cat")
    assert pipe.edit(picture(), "add a cat", seed=out.seed).image.tobytes() == out.image.tobytes()


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_outside_the_region_nothing_changes(pipes, paradigm):
    image = picture(128, 128)
    region = Image.new("L", image.size)
    region.paste(255, (40, 40, 90, 90))
    out = pipes[paradigm].edit(image, "add a cat", seed=0, region=region)
    before, after = np.asarray(image), np.asarray(out.image)
    outside = np.asarray(region) == 0
    assert np.array_equal(before[outside], after[outside])
    assert not np.array_equal(before[~outside], after[~outside])


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_generate_takes_a_sentence_or_a_class(pipes, paradigm):
    pipe = pipes[paradigm]
    assert pipe.classes == ["cat", "dog", "tree"]
    options = {"seed": 0, "guidance": 10.0, "temperature": 1.0}
    images = [pipe.generate(picture(), prompt, **options).image for prompt in ("a cat", 0, 1)]
    assert len({image.tobytes() for image in images}) == 3


def test_bad_requests_get_one_plain_sentence(pipes):
    pipe = pipes["next-set"]
    with pytest.raises(InputError, match="instruction is empty"):
        pipe.edit(picture(), "   ")
    with pytest.raises(InputError, match="prompt is empty"):
        pipe.generate(picture(), "")
    with pytest.raises(InputError, match="classes are 0 to 2"):
        pipe.generate(picture(), 3)
    with pytest.raises(InputError, match="class -5"):
        pipe.generate(picture(), -5)
    with pytest.raises(ValueError, match="top_p"):
        pipe.edit(picture(), "add a cat", top_p=0.0)


def test_values_that_are_not_finite_stop_the_run_and_not_the_pipeline(folder):
    pipe = ScarPipeline.from_pretrained(folder, paradigm="next-set", device="cpu")
    good = pipe.edit(picture(), "add a cat", seed=0)
    weight = pipe.model.backbone.head.weight
    kept = weight.clone()
    weight.fill_(float("nan"))
    with pytest.raises(SamplingError, match="not finite"):
        pipe.edit(picture(), "add a cat", seed=0)
    weight.copy_(kept)
    assert pipe.edit(picture(), "add a cat", seed=0).image.tobytes() == good.image.tobytes()


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_steps_to_be_compiled_draw_the_same_whatever_the_length_of_the_text(
    folder, pipes, paradigm, monkeypatch
):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # see test_compiled.py
    pipe = ScarPipeline.from_pretrained(folder, paradigm=paradigm, device="cpu", compile=True)
    made, make = [], pipe.model.backbone.cache
    pipe.model.backbone.cache = lambda prefix: made.append(prefix) or make(prefix)
    for text in ("add a cat", "add a black cat on the left of the tree"):
        compiled, eager = (p.edit(picture(), text, seed=0) for p in (pipe, pipes[paradigm]))
        assert compiled.image.tobytes() == eager.image.tobytes()
    assert len(made) == 1


def test_missing_models_are_named(tmp_path):
    with pytest.raises(WeightsError, match="no config.json"):
        ScarPipeline.from_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="neither a checkpoint folder nor a Hub id"):
        ScarPipeline.from_pretrained(tmp_path / "nowhere" / "at" / "all")


def test_a_hub_id_offline_gets_one_sentence(monkeypatch, tmp_path):
    code = (
        "from scar import ScarPipeline\n"
        "try:\n    ScarPipeline.from_pretrained('someone/scar')\n"
        "except ValueError as error:\n    print(error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1 and "could not be fetched" in lines[0], done.stderr


def test_a_hub_id_may_name_its_commit(monkeypatch, folder):
    asked = {}

    def fetch(name: str, revision: str | None, **_) -> str:
        asked[name] = revision
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    commit = "0123456789abcdef" * 2 + "01234567"
    pipe = ScarPipeline.from_pretrained(f"owner/pinned@{commit}", device="cpu")
    ScarPipeline.from_pretrained("owner/newest", device="cpu")
    assert pipe.paradigm == "next-token"
    assert asked == {"owner/pinned": commit, "owner/newest": None}


def test_importing_scar_is_quick_and_pulls_in_no_interface():
    code = "import scar, sys; print([m for m in ('torch', 'gradio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_command_line_edits_a_file(folder, tmp_path, capsys):
    picture().save(tmp_path / "in.png")
    out = tmp_path / "out.png"
    model = ["--model", str(folder), "--paradigm", "next-set", "--seed", "3", "-o", str(out)]
    assert main(["edit", str(tmp_path / "in.png"), "add a cat", *model]) == 0
    assert Image.open(out).size == (96, 64)
    assert "seed 3" in capsys.readouterr().out
    assert main(["generate", str(tmp_path / "in.png"), "2", *model]) == 0
    (tmp_path / "text.png").write_text("not an image")
    assert main(["edit", str(tmp_path / "text.png"), "add a cat", *model]) == 1
    assert "error:" in capsys.readouterr().err


def test_an_opened_file_is_read_as_the_command_line_reads_it(pipes, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "turned.jpg", quality=95, exif=exif)
    cut_out = picture().convert("RGBA")
    cut_out.putalpha(Image.linear_gradient("L").resize(cut_out.size))
    cut_out.save(tmp_path / "cut-out.png")
    for name in ("turned.jpg", "cut-out.png"):
        path = tmp_path / name
        out = pipes["next-set"].edit(Image.open(path), "add a cat", seed=0).image
        expected = pipes["next-set"].edit(open_image(path), "add a cat", seed=0).image
        assert out.size == open_image(path).size and out.tobytes() == expected.tobytes()
        drawn = pipes["next-set"].generate(Image.open(path), "a cat", seed=0).image
        assert (
            drawn.tobytes()
            == pipes["next-set"].generate(open_map(path), "a cat", seed=0).image.tobytes()
        )


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_a_mask_of_another_shape_frees_what_it_covers_once_stretched(pipes, paradigm):
    source, mask = picture(128, 64), Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 64, 32))
    out = pipes[paradigm].edit(source, "add a cat", seed=0, region=mask).image
    stretched = mask.resize(source.size)
    same = pipes[paradigm].edit(source, "add a cat", seed=0, region=stretched).image
    assert out.tobytes() == same.tobytes()
    small = mask.point(lambda v: v // 255)  # 0 and 1
    layer = Image.merge("RGBA", [Image.new("L", mask.size)] * 3 + [mask])
    for other in (small, layer, mask.convert("1")):
        same = pipes[paradigm].edit(source, "add a cat", seed=0, region=other).image
        assert out.tobytes() == same.tobytes()
    changed = (np.asarray(out) != np.asarray(source)).any(-1)
    assert changed[:32].any() and not changed[32:].any()


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_a_vanishing_temperature_is_none(pipes, paradigm):
    images = [
        pipes[paradigm].edit(picture(), "add a cat", seed=0, temperature=t).image.tobytes()
        for t in (0, 1e-40, 1e-7)
    ]
    assert images[0] == images[1] == images[2]


def test_the_command_line_saves_what_the_ending_says(folder, tmp_path, capsys):
    layer = Image.new("RGBA", (96, 64))
    layer.paste("black", (0, 0, 48, 64))
    layer.save(tmp_path / "layer.png")
    picture().save(tmp_path / "in.png")
    common = ["--model", str(folder), "--paradigm", "next-set", "--seed", "3"]
    common += ["--region", str(tmp_path / "layer.png")]
    edit = ["edit", str(tmp_path / "in.png"), "add a cat", *common, "-o"]
    assert main([*edit, str(tmp_path / "o.jpg")]) == 0
    assert Image.open(tmp_path / "o.jpg").format == "JPEG"
    assert main([*edit, str(tmp_path / "o.png")]) == 0
    saved = np.asarray(Image.open(tmp_path / "o.png"))
    assert (saved[:, 48:] == np.asarray(picture())[:, 48:]).all()
    assert "icc_profile" in Image.open(tmp_path / "o.png").info


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-o", "missing_folder/o.png"], "no folder"),
        (["-o", "o.xyz"], "cannot be saved"),
        (["-o", "o.png", "--seed", "-1"], "The seed must lie between 0 and 2147483647."),
        (["-o", "o.png", "--seed", str(2**31)], "The seed must lie between 0 and 2147483647."),
        (["-o", "o.png", "--device", "moon"], "no device 'moon'"),
    ],
)
def test_what_could_only_fail_later_is_refused_at_once(
    folder, tmp_path, capsys, monkeypatch, options, sentence
):
    monkeypatch.chdir(tmp_path)
    picture().save("in.png")
    monkeypatch.setattr(ScarPipeline, "_stream", None)  # no run may begin
    assert main(["edit", "in.png", "add a cat", "--model", str(folder), *options]) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_gpu_is_one_sentence(folder, tmp_path, capsys):
    picture().save(tmp_path / "in.png")
    arguments = ["edit", str(tmp_path / "in.png"), "add a cat", "-o", str(tmp_path / "o.png")]
    assert main([*arguments, "--model", str(folder), "--device", "cuda"]) == 1
    assert "no device 'cuda'" in capsys.readouterr().err
    assert main(["bench", "edit", "--device", "cuda"]) == 1
    assert "no device 'cuda'" in capsys.readouterr().err


def test_digits_beyond_any_class_are_words(pipes, folder, tmp_path, capsys):
    picture().save(tmp_path / "in.png")
    arguments = ["generate", str(tmp_path / "in.png"), "9" * 5000, "--model", str(folder)]
    assert main([*arguments, "-o", str(tmp_path / "o.png"), "--paradigm", "next-set"]) == 0
    arguments[2] = "9" * 30
    assert main([*arguments, "-o", str(tmp_path / "o.png"), "--paradigm", "next-set"]) == 1
    assert "does not know class" in capsys.readouterr().err


def test_a_config_with_a_byte_order_mark_loads(folder, tmp_path):
    shutil.copytree(folder / "next-set", tmp_path / "marked")
    file = tmp_path / "marked" / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert ScarPipeline.from_pretrained(tmp_path / "marked", device="cpu").paradigm == "next-set"
