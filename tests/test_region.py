"""The edit region: foreseen from the prefix, decoded in runs, and nothing changed outside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.tiny import PARADIGMS, PRESETS, batch_for, picture, save_tiny, tiny
from PIL import Image

from scar import ScarPipeline
from scar.__main__ import main
from scar.config import RegionConfig, Sampling
from scar.region import (
    change_matte,
    changed_cells,
    changed_features,
    region_loss,
    region_tokens,
    select_region,
)
from scar.sampling import EagerRunner

WITH_REGION = {"losses": {"region": 1.0}}


class OneByOne(EagerRunner):
    """Runs forced sets through the backbone one at a time."""

    def split_sets(self, count, set_sizes):
        return [1] * count


class Counted(EagerRunner):
    """Counts the passes over the backbone."""

    passes = 0

    def __init__(self):
        super().__init__()
        decode_set = self.decode_set

        def counted(*arguments):
            self.passes += 1
            return decode_set(*arguments)

        self.decode_set = counted


def draw(model, tokenizer, batch, forced, runner, sampling):
    *_, tokens = model.generate(
        batch.source,
        batch.text,
        batch.label,
        tokenizer,
        sampling,
        torch.Generator().manual_seed(0),
        forced,
        runner=runner,
    )
    return tokens


def test_cells_and_tokens_of_a_change():
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[0, 9, 17] = True
    cells = changed_cells(mask, 4)
    assert cells.nonzero().tolist() == [[0, 1, 2]]
    tokens = region_tokens(cells, (1, 2, 4, 8))
    assert tokens.shape == (1, 1 + 4 + 16 + 64)
    assert tokens[0, :5].tolist() == [True, False, True, False, False]
    assert tokens[0, 5:21].nonzero().flatten().tolist() == [6]
    finest = tokens[0, 21:].view(8, 8)
    assert finest[2:4, 4:6].all() and finest.sum() == 4


def test_features_that_turn_away_have_changed():
    source = torch.randn(1, 4, 4, 64)
    target = 3 * source.clone()  # another length is no change
    target[0, 2, 1] = torch.randn(64)
    assert changed_features(source, target, 0.5).nonzero().tolist() == [[0, 2, 1]]


def test_region_loss_is_the_cross_entropy_of_what_is_kept():
    logits = torch.tensor([[[0.0, 2.0]], [[9.0, 9.0]]])
    changed = torch.tensor([[[False, True]], [[False, False]]])
    loss = region_loss(logits, changed, torch.tensor([True, False]))
    expected = (np.log(2) + np.log(1 + np.exp(-2.0))) / 2
    assert abs(float(loss) - expected) < 1e-6


def test_a_region_of_nearly_everything_is_everything():
    config = RegionConfig(threshold=0.5, whole=0.6)
    probability = torch.zeros(4, 4)
    assert not select_region(probability, config).any()
    probability[:2] = 0.9
    assert select_region(probability, config).sum() == 8
    probability[:3] = 0.9
    assert select_region(probability, config) is None


def test_the_matte_is_where_decoded_pictures_differ():
    source = torch.rand(1, 3, 64, 64) * 2 - 1
    output = source.clone()
    assert not change_matte(output, source).any()
    output[:, :, 24:40, 24:40] = -output[:, :, 24:40, 24:40].sign()
    matte = change_matte(output, source)[0]
    assert matte[28:36, 28:36].min() == 1 and not matte[:8].any() and not matte[:, 56:].any()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(3.0, temperature=0.7, top_k=20)])
@pytest.mark.parametrize("words", [(3, 5), (4, 4)])  # with padding, and without
def test_known_tokens_read_in_runs_draw_what_one_by_one_draws(preset, sampling, words):
    config, tokenizer, model = tiny(preset)
    batch = batch_for(config, tokenizer, words=words)
    grid = config.tokenizer.grid
    cells = torch.zeros(2, grid, grid, dtype=torch.bool)
    cells[0, 1:3, 1:3] = cells[1, 0:2, 2:4] = True
    forced = (batch.tokens, ~region_tokens(cells, config.tokenizer.sides))
    counted = Counted()
    in_runs = draw(model, tokenizer, batch, forced, counted, sampling)
    assert torch.equal(in_runs, draw(model, tokenizer, batch, forced, OneByOne(), sampling))
    assert torch.equal(in_runs[forced[1]], batch.tokens[forced[1]])
    assert not torch.equal(in_runs, batch.tokens)
    if preset == "toy-next-token":  # one pass for each token that some row draws
        assert counted.passes == int((~forced[1]).any(0).sum())


@pytest.mark.parametrize("preset", PRESETS)
def test_the_prefix_alone_gives_the_same_losses(preset):
    config, tokenizer, model = tiny(preset, **WITH_REGION)
    batch = batch_for(config, tokenizer, size=4)
    parts = {name: getattr(batch, name)[:1] for name in ("tokens", "inputs", "weights")}
    whole, partly = model(batch), model(batch._replace(**parts))
    for name in ("preservation", "alignment", "region"):
        assert torch.allclose(getattr(whole, name), getattr(partly, name), rtol=1e-4), name
    partly.region.backward()
    for part in ("region.conv1", "backbone", "conditioner.text_in", "compressor"):
        gradients = [p.grad for n, p in model.named_parameters() if n.startswith(part)]
        assert any(g is not None and g.any() for g in gradients), part


@pytest.mark.parametrize("preset", PRESETS)
def test_without_its_weight_there_is_no_head(preset):
    config, tokenizer, model = tiny(preset)
    assert not any(name.startswith("region") for name, _ in model.named_parameters())
    assert model(batch_for(config, tokenizer)).region == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both paradigms, whose head says that the top left cell of every slot changes."""
    root = tmp_path_factory.mktemp("region")

    def top_left(model):
        torch.nn.init.zeros_(model.region.conv2.weight)
        model.region.conv2.bias.data = torch.tensor([9.0, -9.0, -9.0, -9.0])

    for paradigm in PARADIGMS:
        save_tiny(root / paradigm, paradigm, top_left, **WITH_REGION)
    return root


@pytest.fixture(scope="module", params=PARADIGMS)
def pipe(folder, request):
    return ScarPipeline.from_pretrained(folder, paradigm=request.param, device="cpu")


def says(pipe, *logits):
    """The pipeline, whose head has these logits for the four cells of every slot."""
    pipe.model.region.conv2.bias.copy_(torch.tensor(logits))
    return pipe


def outside(image, region):
    return np.asarray(image)[np.asarray(region) == 0]


def test_outside_the_region_the_picture_is_the_source(pipe):
    source = picture(150, 100)
    first, *_, last = says(pipe, 9.0, -9.0, -9.0, -9.0).stream_edit(source, "add a cat", seed=1)
    assert first.step == first.tokens == 0 and first.image.tobytes() == source.tobytes()
    assert first.region.tobytes() == last.region.tobytes()
    assert last.region.size == (150, 100)
    marked = np.asarray(last.region)
    assert set(np.unique(marked)) == {0, 255} and 0.2 < (marked == 255).mean() < 0.3
    assert np.array_equal(outside(last.image, marked), outside(source, marked))
    assert last.image.tobytes() != source.tobytes()
    assert 0 < last.drawn < last.tokens == pipe.total_tokens
    assert last.image.tobytes() == pipe.edit(source, "add a cat", seed=1).image.tobytes()


def test_everything_and_nothing(pipe):
    source = picture()
    nothing = says(pipe, -9.0, -9.0, -9.0, -9.0).edit(source, "leave it", seed=0)
    assert nothing.drawn == 0 and nothing.image.tobytes() == source.tobytes()
    everything = says(pipe, 9.0, 9.0, 9.0, 9.0).edit(source, "make it night", seed=0)
    unbound = pipe.edit(source, "make it night", seed=0, region=None)
    assert everything.region is None and everything.drawn == everything.tokens
    assert everything.image.tobytes() == unbound.image.tobytes()


def test_a_painted_region_counts_instead(pipe):
    source = picture(128, 96)
    painted = Image.new("L", source.size)
    painted.paste(255, (8, 8, 40, 40))
    out = says(pipe, 9.0, 9.0, 9.0, 9.0).edit(source, "add a cat", seed=0, region=painted)
    assert out.region.tobytes() == painted.tobytes()
    assert np.array_equal(outside(out.image, painted), outside(source, painted))
    with pytest.raises(ValueError, match="region must be"):
        pipe.edit(source, "add a cat", region="everywhere")


def test_a_batch_keeps_each_picture_outside_of_its_region(pipe):
    says(pipe, 9.0, -9.0, -9.0, -9.0)
    sources = [picture(150, 100), picture(64, 64, seed=1), picture(80, 120, seed=2)]
    words = ["add a cat", "remove the small brown dog on the left", "make it red"]
    outputs = pipe.edit_batch(sources, words, seed=3)
    for source, out in zip(sources, outputs, strict=True):
        assert out.image.size == source.size
        assert np.array_equal(outside(out.image, out.region), outside(source, out.region))
    again = pipe.edit_batch(sources, words, seed=3)
    assert [o.image.tobytes() for o in outputs] == [o.image.tobytes() for o in again]


def test_the_command_line_takes_auto_none_or_a_file(folder, tmp_path, capsys):
    source = picture(128, 96)
    source.save(tmp_path / "in.png")
    mask = Image.new("L", source.size)
    mask.paste(255, (64, 0, 128, 96))
    mask.save(tmp_path / "mask.png")
    out = tmp_path / "out.png"
    tail = ["--model", str(folder), "--seed", "3", "-o", str(out)]
    results = {}
    for region in ("auto", "none", str(tmp_path / "mask.png")):
        command = ["edit", str(tmp_path / "in.png"), "add a cat", "--region", region, *tail]
        assert main(command) == 0
        results[region] = np.asarray(Image.open(out))
    whole = np.asarray(source)
    assert (results["auto"] == whole).mean() > 0.7 > (results["none"] == whole).mean()
    assert np.array_equal(results[str(tmp_path / "mask.png")][:, :64], whole[:, :64])
    shown = capsys.readouterr().out
    assert "64 of 256 tokens" in shown and "256 of 256 tokens" in shown
