"""The method: masks, causality, cache, losses, gradients."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny import PRESETS, batch_for, logits_of, prefix_of, tiny

from scar.alignment import alignment_loss
from scar.attention import set_mask
from scar.compressor import Compressor
from scar.config import CompressorConfig, Sampling
from scar.cross_entropy import token_loss
from scar.encoder import feature_shape
from scar.next_token import RMSNorm
from scar.prefix import DropMask, TextEmbedding
from scar.weights.checkpoint import load_model, load_weights, save_model


def test_mask_of_sets_of_size_one_is_a_triangle_below_a_full_prefix():
    mask = set_mask(torch.ones(1, 3, dtype=torch.bool), (1, 1, 1))[0, 0]
    expected = [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]
    assert mask.int().tolist() == expected


def test_mask_of_growing_sets_is_a_staircase_and_hides_padding():
    valid = torch.tensor([[True, False, True]])
    mask = set_mask(valid, (1, 2, 3))[0, 0]
    assert mask[:3, 3:].sum() == 0
    assert mask[3, [0, 2, 3, 4]].all() and not mask[3, 5:].any()
    assert mask[5:, [0, 2, 3, 4, 5, 6, 7]].all()
    assert mask[:, 1].nonzero().flatten().tolist() == [1]


@pytest.mark.parametrize("preset", PRESETS)
def test_no_prediction_depends_on_its_own_set_or_later_ones(preset):
    config, tokenizer, model = tiny(preset)
    batch = batch_for(config, tokenizer)
    before = logits_of(model, batch)
    sizes = config.tokenizer.set_sizes
    for index in (0, 1, len(sizes) // 2, len(sizes) - 2):
        begin = sum(sizes[:index])
        tokens = batch.tokens.clone()
        tokens[:, begin] = (tokens[:, begin] + 1) % config.tokenizer.codebook_size
        after = logits_of(model, batch._replace(inputs=tokenizer.inputs(tokens)))
        end = begin + sizes[index]
        assert torch.allclose(before[:, :end], after[:, :end], atol=1e-5)
        assert not torch.allclose(before[:, end:], after[:, end:], atol=1e-3)


@pytest.mark.parametrize("preset", PRESETS)
def test_prefix_and_text_see_each_other_and_no_target(preset):
    config, tokenizer, model = tiny(preset)
    batch = batch_for(config, tokenizer, words=(4,))
    visual = (feature_shape(config.encoder)[0] // config.compressor.factor) ** 2

    def hidden(b):
        return model.backbone(prefix_of(model, b), b.inputs)

    base = hidden(batch)
    other_text = hidden(batch._replace(text=batch.text._replace(tokens=-batch.text.tokens)))
    other_image = hidden(batch._replace(source=batch.source.flip(1)))
    other_target = hidden(batch._replace(inputs=tokenizer.inputs(batch.tokens.flip(1))))
    prefix = visual + batch.text.valid.shape[1]
    assert not torch.allclose(base[:, :visual], other_text[:, :visual], atol=1e-4)
    assert not torch.allclose(base[:, visual:prefix], other_image[:, visual:prefix], atol=1e-4)
    assert torch.allclose(base[:, :prefix], other_target[:, :prefix], atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_padding_changes_nothing(preset):
    config, tokenizer, model = tiny(preset)
    batch = batch_for(config, tokenizer, words=(3,))
    pad = torch.nn.functional.pad
    longer = TextEmbedding(pad(batch.text.tokens, (0, 0, 4, 0)), pad(batch.text.valid, (4, 0)))
    assert torch.allclose(
        logits_of(model, batch), logits_of(model, batch._replace(text=longer)), atol=1e-5
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_cached_decoding_equals_the_full_forward(preset):
    config, tokenizer, model = tiny(preset)
    batch = batch_for(config, tokenizer)
    prefix, backbone = prefix_of(model, batch), model.backbone
    cache = backbone.cache(prefix)
    steps, known = [backbone.logits(backbone.prefill(prefix, cache)[:, -1:], prefix)], 0
    for size in backbone.set_sizes[:-1]:
        known += size
        inputs = tokenizer.next_input(batch.tokens[:, :known])
        hidden = backbone.step(inputs, known, prefix, cache)
        steps.append(backbone.logits(hidden, prefix))
    assert torch.allclose(torch.cat(steps, 1), logits_of(model, batch), atol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_greedy_decoding_follows_the_full_forward(preset):
    config, tokenizer, model = tiny(preset)
    batch = batch_for(config, tokenizer)
    sampling = Sampling(guidance=1.0, temperature=0.0)
    parts = list(
        model.generate(
            batch.source, batch.text, batch.label, tokenizer, sampling, torch.Generator()
        )
    )
    assert [part.shape[1] for part in parts] == torch.tensor(config.tokenizer.set_sizes).cumsum(
        0
    ).tolist()
    tokens = parts[-1].clone()
    full = logits_of(model, batch._replace(tokens=tokens, inputs=tokenizer.inputs(tokens)))
    assert (full.argmax(-1) == tokens).float().mean() > 0.99


@pytest.mark.parametrize("preset", PRESETS)
def test_forced_tokens_stay_and_seeds_repeat(preset):
    config, tokenizer, model = tiny(preset)
    batch = batch_for(config, tokenizer)
    where = torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens) % 3 == 0

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        forced = (batch.tokens, where)
        conditions = (batch.source, batch.text, batch.label)
        *_, tokens = model.generate(*conditions, tokenizer, Sampling(2.0), generator, forced)
        return tokens

    assert torch.equal(run(1)[where], batch.tokens[where])
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


@pytest.mark.parametrize("preset", PRESETS)
def test_losses_and_where_their_gradients_go(preset):
    config, tokenizer, model = tiny(preset)
    batch = batch_for(config, tokenizer)

    def touched(name):
        model.zero_grad(set_to_none=True)
        getattr(model(batch), name).backward()
        parts = ("compressor", "conditioner", "backbone", "upsampler")
        return {
            part
            for part in parts
            if any(
                p.grad is not None and p.grad.abs().sum() > 0
                for p in getattr(model, part).parameters()
            )
        }

    assert touched("ce") == {"compressor", "conditioner", "backbone"}
    assert touched("preservation") == {"compressor", "upsampler"}
    assert touched("alignment") == {"compressor", "conditioner", "backbone"}


def test_alignment_target_is_detached_unless_asked():
    detached = {}
    for detach in (True, False):
        config, tokenizer, model = tiny("toy-next-token", losses={"detach_target": detach})
        batch = batch_for(config, tokenizer)
        # With every image prefix dropped from the slots, only the target side could reach the
        # compressor.
        batch = batch._replace(
            drop=DropMask(torch.tensor([True, False]), torch.zeros(2, dtype=torch.bool))
        )
        batch = batch._replace(source=torch.zeros_like(batch.source))
        model(batch).alignment.backward()
        detached[detach] = model.compressor.conv.weight.grad.abs().sum()
    assert detached[True] == 0 and detached[False] > 0


@pytest.mark.parametrize("weight", [0.5, 1.0, 2.0, 4.0])
def test_alignment_can_reach_0_behind_a_norm_of_any_weight(weight):
    norm = RMSNorm(32).requires_grad_(False)
    torch.nn.init.constant_(norm.weight, weight)
    target = 3 * torch.randn(2, 5, 32)
    keep = torch.ones(2, dtype=torch.bool)
    assert alignment_loss(norm(target), target, keep) == pytest.approx(0, abs=1e-6)
    # The mean square of a difference of opposite vectors of unit mean square.
    assert alignment_loss(norm(-target), target, keep) == pytest.approx(4, abs=1e-4)


def test_the_raw_alignment_is_the_squared_distance_of_the_kept():
    hidden, target = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    loss = alignment_loss(hidden, target, torch.tensor([True, False]), "raw")
    assert torch.allclose(loss, torch.nn.functional.mse_loss(hidden[0], target[0]))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_aligns_by_its_configured_distance(preset):
    config, tokenizer, model = tiny(preset)
    batch = batch_for(config, tokenizer)
    target = model.conditioner.project(model.compressor(batch.target))  # P_t
    hidden = model.backbone(prefix_of(model, batch), batch.inputs)[:, : target.shape[1]]  # H_s
    for distance in ("unit_rms", "raw"):
        *_, model = tiny(preset, losses={"alignment_distance": distance})
        expected = 0.5 * alignment_loss(hidden, target, ~batch.drop.image, distance)
        assert torch.allclose(model(batch).alignment, expected)
    with pytest.raises(ValueError, match="alignment_distance must be unit_rms or raw"):
        tiny(preset, losses={"alignment_distance": "cosine"})


def test_weights_choose_which_tokens_count():
    config, tokenizer, model = tiny("toy-next-token")
    batch = batch_for(config, tokenizer)
    first = torch.zeros_like(batch.weights)
    first[:, 0] = 1
    expected = torch.nn.functional.cross_entropy(logits_of(model, batch)[:, 0], batch.tokens[:, 0])
    assert torch.allclose(model(batch._replace(weights=first)).ce, expected, atol=1e-5)


@pytest.mark.parametrize("positions", [1, 7, 8, 64, 128])
def test_chunked_cross_entropy_is_the_plain_one(positions):
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 32)
    hidden = torch.randn(2, 64, 8, requires_grad=True)
    tokens, weights = torch.randint(32, (2, 64)), torch.rand(2, 64)
    plain = torch.nn.functional.cross_entropy(
        head(hidden).transpose(1, 2), tokens, reduction="none"
    )
    plain = (plain * weights).sum() / weights.sum()
    chunked = token_loss(hidden, head, tokens, weights, 32, at_once=32 * positions)
    torch.testing.assert_close(chunked, plain)
    inputs = (hidden, head.weight, head.bias)
    torch.testing.assert_close(
        torch.autograd.grad(chunked, inputs), torch.autograd.grad(plain, inputs)
    )


def test_logits_of_a_batch_never_exist_together():
    seen = []
    head = torch.nn.Linear(8, 32)
    head.register_forward_hook(lambda _, __, logits: seen.append(logits.numel()))
    hidden = torch.randn(2, 64, 8, requires_grad=True)
    tokens, weights = torch.zeros(2, 64, dtype=torch.long), torch.ones(2, 64)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    ):
        loss = token_loss(hidden, head, tokens, weights, 32, at_once=32 * 10)
    loss.backward()
    assert max(seen) == 32 * 10 and sum(seen) == 2 * 2 * 64 * 32  # each made twice
    assert max(kept) <= hidden.numel()  # and none kept between


def test_dropped_conditions_are_replaced_by_the_nulls():
    config, tokenizer, model = tiny("toy-next-token")
    batch = batch_for(config, tokenizer)
    drop = DropMask(torch.tensor([True, False]), torch.tensor([False, True]))
    prefix = prefix_of(model, batch._replace(drop=drop))
    kept = prefix_of(model, batch)
    visual = model.conditioner.null_visual.shape[0]
    assert torch.allclose(prefix.slots[0, :visual], model.conditioner.null_visual)
    assert torch.equal(prefix.slots[1, :visual], kept.slots[1, :visual])
    assert torch.equal(prefix.slots[0, visual:], kept.slots[0, visual:])
    assert not torch.allclose(prefix.slots[1, visual:], kept.slots[1, visual:])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_class_takes_one_slot_and_changes_the_image(preset):
    config, tokenizer, model = tiny(preset, condition={"classes": 7})
    batch = batch_for(config, tokenizer)._replace(label=torch.tensor([3, -1]))
    prefix = prefix_of(model, batch)
    text = batch.text.valid.shape[1]
    assert prefix.valid[0, -text:].tolist() == [False] * (text - 1) + [True]
    assert prefix.valid[1, -text:].tolist() == batch.text.valid[1].tolist()
    changed = logits_of(model, batch._replace(label=torch.tensor([4, -1])))
    base = logits_of(model, batch)
    assert not torch.allclose(base[0], changed[0], atol=1e-4)
    assert torch.allclose(base[1], changed[1], atol=1e-5)


@pytest.mark.parametrize("kind", ["conv+resize", "conv", "resize", "pixel_unshuffle"])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_every_compressor_trains_and_shortens_the_prefix(kind, factor):
    config, tokenizer, model = tiny("toy-next-token", compressor={"kind": kind, "factor": factor})
    batch = batch_for(config, tokenizer)
    grid = feature_shape(config.encoder)[0]
    assert model.compressor(batch.source).shape[1:3] == (grid // factor, grid // factor)
    total = sum(model(batch))
    total.backward()
    assert torch.isfinite(total)


@pytest.mark.parametrize("kind", ["conv+resize", "conv", "resize", "pixel_unshuffle"])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_every_cell_counts_in_the_compressed_prefix(kind, factor):
    compressor = Compressor(CompressorConfig(kind, factor), channels=4)
    features = torch.randn(1, 8, 8, 4, requires_grad=True)
    compressor(features).square().sum().backward()
    assert features.grad.abs().sum(dim=-1).min() > 0


@pytest.mark.parametrize("factor", [2, 4])
def test_resized_features_keep_their_precision(factor):
    compressor = Compressor(CompressorConfig("resize", factor), channels=4)
    assert compressor(torch.randn(1, 8, 8, 4).bfloat16()).dtype == torch.bfloat16


def test_the_compression_of_the_paper_is_3_x_3_and_the_mean_of_2_x_2_cells():
    """Weights are published for it, the embedded ones among them."""
    compressor = Compressor(CompressorConfig(), channels=4)
    features = torch.randn(2, 8, 8, 4)
    x, conv = features.movedim(-1, 1), compressor.conv
    halved = torch.nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear")
    assert torch.allclose(halved, torch.nn.functional.avg_pool2d(x, 2), atol=1e-6)
    learned = torch.nn.functional.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
    assert conv.weight.shape == (4, 4, 3, 3)
    assert torch.equal(compressor(features).movedim(-1, 1), learned + halved)


@pytest.mark.parametrize(
    "preset, stream", [("toy-next-token", torch.float32), ("toy-next-set", torch.bfloat16)]
)
def test_the_residual_stream_has_the_precision_of_the_reference(preset, stream):
    """Under autocast LlamaGen's is fp32, since `cat` promotes, and VAR's is bf16."""
    config, tokenizer, model = tiny(preset)
    batch, seen = batch_for(config, tokenizer), set()
    blocks = getattr(model.backbone, "layers", None) or model.backbone.blocks
    for block in blocks:
        block.register_forward_hook(lambda _, inputs, x: seen.update((inputs[0].dtype, x.dtype)))

    def run():
        seen.clear()
        model(batch)
        *_, tokens = model.generate(
            batch.source,
            batch.text,
            batch.label,
            tokenizer,
            Sampling(guidance=1.0),
            torch.Generator().manual_seed(0),
        )
        return seen

    assert run() == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        assert run() == {stream}


@pytest.mark.parametrize("preset", PRESETS)
def test_saved_weights_are_for_inference_and_come_back(preset, tmp_path):
    config, tokenizer, model = tiny(preset)
    save_model(model, config, tmp_path)
    training_only = {key for key in model.state_dict() if key.startswith("upsampler")}
    assert training_only
    assert load_weights(tmp_path, "model").keys() == model.state_dict().keys() - training_only
    back = load_model(config, tmp_path)
    for key, value in back.state_dict().items():
        assert torch.allclose(value, model.state_dict()[key], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_one_batch_can_be_learned(preset):
    config, tokenizer, model = tiny(preset)
    model.train()
    batch = batch_for(config, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = model(batch).ce.item()
    for _ in range(80):
        optimizer.zero_grad()
        sum(model(batch)).backward()
        optimizer.step()
    assert model(batch).ce.item() < 0.25 * first
