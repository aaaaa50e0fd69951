"""Compiled decoding draws what eager decoding draws, and nothing of one image reaches the next."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny import batch_for, tiny

from scar.compiled import CompiledRunner, padded
from scar.config import Sampling
from scar.prefix import TextEmbedding
from scar.sampling import EagerRunner, SamplingError

pytestmark = pytest.mark.slow

SMALL = {
    "backbone": {"layers": 1, "heads": 2, "width": 32},
    "condition": {"text_slots": 8},
    "encoder": {"name": "efficientnet-lite0", "image_size": 128},
}
TOKENIZERS = {
    "toy-next-token": {"image_size": 32, "codebook_size": 64},
    "toy-next-set": {"image_size": 32, "codebook_size": 64, "scales": [1, 2, 4]},
}
GUIDED = Sampling(3.0, temperature=0.8, top_k=40, top_p=0.95)


class Case:
    """A tiny model, and what it compiled."""

    def __init__(self, preset: str):
        changes = {**SMALL, "tokenizer": TOKENIZERS[preset]}
        config, self.tokenizer, self.model = tiny(preset, **changes)
        self.batch = batch_for(config, self.tokenizer)
        self.runner = CompiledRunner()

    def parts(self, runner: EagerRunner | None, sampling=GUIDED, seed=0, source=None, **how):
        conditions = (
            self.batch.source if source is None else source,
            self.batch.text,
            self.batch.label,
        )
        generator = torch.Generator().manual_seed(seed)
        return list(
            self.model.generate(
                *conditions, self.tokenizer, sampling, generator, runner=runner, **how
            )
        )

    def agrees(self, *arguments, **how) -> bool:
        compiled, eager = (
            self.parts(runner, *arguments, **how) for runner in (self.runner, EagerRunner())
        )
        return all(torch.equal(*pair) for pair in zip(compiled, eager, strict=True))


@pytest.fixture(scope="module", params=TOKENIZERS)
def case(request):
    torch.compiler.reset()
    yield Case(request.param)
    torch.compiler.reset()


@pytest.mark.parametrize("sampling", [GUIDED, Sampling(1.0)])
def test_the_same_seed_draws_the_same_tokens(case, sampling):
    where = torch.arange(case.batch.tokens.shape[1]).expand_as(case.batch.tokens) % 3 == 0
    forced = (case.batch.tokens, where)
    for seed in range(3):
        assert case.agrees(sampling, seed)
        assert case.agrees(sampling, seed, forced=forced)
        assert case.agrees(sampling, seed, -case.batch.source, preview_every=2)
    first, other = (case.parts(case.runner, sampling, seed)[-1] for seed in (0, 1))
    assert not torch.equal(first, other)


def test_values_that_are_not_finite_are_named_and_forgotten(case):
    kept = {name: value.clone() for name, value in case.model.backbone.state_dict().items()}
    with torch.no_grad():
        for parameter in case.model.backbone.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(SamplingError, match="not finite"):
        case.parts(case.runner)
    case.model.backbone.load_state_dict(kept)
    assert case.agrees()


def test_a_longer_text_says_the_same():
    valid = torch.tensor([[False, True, True]])
    text = padded(TextEmbedding(torch.ones(1, 3, 4), valid), 5)
    assert text.valid.tolist() == [[False, False, False, True, True]]
    assert text.tokens.shape == (1, 5, 4) and not text.tokens[:, :2].any()
    assert padded(text, 3).valid.shape == (1, 5)
