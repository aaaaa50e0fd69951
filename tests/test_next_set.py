"""The next-set paradigm: the mask, the cache, and that pictures grow from coarse to fine."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import TINY

from scar.attention import set_mask, set_of
from scar.config import Sampling
from scar.prefix import DropMask, Prefix, TextEmbedding
from scar.presets import configure
from scar.sampling import guidance_schedule
from scar.tokenizer import nearest
from scar.weights.checkpoint import build_model, build_tokenizer

SCALES = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]
SETS = [side * side for side in SCALES]
TEN_SCALES = {
    "backbone": TINY["backbone"],
    "encoder": {"name": "efficientnet-lite0", "image_size": 64},
    "condition": {"classes": 5, "text_encoder": "minilm-l6", "text_slots": 4},
    "tokenizer": {
        "scales": SCALES,
        "image_size": 32,
        "codebook_size": 64,
        "code_dim": 8,
        "autoencoder": {"channels": [32, 32], "blocks": 1, "latent": 8, "attention": False},
    },
}


@pytest.fixture(scope="module")
def parts():
    """(model, tokenizer) with every weight random, so that nothing is hidden by a zero."""
    torch.manual_seed(0)
    config = configure("var-d12", TEN_SCALES)
    model, tokenizer = build_model(config), build_tokenizer(config.tokenizer)
    for module in (model, tokenizer):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False), tokenizer.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(64, (2, sum(SETS)), generator=torch.Generator().manual_seed(1))


def prefix_of(model, seed=2, label=(-1, 3), words=(4, 2)) -> Prefix:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 4, 4, 112, generator=generator)
    valid = torch.stack([torch.arange(4) >= 4 - count for count in words])
    text = TextEmbedding(torch.randn(2, 4, 384, generator=generator) * valid[..., None], valid)
    none = torch.zeros(2, dtype=torch.bool)
    drop = DropMask(none, none)
    return model.conditioner(model.compressor(features), text, torch.tensor(label), drop)


def hidden_of(model, tokenizer, tokens, prefix):
    return model.backbone(prefix, tokenizer.inputs(tokens))


def test_the_mask_is_vars_block_mask_behind_a_prefix_in_set_0():
    prefix = 6
    mask = set_mask(torch.ones(1, prefix, dtype=torch.bool), tuple(SETS))[0, 0]
    levels = torch.cat([torch.full((size,), level) for level, size in enumerate(SETS)])
    # Position P - 1 is the start token, level 0 of VAR's 680 positions.
    assert torch.equal(mask[prefix - 1 :, prefix - 1 :], levels[:, None] >= levels[None, :])
    assert mask[:, :prefix].all() and not mask[:prefix, prefix:].any()
    sets = set_of(prefix, tuple(SETS), torch.device("cpu"))
    assert sets[: prefix - 1].eq(0).all() and torch.equal(sets[prefix - 1 :], levels)


def test_cached_decoding_over_ten_scales_equals_the_full_masked_forward(parts, tokens):
    model, tokenizer = parts
    backbone, prefix = model.backbone, prefix_of(model)
    cache = backbone.cache(prefix)
    steps, known = [backbone.prefill(prefix, cache)[:, -1:]], 0
    for index, size in enumerate(SETS[:-1]):
        known += size
        inputs = tokenizer.next_input(tokens[:, :known])
        assert inputs.shape == (2, SETS[index + 1], 8)
        steps.append(backbone.step(inputs, known, prefix, cache))
    full = hidden_of(model, tokenizer, tokens, prefix)[:, -sum(SETS) :]
    assert full.std() > 0.1
    assert torch.allclose(torch.cat(steps, dim=1), full, atol=1e-4)


def test_training_inputs_are_what_decoding_reads(parts, tokens):
    _, tokenizer = parts
    ends = torch.tensor(SETS).cumsum(0).tolist()[:-1]
    stepwise = torch.cat([tokenizer.next_input(tokens[:, :end]) for end in ends], dim=1)
    assert torch.equal(tokenizer.inputs(tokens), stepwise)


def test_inputs_are_the_sum_of_the_coarser_scales_at_the_size_of_the_next(parts, tokens):
    tokenizer = deepcopy(parts[1])
    for phi in tokenizer.phi:  # u_k is half of the upsampled codes
        torch.nn.init.zeros_(phi.weight)
        torch.nn.init.zeros_(phi.bias)
    total, expected = torch.zeros(2, 8, 16, 16), []
    for part, side, after in zip(tokens.split(SETS, dim=1), SCALES, SCALES[1:], strict=False):
        codes = tokenizer.codebook.weight[part].view(2, side, side, 8).permute(0, 3, 1, 2)
        total = total + F.interpolate(codes, 16, mode="bicubic") / 2
        expected.append(F.adaptive_avg_pool2d(total, after).flatten(2).mT)
    torch.testing.assert_close(tokenizer.inputs(tokens), torch.cat(expected, dim=1))


@pytest.mark.parametrize("scale", range(10))
def test_tokens_of_a_scale_change_no_prediction_up_to_it(parts, tokens, scale):
    model, tokenizer = parts
    prefix = prefix_of(model)
    begin, end = sum(SETS[:scale]), sum(SETS[: scale + 1])
    changed = tokens.clone()
    changed[:, begin:end] = (changed[:, begin:end] + 1) % 64
    before = hidden_of(model, tokenizer, tokens, prefix)
    after = hidden_of(model, tokenizer, changed, prefix)
    kept = before.shape[1] - sum(SETS) + end
    assert torch.equal(before[:, :kept], after[:, :kept])
    if scale < 9:
        assert not torch.allclose(before[:, kept:], after[:, kept:], atol=1e-3)


def test_prefix_and_text_see_each_other_both_ways_and_no_target(parts, tokens):
    model, tokenizer = parts
    prefix = prefix_of(model, words=(4, 4), label=(-1, -1))
    visual = len(model.backbone.visual_position)

    def changed(where):
        slots = prefix.slots.clone()
        slots[:, where] = slots[:, where].flip(-1)
        return hidden_of(model, tokenizer, tokens, prefix._replace(slots=slots))

    base = hidden_of(model, tokenizer, tokens, prefix)
    by_text, by_image = changed(slice(visual, None)), changed(slice(0, visual))
    for cell in range(visual):
        assert not torch.allclose(base[:, cell], by_text[:, cell], atol=1e-3)
    for slot in range(visual, visual + 5):  # four words and the start token
        assert not torch.allclose(base[:, slot], by_image[:, slot], atol=1e-3)
    other = hidden_of(model, tokenizer, tokens.flip(1), prefix)
    assert torch.equal(base[:, : visual + 5], other[:, : visual + 5])


def test_class_and_pooled_text_both_modulate_the_blocks(parts):
    model, _ = parts
    by_text = prefix_of(model, label=(-1, -1)).pooled
    by_class = prefix_of(model, label=(2, 2)).pooled
    assert torch.equal(by_class, model.conditioner.class_table.weight[2].expand(2, -1))
    assert not torch.allclose(by_text, by_class, atol=1e-2)
    assert not torch.allclose(by_text, prefix_of(model, seed=3, label=(-1, -1)).pooled, atol=1e-2)


def test_early_pictures_are_coarse_versions_of_the_final_one():
    """Latents of growing sharpness: each preview is nearer to the image, none is a detail of it."""
    torch.manual_seed(3)
    changes = {
        **TEN_SCALES,
        "tokenizer": {**TEN_SCALES["tokenizer"], "codebook_size": 4096, "code_dim": 3},
    }
    tokenizer = build_tokenizer(configure("var-d12", changes).tokenizer).eval()
    for phi in tokenizer.phi:  # the plain residual pyramid
        torch.nn.init.dirac_(phi.weight)
        torch.nn.init.zeros_(phi.bias)
    steps = torch.linspace(0, 1, 16)
    across = steps.expand(16, 16)
    picture = torch.stack([across, across.T, torch.eye(16)]).unsqueeze(0)
    with torch.no_grad():
        tokenizer.codebook.weight.copy_(2 * torch.rand(4096, 3) - 1)
        tokens = tokenizer.quantise(picture)[0]
        ends = torch.tensor(SETS).cumsum(0).tolist()
        canvases = [tokenizer.sum_scales(tokens[:, :end]) for end in ends]
    assert tokens.shape == (1, 680)
    errors = [(canvas - picture).square().mean().item() for canvas in canvases]
    assert all(later < earlier for earlier, later in zip(errors, errors[1:], strict=False))
    # Half way the gradients are there and the diagonal line is not.
    middle = canvases[4]
    assert (middle - picture)[:, :2].abs().mean() < 0.1
    coarse = F.interpolate(F.interpolate(picture, 5, mode="area"), 16, mode="bicubic")
    assert (middle - coarse).square().mean() < (middle - picture).square().mean()


def test_a_stream_has_one_preview_a_scale_and_each_covers_the_image(parts, tokens):
    _, tokenizer = parts
    backdrop = torch.full((2, 3, 32, 32), 5.0)
    ends = torch.tensor(SETS).cumsum(0).tolist()
    previews = [tokenizer.preview(tokens[:, :end], backdrop) for end in ends]
    assert all(p.shape == backdrop.shape and p.abs().max() <= 1 for p in previews)
    assert torch.equal(previews[-1], tokenizer.decode(tokens))


def test_guidance_grows_from_one_to_its_full_value():
    scales = guidance_schedule(Sampling(2.5, guidance_ramp=True), 10).tolist()
    assert scales == pytest.approx([1 + 1.5 * index / 9 for index in range(10)])


def test_codes_are_the_nearest_by_distance_not_by_angle():
    codes = torch.tensor([[10.0, 0.0], [1.0, 1.0]])
    assert nearest(torch.tensor([[[2.0, 0.0]]]), codes).item() == 1
