"""Image <-> tokens, both families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scar.presets import configure
from scar.tokenizer import nearest
from scar.toyscenes.dataset import ToyScenes
from scar.weights.checkpoint import WeightsError, build_tokenizer, load_tokenizer, save_tokenizer
from train.data.batch import RawBatch
from train.objectives.reconstruction_loss import ReconstructionLoss, window
from train.objectives.tokenizer import TokenizerObjective
from train.objectives.tokenizer_start import start_from_patches, start_from_tokenizer
from train.recipe import change, load_recipe

PRESETS = ("toy-next-token", "toy-next-set")
RECIPES = Path(__file__).parents[1] / "train" / "recipes"


def tiny(preset: str, width: int = 32):
    torch.manual_seed(0)
    changes = {"tokenizer": {"codebook_size": 64, "autoencoder": autoencoder(width)}}
    config = configure(preset, changes).tokenizer
    return config, build_tokenizer(config).eval()


def autoencoder(width: int = 32) -> dict:
    return {"channels": [width, width], "latent": width // 2}


def images(config, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    small = torch.rand(count, 3, 8, 8, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(small, config.image_size)


@pytest.mark.parametrize("preset", PRESETS)
@torch.no_grad()
def test_shapes_and_ranges(preset):
    config, tokenizer = tiny(preset)
    tokens = tokenizer.encode(images(config))
    assert tokens.shape == (2, sum(config.set_sizes))
    assert tokens.min() >= 0 and tokens.max() < config.codebook_size
    decoded = tokenizer.decode(tokens)
    assert decoded.shape == (2, 3, config.image_size, config.image_size)
    assert decoded.abs().max() <= 1


@pytest.mark.parametrize("preset", PRESETS)
@torch.no_grad()
def test_next_inputs_put_together_are_the_inputs_of_training(preset):
    config, tokenizer = tiny(preset)
    tokens = tokenizer.encode(images(config))
    ends = torch.tensor(config.set_sizes).cumsum(0)[:-1].tolist()
    steps = torch.cat([tokenizer.next_input(tokens[:, :end]) for end in ends], dim=1)
    whole = tokenizer.inputs(tokens)
    assert whole.shape[1] == tokens.shape[1] - 1
    assert torch.allclose(steps.float(), whole.float(), atol=1e-6)


@torch.no_grad()
def test_raster_preview_shows_drawn_cells_on_the_backdrop():
    config, tokenizer = tiny("toy-next-token")
    tokens = tokenizer.encode(images(config))
    backdrop = torch.full((2, 3, config.image_size, config.image_size), 0.25)
    half = tokenizer.preview(tokens[:, : tokens.shape[1] // 2], backdrop)
    side = config.image_size // 2
    assert torch.equal(half[:, :, side:], backdrop[:, :, side:])
    assert not torch.allclose(half[:, :, :side], backdrop[:, :, :side])
    assert torch.equal(tokenizer.preview(tokens, backdrop), tokenizer.decode(tokens))


@torch.no_grad()
def test_scales_add_up_and_approach_the_latents():
    config, tokenizer = tiny("toy-next-set")
    f = tokenizer.quant_conv(tokenizer.encoder(images(config)))
    # A codebook made of the residuals themselves: every scale must then bring f_hat closer.
    tokenizer.codebook.weight.copy_(f.movedim(1, -1).flatten(0, 2)[:64])
    tokens, f_hat, _ = tokenizer.quantise(f)
    assert torch.allclose(tokenizer.sum_scales(tokens), f_hat, atol=1e-5)
    first = tokenizer.sum_scales(tokens[:, :1])
    assert (f - f_hat).norm() < (f - first).norm()


def test_gradients_pass_the_quantiser():
    for preset in PRESETS:
        config, tokenizer = tiny(preset)
        out = tokenizer.reconstruct(images(config), torch.zeros(2, dtype=torch.bool))
        out.images.square().mean().backward()
        assert tokenizer.encoder.conv_in.weight.grad.abs().sum() > 0
        if preset == "toy-next-set":
            assert all(conv.weight.grad is not None for conv in tokenizer.phi)


def test_examples_that_skip_the_quantiser_do_not_depend_on_the_codes():
    config, tokenizer = tiny("toy-next-token")
    every, none = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    before = [tokenizer.reconstruct(images(config), c).images for c in (every, none)]
    tokenizer.codebook.weight.data.normal_()
    after = [tokenizer.reconstruct(images(config), c).images for c in (every, none)]
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_nearest_is_by_distance():
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    points = torch.tensor([[[0.2, 0.1], [0.9, 0.2], [0.1, 1.6]]])
    assert nearest(points, codes).tolist() == [[0, 1, 2]]


@torch.no_grad()
def test_published_shape_of_vq16():
    config = configure("llamagen-l-c2i").tokenizer
    with torch.device("meta"):
        tokenizer = build_tokenizer(config)
    assert config.grid == 16 and config.autoencoder.downsampling == 16
    assert tokenizer.codebook.weight.shape == (16384, 8)


def test_a_tokenizer_starts_from_the_autoencoder_of_the_other_paradigm(tmp_path):
    _, multi = tiny("toy-next-set")
    save_tokenizer(multi, tmp_path / "multi")
    _, single = tiny("toy-next-token")
    fresh = start_from_tokenizer(single, tmp_path / "multi")
    assert {key.split(".")[0] for key in fresh} == {"quant_conv", "codebook", "post_quant_conv"}
    kept, given = single.encoder.state_dict(), multi.encoder.state_dict()
    assert all(torch.allclose(kept[key], given[key], rtol=1e-2) for key in given)


@pytest.mark.parametrize("preset", PRESETS)
@torch.no_grad()
def test_a_larger_decoder_starts_as_the_smaller_one_with_every_pixel_repeated(preset, tmp_path):
    config, small = tiny(preset)
    save_tokenizer(small, tmp_path)
    small = load_tokenizer(config, tmp_path)
    large = build_tokenizer(larger(preset)).eval()
    fresh = start_from_tokenizer(large, tmp_path)
    assert all(".attn." in key or key.startswith("decoder.mid.1.") for key in fresh)

    shown = images(large.config)
    tokens = large.encode(shown)
    assert shown.shape[-1] == 2 * config.image_size
    assert large.config.grid == config.grid and large.set_sizes == small.set_sizes
    assert torch.equal(tokens, small.encode(torch.nn.functional.avg_pool2d(shown, 2)))
    repeated = small.decode(tokens).repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.allclose(large.decode(tokens), repeated, atol=1e-5)


@torch.no_grad()
def test_attention_of_a_decoder_reaches_every_cell():
    """Beyond the convolutions: one changed code may change pixels at the other end."""
    decoded = []
    for attention in (False, True):
        torch.manual_seed(0)
        tokenizer = build_tokenizer(larger("toy-next-token", attention)).eval()
        for name, weight in tokenizer.decoder.named_parameters():
            if name.endswith("proj.weight"):
                weight.normal_()
        tokens = torch.zeros(1, 256, dtype=torch.long)
        before = tokenizer.decode(tokens)
        tokens[0, 0] = 1
        decoded.append((tokenizer.decode(tokens) - before)[0, :, -1, -1].abs().max())
    assert decoded[0] == 0 and decoded[1] > 0


def larger(preset: str, attention: bool = True):
    shape = autoencoder() | {"upscale": 2, "decoder_attention": attention}
    changes = {"image_size": 256, "codebook_size": 64, "autoencoder": shape}
    return configure(preset, {"tokenizer": changes}).tokenizer


def test_an_output_smaller_than_the_input_is_refused():
    with pytest.raises(ValueError, match="upscale must be 1 or more"):
        configure("toy-next-token", {"tokenizer": {"autoencoder": {"upscale": 0}}})


@torch.no_grad()
def test_a_larger_tokenizer_starts_as_a_patch_codec_too():
    """Flat pictures are what its few principal components surely hold."""
    for preset in PRESETS:
        tokenizer = build_tokenizer(larger(preset)).eval()
        colours = torch.rand(16, 3, 1, 1, generator=torch.Generator().manual_seed(2)) * 2 - 1
        flat = colours.expand(-1, -1, 256, 256)
        start_from_patches(tokenizer, flat)
        every = torch.ones(16, dtype=torch.bool)
        assert (tokenizer.reconstruct(flat, every).images - flat).abs().mean() < 0.1


def test_a_tokenizer_of_other_shapes_is_no_start(tmp_path):
    _, single = tiny("toy-next-token")
    save_tokenizer(single, tmp_path)
    _, wide = tiny("toy-next-token", width=64)
    with pytest.raises(WeightsError, match="few weights of the shapes"):
        start_from_tokenizer(wide, tmp_path)


def test_the_foreground_counts_more():
    """Of two recipes that see the same error, the weighted one minds it inside the mask more."""
    model = {"tokenizer": {"codebook_size": 64, "autoencoder": autoencoder()}}
    recipe = change(load_recipe(RECIPES / "toy/tokenizer.yaml"), model=model)
    source = ToyScenes("train", 128, 8).batch(range(2))
    mask = torch.zeros_like(source.mask)
    mask[:, 32:64, 32:64] = True
    raw = RawBatch(source.source, source.target, ["", ""], source.label, mask)

    def error(foreground: float, place: slice) -> float:
        torch.manual_seed(0)
        config = recipe.model
        objective = TokenizerObjective(change(recipe, foreground=foreground), config).eval()
        exact = objective.tokenizer.reconstruct

        def spoilt(images, continuous):
            off = images.clone()
            off[:, :, place, place] += 0.5
            return exact(images, continuous)._replace(images=off)

        objective.tokenizer.reconstruct = spoilt
        return float(objective(raw, 10**6)["pixel"])

    inside, outside = slice(32, 64), slice(64, 96)
    assert error(0.0, inside) == pytest.approx(error(0.0, outside))
    assert error(4.0, inside) == pytest.approx(5 * error(4.0, outside))


@pytest.mark.parametrize("recipe", ["toy/decoder", "toy/decoder_next_set"])
def test_a_decoder_learns_while_its_tokens_stay(recipe):
    model = {"tokenizer": {"codebook_size": 64, "autoencoder": autoencoder()}}
    recipe = change(load_recipe(RECIPES / f"{recipe}.yaml"), model=model, init="")
    raw = ToyScenes("train", 128, 8).batch(range(2))
    torch.manual_seed(0)
    objective = TokenizerObjective(recipe, recipe.model).train()
    tokenizer = objective.tokenizer
    shown = images(tokenizer.config)
    tokens, decoded = tokenizer.encode(shown), tokenizer.decode(tokenizer.encode(shown))

    learning = [p for p in objective.trainable().parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, 0.1)
    losses = objective(raw, 0)
    sum(losses.values()).backward()
    optimizer.step()
    assert {"pixel", "perceptual", "close_up", "adversarial", "critic"} <= losses.keys()
    assert torch.equal(tokenizer.encode(shown), tokens)
    assert not torch.equal(tokenizer.decode(tokens), decoded)


def test_a_close_up_sees_its_box_alone():
    loss_of = ReconstructionLoss(128, perceptual=0, close_up=1, adversarial=0)
    wanted = images(configure("toy-next-token").tokenizer)
    boxes = [(32.0, 32.0, 64.0, 64.0)] * 2

    def distance(place: slice) -> float:
        seen = wanted.clone()
        seen[:, :, place, place] *= 0.5
        return float(loss_of(seen, wanted, boxes)["close_up"])

    assert distance(slice(64, 128)) == 0
    assert distance(slice(32, 64)) > 0


def test_what_a_close_up_would_shrink_is_seen_through_a_window():
    torch.manual_seed(0)
    near = (10.0, 20.0, 150.0, 100.0)
    assert window(near) == near
    for _ in range(20):
        x0, y0, x1, y1 = window((0.0, 16.0, 256.0, 240.0))
        assert (x1 - x0, y1 - y0) == (128, 128)
        assert x0 >= 0 and y0 >= 16 and x1 <= 256 and y1 <= 240


def test_a_critic_and_what_it_loss_ofs_learn_apart():
    torch.manual_seed(0)
    loss_of = ReconstructionLoss(128, perceptual=0, close_up=0, adversarial=1)
    wanted = images(configure("toy-next-token").tokenizer)
    seen = wanted.flip(-1).requires_grad_()
    losses = loss_of(seen, wanted, [(0.0, 0.0, 128.0, 128.0)] * 2)
    heads = list(loss_of.discriminator.parameters())
    gradients = torch.autograd.grad(
        losses["adversarial"], [seen, *heads], retain_graph=True, allow_unused=True
    )
    assert gradients[0].abs().sum() > 0 and gradients[1:] == (None,) * len(heads)
    gradients = torch.autograd.grad(losses["critic"], [seen, *heads], allow_unused=True)
    assert gradients[0] is None and sum(g.abs().sum() for g in gradients[1:]) > 0

    optimizer = torch.optim.Adam(heads, 1e-2)
    for _ in range(10):
        told = loss_of(seen, wanted, [(0.0, 0.0, 128.0, 128.0)] * 2)["critic"]
        optimizer.zero_grad()
        told.backward()
        optimizer.step()
    assert told < losses["critic"]
