"""ToyScenes: exact, repeatable examples whose words fit their pictures."""

import subprocess
import sys

import pytest
import torch

from scar.images import InputError
from scar.toyscenes.compose import Part, compose, object_names, picture_and_edits
from scar.toyscenes.dataset import ToyScenes
from scar.toyscenes.edits import FAMILIES, is_held_out
from scar.toyscenes.language import HELD_OUT, PHRASINGS, SYNONYMS
from scar.toyscenes.sprites import COLOURS, vocabulary


@pytest.fixture(scope="module")
def scenes():
    return ToyScenes(size=64, wild=0)


@pytest.fixture(scope="module")
def batch(scenes):
    return scenes.batch(range(96))


@pytest.fixture(scope="module")
def examples(scenes):
    return [scenes.example(i) for i in range(600)]


@pytest.fixture(scope="module")
def test_examples():
    scenes = ToyScenes(split="test", size=64)
    return [scenes.example(i) for i in range(600)]


def pairs_shown(example):
    """Every (object, family) and (object, place) pair that an example shows."""
    yield example.main.name, example.family
    for scene in (example.source, example.target):
        for thing in scene.things:
            yield thing.sprite.name, ToyScenes.places[scene.place]


def says(instruction, name):
    words = instruction.lower()
    return any(n.lower() in words for n in (name, *SYNONYMS.get(name, ())))


def test_the_vocabulary_is_large_and_its_starter_is_balanced():
    sprites = vocabulary()
    assert len(sprites) >= 320
    assert len({s.name for s in sprites}) == len(sprites)
    starter = [s.category for s in sprites[:48]]
    assert len(set(starter)) == len({s.category for s in sprites})
    assert max(starter.count(c) for c in starter) <= 12


def test_sizes_of_the_world(scenes):
    assert scenes.names == [s.name for s in vocabulary()[:48]]
    assert len(scenes.places) >= 12
    families = "add remove replace recolour move resize place weather"
    assert {*scenes.families} == {*families.split()}
    assert len(ToyScenes(size=64, objects=320).names) == 320


def test_every_family_has_enough_phrasings():
    assert all(len(set(texts)) >= 10 + HELD_OUT for texts in PHRASINGS.values())


def test_shapes_and_types(batch):
    assert batch.source.shape == batch.target.shape == (96, 3, 64, 64)
    assert batch.source.dtype == batch.target.dtype == torch.uint8
    assert batch.mask.shape == (96, 64, 64) and batch.mask.dtype == torch.bool
    for depth in (batch.source_depth, batch.target_depth):
        assert depth.shape == (96, 64, 64) and depth.dtype == torch.float32
        assert depth.min() >= 0 and depth.max() <= 1
    assert batch.label.dtype == torch.int64 and batch.label.max() < 48


def test_the_same_index_gives_the_same_bytes(batch):
    again = ToyScenes(size=64, wild=0).batch(range(96))
    for name in ("source", "target", "mask", "source_depth", "target_depth", "label"):
        assert torch.equal(getattr(again, name), getattr(batch, name))
    assert again.instruction == batch.instruction
    assert again.target_caption == batch.target_caption


@pytest.mark.parametrize(("size", "wild"), [(64, 0), (112, 0), (64, 1), (112, 1)])
def test_bytes_do_not_depend_on_the_rest_of_the_batch(size, wild):
    scenes = ToyScenes(size=size, wild=wild)
    indices = [3, 50, 7, 7, 21, 40, 11, *(range(100, 130) if wild else ())]
    together = scenes.batch(indices)
    for row, index in enumerate(indices):
        alone = scenes.batch([index])
        assert torch.equal(alone.source[0], together.source[row])
        assert torch.equal(alone.target[0], together.target[row])
        assert torch.equal(alone.target_depth[0], together.target_depth[row])


def test_splits_and_seeds_differ(batch):
    for other in (ToyScenes(size=64, seed=1, wild=0), ToyScenes(size=64, split="validation")):
        assert other.batch(range(16)).instruction != batch.instruction[:16]


def test_the_mask_is_where_pixels_change(batch):
    changed = (batch.source != batch.target).any(1)
    assert not (changed & ~batch.mask).any()
    assert changed.flatten(1).any(1).all()
    # At 64 px the mask grows the change by one pixel, no more.
    near = torch.nn.functional.max_pool2d(changed[:, None].float(), 3, 1, 1)[:, 0] > 0
    assert torch.equal(batch.mask, near)


def test_local_edits_leave_most_of_the_picture(batch):
    shares = batch.mask.float().mean((1, 2))
    for share, family in zip(shares, batch.family, strict=True):
        assert share > 0.5 if family == "place" else family == "weather" or share < 0.6


def test_every_family_appears(examples, test_examples):
    assert {e.family for e in examples} == set(FAMILIES)
    assert {e.family for e in test_examples} == set(FAMILIES)
    only = ToyScenes(size=64, families=["move"], wild=0)
    assert {only.example(i).family for i in range(20)} == {"move"}


def test_held_out_pairs_are_never_trained_on(examples):
    shown = {pair for e in examples for pair in pairs_shown(e)}
    assert len(shown) > 500
    assert not [pair for pair in shown if is_held_out(*pair)]


def test_about_15_percent_of_pairs_are_held_out():
    pairs = [(s.name, other) for s in vocabulary() for other in (*FAMILIES, *ToyScenes.places)]
    share = sum(is_held_out(*pair) for pair in pairs) / len(pairs)
    assert 0.13 < share < 0.17


def test_the_test_split_says_what_is_new(test_examples):
    kinds = [e.held_out for e in test_examples]
    assert 0.4 < kinds.count("") / len(kinds) < 0.6
    assert min(kinds.count("phrasing"), kinds.count("pair")) > 100
    for example in test_examples:
        new = any(is_held_out(*pair) for pair in pairs_shown(example))
        assert new == (example.held_out == "pair")


def test_held_out_phrasings_are_never_trained_on(examples, test_examples):
    held_out = {"without the", "in the place of", "relocate", "bring on the", "transport the scene"}
    trained = " | ".join(e.instruction.lower() for e in examples)
    tested = " | ".join(e.instruction.lower() for e in test_examples if e.held_out == "phrasing")
    assert not [words for words in held_out if words in trained]
    assert [words for words in held_out if words in tested]


def test_instructions_name_the_right_objects(examples):
    for e in examples:
        if e.family not in ("place", "weather"):
            assert says(e.instruction, e.main.name), e.instruction
        if e.family == "replace":
            gone = {t.sprite for t in e.source.things} - {t.sprite for t in e.target.things}
            assert says(e.instruction, gone.pop().name), e.instruction
        if e.family == "recolour":
            assert e.edited.colour in e.instruction.lower()


def test_no_object_appears_twice_in_a_scene(examples):
    for e in examples:
        for scene in (e.source, e.target):
            names = [t.sprite.name for t in scene.things]
            assert len(set(names)) == len(names)


def test_scenes_change_as_the_family_says(examples):
    for e in examples:
        before, after = len(e.source.things), len(e.target.things)
        assert after - before == {"add": 1, "remove": -1}.get(e.family, 0)
        assert (e.source.place != e.target.place) == (e.family == "place")
        assert (e.source.weather != e.target.weather) == (e.family == "weather")
        if e.family == "resize":
            old = next(t for t in e.source.things if t.sprite is e.main)
            grew = e.edited.side > old.side
            words = e.instruction.lower()
            growing = ("bigger", "larger", "enlarge", " up", "increase", "grow")
            assert grew == any(word in words for word in growing), e.instruction


def test_positions_are_where_the_words_say(examples):
    columns = {"left": (0, 0.4), "right": (0.6, 1), "middle": (0.35, 0.65), "center": (0.35, 0.65)}
    seen = 0
    for e in examples:
        words = e.instruction.lower().rstrip(".?").removesuffix(", please").split()
        if e.family in ("add", "move") and words[-1] in columns:
            low, high = columns[words[-1]]
            assert low <= e.edited.x <= high, e.instruction
            seen += 1
    assert seen > 30


def test_placed_objects_match_their_scene(batch, scenes):
    for i in range(96):
        example = scenes.example(i)
        placed = batch.objects[i]
        assert sorted(o.name for o in placed) == sorted(
            t.sprite.name for t in example.target.things
        )
        assert all(
            0 <= o.box[0] < o.box[2] <= 64 and 0 <= o.box[1] < o.box[3] <= 64 for o in placed
        )
        assert all(o.colour is None or o.colour in COLOURS for o in placed)
        if batch.edited[i] is None:
            assert batch.family[i] in ("remove", "place", "weather")
        else:
            assert placed[batch.edited[i]].sprite == batch.label[i]
        for name in (o.name for o in placed):
            assert name in batch.target_caption[i]


def test_a_new_object_lies_inside_the_mask(batch):
    for i, family in enumerate(batch.family):
        if family in ("add", "replace"):
            x0, y0, x1, y1 = batch.objects[i][batch.edited[i]].box
            inside = batch.mask[i, int(y0) : int(y1), int(x0) : int(x1)]
            assert inside.float().mean() > 0.3
            rows = batch.mask[i].any(1).nonzero()
            assert abs(rows.min() - y0) < 3 or family == "replace"


def test_depth_puts_near_things_in_front(batch):
    for i, placed in enumerate(batch.objects):
        standing = [o for o in placed if vocabulary()[o.sprite].category != "sky"]
        depths = [o.depth for o in standing]
        assert depths == sorted(depths)
        bottoms = [o.box[3] for o in standing]
        assert bottoms == sorted(bottoms)
        if standing:
            x0, y0, x1, y1 = standing[-1].box
            inside = batch.target_depth[i, int(y0) : int(y1), int(x0) : int(x1)]
            own = torch.isclose(inside, torch.tensor(standing[-1].depth), atol=1e-6)
            assert own.float().mean() > 0.2


def test_the_ground_comes_nearer_downwards(scenes):
    empty = [e for e in map(scenes.example, range(300)) if not e.source.things]
    _, depth = scenes.render([e.source for e in empty])
    middle = depth[:, :, 32]
    assert (middle[:, -1] > 0.95).all()
    assert (middle[:, 44:].diff(dim=1) >= 0).all()
    assert (middle[:, 0] < 0.35).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "train, validation, test"),
        ({"size": 100}, "multiple of 16"),
        ({"size": 1024}, "from 64 to 512"),
        ({"objects": 4}, "objects must be from 8"),
        ({"families": ["add", "explode"]}, "explode"),
        ({"families": ["keep"], "wild": 0}, "keep"),
        ({"split": "test", "families": ["two"]}, "two"),
        ({"wild": 1.5}, "from 0 to 1"),
    ],
)
def test_bad_options_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        ToyScenes(**options)


def test_an_empty_batch_is_explained(scenes):
    with pytest.raises(ValueError, match="at least one index"):
        scenes.batch([])


def test_the_smallest_vocabulary_works():
    batch = ToyScenes(split="test", size=64, objects=8).batch(range(24))
    assert len(batch.instruction) == 24


def test_data_does_not_need_the_interface():
    code = "import sys, scar.toyscenes.preview; print('gradio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_rendering_in_threads_gives_the_same_bytes_and_leaves_torch_as_it_was(batch):
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            again = ToyScenes(size=64, wild=0).batch(range(8))
            assert torch.get_num_threads() == threads
            assert torch.equal(again.source, batch.source[:8])
            assert torch.equal(again.target, batch.target[:8])
    finally:
        torch.set_num_threads(before)


def test_a_scene_composed_from_names_is_the_same_every_time():
    parts = [Part("cat", "left", "small"), Part("apple", "right", "large")]
    scene = compose("beach", parts)
    assert scene == compose("beach", parts)
    assert scene.caption == "a cat and an apple on a beach"
    image, edits = picture_and_edits(scene)
    again, same = picture_and_edits(compose("beach", parts))
    assert image.size == (256, 256) and image.tobytes() == again.tobytes() and edits == same
    other, _ = picture_and_edits(compose("beach", [parts[0], Part("apple", "right", "small")]))
    left = (0, 0, 128, 256)
    assert other.crop(left).tobytes() == image.crop(left).tobytes()
    assert other.tobytes() != image.tobytes()


def test_every_object_fits_the_frame_in_every_size():
    for name in object_names():
        for size in ("small", "medium", "large"):
            (thing,) = compose("meadow", [Part(name, "left", size)]).things
            left, top, right, bottom = thing.box
            assert left >= 0 and right <= 1 and top >= 0.02 and bottom <= 0.98, (name, size)


@pytest.mark.parametrize(
    ("place", "parts"),
    [
        ("nowhere", [("cat", "left", "small")]),
        ("beach", []),
        ("beach", [("cat", "left", "small")] * 4),
        ("beach", [("dragon", "left", "small")]),
        ("beach", [("cat", "above", "small")]),
        ("beach", [("cat", "left", "huge")]),
        ("beach", [("cat", "left", "small"), ("dog", "left", "small")]),
        ("kitchen", [("sun", "left", "small")]),
    ],
)
def test_a_scene_that_cannot_be_composed_is_refused_in_one_sentence(place, parts):
    with pytest.raises(InputError, match=r"^[A-Z][^.]*\.$"):
        compose(place, [Part(*part) for part in parts])
