"""The evaluation of edits: hand-made pictures of which the right figures are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from scar import ScarPipeline
from scar.toyscenes.dataset import ToyScenes
from scar.toyscenes.edits import FAMILIES
from scar.toyscenes.sprites import sheet
from train.data.batch import to_signed
from train.evaluate import __main__ as evaluate
from train.evaluate.edit_metrics import (
    Bystanders,
    EditExamples,
    background_psnr,
    bystanders,
    changed_elsewhere,
    exact_outside,
    region_figures,
    successes,
)
from train.evaluate.edits import edit_table
from train.evaluate.metrics import Features, SpriteFinder

pytestmark = pytest.mark.slow

OBJECTS, COUNT = 16, 12


@pytest.fixture(scope="module")
def scenes() -> EditExamples:
    raw = ToyScenes("test", 128, OBJECTS).batch(range(COUNT))
    return EditExamples([raw], to_signed(raw.source), to_signed(raw.target), raw.mask)


@pytest.fixture(scope="module")
def others(scenes) -> Bystanders:
    return Bystanders(SpriteFinder(Features(), sheet()[:OBJECTS].float() / 255), scenes)


def square(images: Tensor, left: int, side: int, colour: float) -> Tensor:
    """A copy with a square of `side` pixels, `left` from the left and the top."""
    images = images.clone()
    images[..., left : left + side, left : left + side] = colour
    return images


@pytest.mark.parametrize("family", FAMILIES)
def test_objects_that_the_edit_does_not_name_are_bystanders(family):
    raw = ToyScenes("test", 64, OBJECTS, families=(family,)).batch(range(4))
    scenes = EditExamples([raw], to_signed(raw.source), to_signed(raw.target), raw.mask)
    rows = [row for row, _ in bystanders(scenes)]
    named = 0 if family in ("add", "place", "weather") else 1
    assert [rows.count(i) for i in range(4)] == [len(o) - named for o in raw.source_objects]


def test_a_perfect_edit_keeps_the_bystanders_and_an_erased_one_is_lost(scenes, others):
    assert len(others.placed) >= 5
    assert others.kept(scenes.target).all() and others.kept(scenes.source).all()
    erased = scenes.target.clone()
    row, gone = others.placed[0]
    x0, y0, x1, y1 = (round(v) for v in gone.box)
    erased[row, :, y0:y1, x0:x1] = 0
    kept = others.kept(erased)
    assert not kept[0]
    assert kept[others.row != row].all()


@pytest.mark.parametrize("size", (128, 256))
def test_what_counts_as_changed_elsewhere(size):
    scale = size // 128
    source = torch.zeros(1, 3, size, size)
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, 64 * scale : 96 * scale, 64 * scale : 96 * scale] = True

    def changed(left: int, side: int, colour: float) -> bool:
        output = square(source, left * scale, side * scale, colour)
        return changed_elsewhere(output, source, mask).item()

    assert changed(20, 16, 0.6)  # 0.3 of the range
    assert not changed(20, 16, 0.3)  # too faint
    assert not changed(20, 6, 1.0)  # too small
    assert not changed(64, 32, 1.0)  # the edit itself
    assert not changed(62, 36, 1.0)  # and its border
    assert changed(48, 64, 1.0)  # far beyond it
    checks = (torch.arange(size) // scale % 2 * 2.0 - 1).expand(1, 3, size, size)
    assert not changed_elsewhere(checks, source, mask).item()  # a texture of the same mean
    assert changed_elsewhere(source - 0.6, source, mask).item()
    assert not changed_elsewhere(source - 0.6, source, torch.ones_like(mask)).item()


def test_the_background_is_compared_at_128_pixels():
    source = torch.zeros(3, 3, 256, 256)
    output = source.clone()
    output[0] += 0.2  # a tenth of the range
    mask = torch.zeros(3, 256, 256, dtype=torch.bool)
    mask[1, :128], mask[2] = True, True
    output[1, :, :128] = 1.0
    assert background_psnr(output, source, mask)[0].item() == pytest.approx(20.0, abs=1e-3)
    assert background_psnr(output, source, mask)[1].item() == pytest.approx(100.0)
    assert math.isnan(background_psnr(output, source, mask)[2])
    checks = (torch.arange(256) % 2 - 0.5).expand(3, 3, 256, 256)  # gone when averaged
    assert background_psnr(source + checks, source, mask)[0] > 90


def test_a_region_in_cells():
    true = torch.zeros(2, 128, 128, dtype=torch.bool)
    true[0, 4:12, 4:12], true[1, 80:88, 80:88] = True, True  # four cells, and one
    region = torch.zeros_like(true)
    region[0, :16, :8], region[1, 80:96, 80:88] = True, True  # two of the four; it, and another
    figures = list(region_figures(region, true).values())
    assert figures == pytest.approx([100 * 3 / 5, 100 * 3 / 4, 50.0, 4 / 5])
    assert list(region_figures(true, true).values()) == [100.0, 100.0, 100.0, 1.0]


def test_pixels_outside_of_the_region_must_be_exact():
    source = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    region = torch.zeros(3, 32, 32, dtype=torch.bool)
    region[:, :16] = True
    output = square(source, 4, 8, 200)
    assert exact_outside(output, source, region) == 1.0
    output[1, 0, 20, 20] = 1
    assert exact_outside(output, source, region) == pytest.approx(2 / 3)
    region[2] = True  # nothing outside says nothing
    assert exact_outside(output, source, region) == 0.5
    assert math.isnan(exact_outside(output, source, torch.ones_like(region)))


def test_where_nothing_is_to_change_only_the_source_succeeds(scenes):
    idle = replace(scenes, target=scenes.source, mask=torch.zeros_like(scenes.mask))
    features = Features()
    assert successes(features, idle, scenes.source).all()
    assert successes(features, idle, scenes.source + 0.01).all()  # 46 dB
    assert not successes(features, idle, scenes.source + 0.1).any()  # 26 dB


class PerfectPipeline:
    """Knows the answers. Told to draw the whole picture it also paints all else darker; asked for
    anything else it gives the source back."""

    device, size = torch.device("cpu"), 128

    def __init__(self, scenes: EditExamples):
        raw = scenes.raw[0]
        self.config = SimpleNamespace(tokenizer=SimpleNamespace(codebook_size=256))
        self.frozen = SimpleNamespace(tokenizer=self)
        sources = [to_pil_image(image).tobytes() for image in raw.source]
        answers = zip(map(to_pil_image, raw.target), raw.mask, strict=True)
        keys = zip(sources, raw.instruction, strict=True)
        self.answers = dict(zip(keys, answers, strict=True))
        self.options = []

    def encode(self, images: Tensor) -> Tensor:
        return ((images + 1) * 127.5).round().long().flatten(1)

    def decode(self, tokens: Tensor) -> Tensor:
        return tokens.view(-1, 3, self.size, self.size) / 127.5 - 1

    def edit_batch(self, images, instructions, *, region, seed, **options) -> list:
        self.options.append(options)
        return [self.edit(*pair, region) for pair in zip(images, instructions, strict=True)]

    def edit(self, image: Image.Image, instruction: str, region: str | None) -> SimpleNamespace:
        mask = torch.ones(self.size, self.size, dtype=torch.bool)
        if (image.tobytes(), instruction) in self.answers:
            image, mask = self.answers[image.tobytes(), instruction]
        foreseen = to_pil_image(mask.to(torch.uint8) * 255)
        if region is None:
            darker = image.point(lambda v: v // 4)
            darker.paste(image, mask=foreseen)
            return SimpleNamespace(image=darker, region=None, tokens=256, drawn=256)
        return SimpleNamespace(image=image, region=foreseen, tokens=256, drawn=64)


def test_both_columns_from_pictures_to_json(scenes, tmp_path, monkeypatch, capsys):
    pipe = PerfectPipeline(scenes)
    monkeypatch.setattr(ScarPipeline, "from_pretrained", lambda *_, **__: pipe)
    out, grid = tmp_path / "new" / "figures.json", tmp_path / "new" / "grid.png"
    command = ["toy_edit", "--n", str(COUNT), "--objects", str(OBJECTS), "--region", "both"]
    command += ["--guidance", "2", "--out", str(out), "--grid", str(grid)]
    assert evaluate.main(command) == 0
    assert all(options == {"guidance": 2.0} for options in pipe.options)
    figures, printed = json.loads(out.read_text()), capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["auto", "none", "tokenizer", "target", "source"]
    assert printed[1].startswith("intact edits, %")
    first = figures["intact edits, %"]
    assert first["auto"] == first["tokenizer"] == first["target"] == 100 and first["source"] == 0
    local = figures["intact edits, local, %"]
    assert local["auto"] == 100 and local["none"] == 0
    assert figures["edit success, %"]["none"] == 100
    assert figures["nothing else changed, local edits, %"]["none"] == 0
    assert figures["kept objects, local edits, %"]["auto"] == 100
    assert figures["region: covers the whole change, % of edits"]["auto"] == 100
    assert figures["region: marked cells for each true one"]["auto"] == 1
    assert figures["region: marked cells for each true one"]["none"] > 2
    exact = figures["pixels outside the region are the source's, % of edits"]
    assert exact == {"auto": 100}  # a whole picture has no outside
    assert figures["tokens drawn, %"] == {"auto": 25, "none": 100}
    assert figures["seconds an edit"].keys() == {"auto", "none"}
    assert figures["success with another instruction, %"]["auto"] == 0
    assert figures["background PSNR lost with another source, dB"]["auto"] > 50
    assert Image.open(grid).size == (4 * 4 * 128, 3 * 128)
    assert len(grid.with_suffix(".txt").read_text().splitlines()) == COUNT


def test_a_few_examples_quickly(scenes, tmp_path, monkeypatch):
    pipe = PerfectPipeline(scenes)
    monkeypatch.setattr(ScarPipeline, "from_pretrained", lambda *_, **__: pipe)
    out, grid = tmp_path / "figures.json", tmp_path / "grid.png"
    command = ["toy_edit", "--n", "2", "--objects", str(OBJECTS), "--quick"]
    assert evaluate.main([*command, "--out", str(out), "--grid", str(grid)]) == 0
    figures = json.loads(out.read_text())
    assert figures["intact edits, %"]["auto"] == 100
    assert "success with another instruction, %" not in figures
    assert Image.open(grid).size == (2 * 3 * 128, 128)


def test_figures_print_with_gaps_where_there_are_none():
    figures = {"a, %": {"auto": 12.34, "none": 5.0}, "longer": {"none": 1.0}}
    assert edit_table(figures).splitlines() == [
        "             auto       none",
        "a, %         12.3        5.0",
        "longer          -        1.0",
    ]


@pytest.mark.parametrize(
    "wrong",
    (
        *(
            "--n 0",
            "--n many",
            "--objects 7",
            "--objects 9999",
            "--guidance -1",
            "--temperature 99",
        ),
        *("--region everywhere", "--out {folder}", "--out {file}/figures.json"),
        *("--grid {folder}/grid.jpg", "--grid {file}/grid.png"),
    ),
)
def test_wrong_arguments_are_refused_before_anything_is_loaded(
    wrong, tmp_path, monkeypatch, capsys
):
    def load(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr(ScarPipeline, "from_pretrained", load)
    file = tmp_path / "file"
    file.write_text("")
    command = wrong.format(folder=tmp_path, file=file).split()
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(["toy_edit", *command])
    assert stopped.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert command[0] in told or command[0][2:] in told
