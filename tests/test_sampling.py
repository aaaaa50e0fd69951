"""Guidance, filters and draws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from scar.config import Sampling
from scar.sampling import (
    SamplingInputs,
    filter_top_k_top_p,
    guidance_schedule,
    guide,
    sample,
    sample_tokens,
)


def test_guidance_moves_from_unconditional_through_conditional():
    rows = torch.tensor([[[3.0, 0.0]], [[1.0, 1.0]]])
    assert torch.equal(guide(rows, 0.0), rows[1:])
    assert torch.equal(guide(rows, 1.0), rows[:1])
    assert torch.equal(guide(rows, 2.0), torch.tensor([[[5.0, -1.0]]]))


def test_ramp_starts_at_one_and_ends_at_the_scale():
    sampling = Sampling(guidance=5.0)
    ramp = replace(sampling, guidance_ramp=True)
    assert guidance_schedule(ramp, 5).tolist() == [1, 2, 3, 4, 5]
    assert guidance_schedule(sampling, 5).tolist() == [5.0] * 5


def test_top_k_keeps_the_k_largest():
    logits = torch.tensor([[[0.0, 3.0, 1.0, 2.0]]])
    kept = torch.isfinite(filter_top_k_top_p(logits, Sampling(top_k=2)))
    assert kept.tolist() == [[[False, True, False, True]]]
    assert torch.equal(filter_top_k_top_p(logits, Sampling(top_k=9)), logits)


def test_top_p_keeps_the_smallest_sufficient_set():
    logits = torch.tensor([[[0.5, 0.3, 0.15, 0.05]]]).log()

    def kept(p):
        return torch.isfinite(filter_top_k_top_p(logits, Sampling(top_p=p))).tolist()[0][0]

    assert kept(0.4) == [True, False, False, False]
    assert kept(0.79) == [True, True, False, False]
    assert kept(0.94) == [True, True, True, False]
    assert kept(1.0) == [True] * 4


def test_draws_follow_the_probabilities_and_the_seed():
    logits = torch.tensor([0.7, 0.2, 0.1]).log().expand(1, 4000, 3)
    noise = torch.empty(logits.shape).exponential_(generator=torch.Generator().manual_seed(3))
    drawn = sample(logits, 1.0, noise)
    reference = torch.multinomial(
        logits.softmax(-1)[0], 1, generator=torch.Generator().manual_seed(3)
    )
    assert torch.equal(drawn, reference.T)
    shares = torch.bincount(drawn.flatten(), minlength=3) / drawn.numel()
    assert torch.allclose(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.03)
    assert sample(logits, 0.0, noise).unique().tolist() == [0]


class Identity:
    """A backbone whose hidden states are logits."""

    @staticmethod
    def logits(hidden, prefix):
        return hidden


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_noticed(value):
    ones = torch.ones(1, 2, 4)
    fixed = torch.zeros(1, 2, dtype=torch.bool)
    inputs = SamplingInputs(ones, torch.tensor(1.0), fixed.long(), fixed)
    assert sample_tokens(Identity, ones, None, Sampling(1.0), inputs).finite
    spoilt = torch.cat([ones[:, :1], torch.full((1, 1, 4), value)], dim=1)
    assert not sample_tokens(Identity, spoilt, None, Sampling(1.0), inputs).finite


def test_given_tokens_stand():
    inputs = SamplingInputs(
        torch.ones(1, 2, 4),
        torch.tensor(1.0),
        torch.tensor([[3, 3]]),
        torch.tensor([[True, False]]),
    )
    logits = torch.tensor([0.0, 9.0, 0.0, 0.0]).expand(1, 2, 4)
    assert sample_tokens(Identity, logits, None, Sampling(1.0), inputs).tokens.tolist() == [[3, 1]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"guidance": -1.0},
        {"guidance": float("nan")},
        {"temperature": -0.1},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"null": "image"},
    ],
)
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)
