"""What the studio relies on holds for the real pipeline and for the fake one its tests use."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from faults.fake_pipeline import FakePipeline
from helpers.tiny import PARADIGMS, picture
from PIL import Image

from scar import ScarPipeline
from scar.errors import InputError
from scar.output import Output

METHODS = ("edit", "generate", "edit_batch", "generate_batch", "stream_edit", "stream_generate")


@pytest.fixture(params=["fake", *PARADIGMS])
def pipe(request):
    if request.param == "fake":
        return FakePipeline()
    return request.getfixturevalue("pipes")[request.param]


def parameters(pipeline: type, method: str) -> list[tuple]:
    found = inspect.signature(getattr(pipeline, method)).parameters.values()
    return [(p.name, p.kind, p.default) for p in found]


@pytest.mark.parametrize("method", METHODS)
def test_the_methods_take_the_same(method):
    assert parameters(FakePipeline, method) == parameters(ScarPipeline, method)


def test_the_fake_has_no_public_method_of_its_own():
    public = {name for name, _ in inspect.getmembers(FakePipeline, inspect.isfunction)}
    assert {name for name in public if not name.startswith("_")} == set(METHODS)


def test_it_says_what_it_is(pipe):
    assert pipe.paradigm in PARADIGMS and str(pipe.device) == "cpu"
    assert pipe.size > 0 and pipe.total_tokens > 0
    assert len(pipe.classes) == 3 and all(isinstance(name, str) for name in pipe.classes)
    for name in ("guidance", "temperature", "top_k", "top_p"):
        assert isinstance(getattr(pipe.defaults, name), int | float)


@pytest.mark.parametrize("every", [1, 3])
def test_a_stream_counts_its_steps_up_to_the_total(pipe, every):
    outputs = list(pipe.stream_edit(picture(), "add a cat", seed=4, preview_every=every))
    total = outputs[0].total
    assert all(type(out) is Output for out in outputs)
    steps = [out.step for out in outputs]
    assert steps == sorted(set(steps)) and steps[0] >= 1 and steps[-1] == total
    assert len(steps) >= total // every
    assert all(out.total == total and out.seed == 4 for out in outputs)
    assert all(out.image.size == (96, 64) and out.image.mode == "RGB" for out in outputs)
    assert all(out.region is None and out.drawn == pipe.total_tokens for out in outputs)
    assert outputs[-1].tokens == pipe.total_tokens
    assert all(a.tokens < b.tokens for a, b in zip(outputs, outputs[1:], strict=False))
    assert all(a.seconds <= b.seconds for a, b in zip(outputs, outputs[1:], strict=False))


def test_a_region_is_shown_before_a_token_is_drawn(pipe):
    source, mask = picture(), Image.new("L", (96, 64))
    mask.paste(255, (0, 0, 48, 64))
    first, *_, last = pipe.stream_edit(source, "add a cat", seed=4, region=mask, preview_every=1)
    assert first.step == first.tokens == 0 and first.image.tobytes() == source.tobytes()
    assert first.region.tobytes() == last.region.tobytes() == mask.tobytes()
    assert 0 < last.drawn == first.drawn < last.tokens == pipe.total_tokens
    kept = np.asarray(mask) == 0
    assert np.array_equal(np.asarray(last.image)[kept], np.asarray(source)[kept])
    assert last.image.tobytes() != source.tobytes()


def test_one_image_is_the_end_of_its_stream(pipe):
    streamed = list(pipe.stream_edit(picture(), "add a cat", seed=4))[-1]
    one, other = (pipe.edit(picture(), "add a cat", seed=seed) for seed in (4, 5))
    assert one.image.tobytes() == streamed.image.tobytes() != other.image.tobytes()
    for prompt in ("a cat", 1):
        streamed = list(pipe.stream_generate(picture(), prompt, seed=4))[-1]
        one = pipe.generate(picture(), prompt, seed=4)
        assert one.image.tobytes() == streamed.image.tobytes()
        assert one.step == one.total and one.region is None


def test_a_batch_has_an_output_for_each_image(pipe):
    images = [picture(), picture(64, 64, seed=1)]
    for outputs in (
        pipe.edit_batch(images, ["add a cat", "make it red"], seed=4),
        pipe.generate_batch(images, ["a cat", 1], seed=4),
    ):
        assert [out.image.size for out in outputs] == [(96, 64), (64, 64)]
        assert all(out.step == out.total and out.seed == 4 for out in outputs)


def test_closing_a_stream_ends_the_run_and_the_next_one_is_whole(pipe):
    whole = pipe.edit(picture(), "add a cat", seed=4)
    stream = pipe.stream_edit(picture(), "add a cat", seed=4, preview_every=1)
    next(stream)
    stream.close()
    assert list(stream) == []
    assert pipe.edit(picture(), "add a cat", seed=4).image.tobytes() == whole.image.tobytes()


def test_a_wrong_request_is_refused_before_the_run(pipe):
    with pytest.raises(InputError, match="instruction is empty"):
        pipe.stream_edit(picture(), "  ")
    with pytest.raises(ValueError, match="region must be"):
        pipe.stream_edit(picture(), "add a cat", region="everywhere")
    with pytest.raises(InputError, match="prompt is empty"):
        pipe.stream_generate(picture(), "")
    for unknown in (3, -5):
        with pytest.raises(InputError, match=f"does not know class {unknown}"):
            pipe.stream_generate(picture(), unknown)
