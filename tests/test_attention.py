"""Attention without a stored mask equals attention with one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import PRESETS, batch_for, prefix_of, tiny

from scar import attention
from scar.attention import (
    attend_causally,
    attend_segments,
    attention_over,
    attention_segments,
    flex_attention_fn,
    masked_sdpa,
    set_mask,
)

SINGLE, GROWING = (1,) * 12, (1, 4, 9, 16)
FULL = torch.ones(2, 5, dtype=torch.bool)
PADDED = torch.tensor([[False, True, False, True, True], [True, True, False, False, False]])


def queries(length: int, dtype=torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, length, 16)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def length(valid, set_sizes) -> int:
    return valid.shape[1] + sum(set_sizes) - 1


def test_runs_join_sets_of_size_one():
    assert attention_segments((5, 1, 1, 1)) == [(0, 5, False), (5, 8, True)]
    assert attention_segments((1, 1, 1)) == [(0, 3, True)]
    assert attention_segments((5, 4, 9)) == [(0, 5, False), (5, 9, False), (9, 18, False)]


@pytest.mark.parametrize("causal_prefix", [False, True])
@pytest.mark.parametrize("set_sizes", [SINGLE, GROWING])
def test_unpadded_attention_and_its_gradients_equal_the_masked(set_sizes, causal_prefix):
    q, k, v = queries(length(FULL, set_sizes))
    attention = attention_over(FULL, set_sizes, causal_prefix)
    assert attention.func is attend_segments
    outputs = [
        attend(q, k, v, 0.3)
        for attend in (attention, masked_sdpa(set_mask(FULL, set_sizes, causal_prefix)))
    ]
    upstream = torch.randn_like(outputs[0])
    gradients = [torch.autograd.grad(output, (q, k, v), upstream) for output in outputs]
    torch.testing.assert_close(*outputs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("causal_prefix", [False, True])
@pytest.mark.parametrize("set_sizes", [SINGLE, GROWING])
def test_the_rule_for_flex_attention_is_the_mask(set_sizes, causal_prefix):
    """Uncompiled and forward only: on the CPU it has no gradients."""
    q, k, v = (x.detach() for x in queries(length(PADDED, set_sizes)))
    by_rule = flex_attention_fn(PADDED, set_sizes, causal_prefix, fused=False)(q, k, v, None)
    by_mask = masked_sdpa(set_mask(PADDED, set_sizes, causal_prefix))(q, k, v, None)
    torch.testing.assert_close(by_rule, by_mask, atol=1e-5, rtol=1e-5)


def test_a_causal_prefix_is_a_triangle():
    mask = set_mask(FULL, SINGLE, causal_prefix=True)[0, 0]
    assert torch.equal(mask, torch.ones_like(mask).tril())


def test_the_bias_that_cuda_gets_means_what_the_square_kernel_computes():
    q, k, v = queries(9)
    q = q[:, :, 4:]
    bias = attention.causal_lower_right(5, 9)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(attend_causally(q, k, v, None), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_losses_and_gradients_are_those_of_a_stored_mask(preset, monkeypatch):
    config, tokenizer, model = tiny(preset)
    batch = batch_for(config, tokenizer, words=(4,))
    assert prefix_of(model, batch).valid.all()

    def run():
        model.zero_grad()
        losses = model(batch)
        sum(losses).backward()
        return losses, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    found = run()
    module = type(model.backbone).__module__
    monkeypatch.setattr(f"{module}.attention_over", lambda *a: masked_sdpa(set_mask(*a)))
    stored = run()
    torch.testing.assert_close(found, stored, atol=1e-5, rtol=1e-4)
