"""Wilder ToyScenes: two edits of each source, any backdrop and object, a split of their own."""

from collections import Counter
from random import Random

import pytest
import torch

from scar.toyscenes.backgrounds import BACKDROPS, HELD_OUT_KINDS
from scar.toyscenes.camera import photographed, random_look
from scar.toyscenes.dataset import ToyScenes
from scar.toyscenes.edits import is_held_out
from scar.toyscenes.language import HELD_OUT as TEST_PHRASINGS
from scar.toyscenes.language import PHRASINGS
from scar.toyscenes.phrasings import HELD_OUT, MORE_PHRASINGS, wild_phrasings
from scar.toyscenes.sprites import COLOURS, vocabulary
from scar.toyscenes.synonyms import ANY_OF, confusable, other_names
from scar.toyscenes.wild import WILD_FAMILIES
from train.evaluate.metrics import bounding_boxes

EVERY_NAME = frozenset(s.name for s in vocabulary())


@pytest.fixture(scope="module")
def scenes():
    return ToyScenes(size=64)


@pytest.fixture(scope="module")
def batch(scenes):
    return scenes.batch(range(160))


@pytest.fixture(scope="module")
def examples(scenes):
    return [scenes.example(i) for i in range(2400)]


@pytest.fixture(scope="module")
def wild_examples():
    scenes = ToyScenes(split="wild", size=64)
    return [scenes.example(i) for i in range(1200)]


def is_wild(scene):
    return scene.place >= len(ToyScenes.places)


def pairs_of(examples):
    return zip(examples[::2], examples[1::2], strict=True)


def changed_thing(example):
    """The one thing of the source that the target has not as it was."""
    (thing,) = (t for t in example.source.things if t not in example.target.things)
    return thing


def says(instruction, sprite):
    names = [*other_names(sprite, EVERY_NAME), ANY_OF.get(sprite.category, sprite.name)]
    return any(name.lower() in instruction.lower() for name in names)


def test_half_of_the_training_leaves_the_places(examples):
    share = sum(is_wild(e.source) for e in examples) / len(examples)
    assert 0.45 < share < 0.55
    assert all(is_wild(ToyScenes(size=64, wild=1).example(i).source) for i in range(0, 60, 2))
    shown = {BACKDROPS[e.source.place].name for e in examples}
    assert shown == {b.name for b in BACKDROPS if b not in HELD_OUT_KINDS}


def test_the_same_index_gives_the_same_bytes(batch):
    again = ToyScenes(size=64).batch(range(159, -1, -1))
    for name in ("source", "target", "mask", "source_depth", "target_depth", "label"):
        assert torch.equal(getattr(again, name).flip(0), getattr(batch, name))
    assert again.instruction[::-1] == batch.instruction


def test_two_edits_share_a_source_and_name_different_objects(examples, batch):
    assert torch.equal(batch.source[::2], batch.source[1::2])
    named = 0
    for first, second in pairs_of(examples):
        assert first.source == second.source
        assert first.instruction.lower() != second.instruction.lower()
        of_things = ("remove", "replace", "recolour", "resize", "move")
        if {first.family, second.family} <= set(of_things) and len(first.source.things) > 1:
            assert changed_thing(first) is not changed_thing(second)
            for e in (first, second):
                assert says(e.instruction, changed_thing(e).sprite), e.instruction
            named += 1
    assert named > 300


def test_most_edits_have_to_choose_between_objects(examples):
    alike = [
        sum(t.sprite.hangs == e.main.hangs for t in e.source.things)
        for e in examples
        if e.family in ("remove", "replace", "recolour")
    ]
    assert sum(2 <= count <= 4 for count in alike) > 0.75 * len(alike)
    assert {2, 3, 4} <= set(alike)


def test_the_mask_is_where_pixels_change(batch):
    changed = (batch.source != batch.target).any(1)
    near = torch.nn.functional.max_pool2d(changed[:, None].float(), 3, 1, 1)[:, 0] > 0
    assert torch.equal(batch.mask, near)
    local = ("add", "remove", "replace", "recolour", "resize", "move")
    for changes, family in zip(changed, batch.family, strict=True):
        assert changes.any() == (family != "keep")
        assert family not in local or changes.float().mean() < 0.6


def test_nothing_changes_where_nothing_is_asked():
    batch = ToyScenes(size=64, families=["keep"]).batch(range(24))
    assert torch.equal(batch.source, batch.target) and not batch.mask.any()
    assert torch.equal(batch.source_depth, batch.target_depth)
    assert batch.source_caption == batch.target_caption
    assert batch.edited == [None] * 24
    assert bounding_boxes(batch.mask)[0] == (0.0, 0.0, 64.0, 64.0)


def test_what_is_kept_does_not_name_what_is_there(examples):
    for e in (e for e in examples if e.family == "keep"):
        assert not any(t.sprite.name in e.instruction.lower() for t in e.source.things)


def test_only_the_vocabulary_is_drawn_and_labelled(examples, batch):
    beyond = 0
    for e in examples:
        stand = {t.sprite.index for t in e.source.things}
        drawn = {t.sprite.index for t in e.target.things} - stand
        assert all(index < 48 for index in drawn)
        beyond += any(index >= 48 for index in stand)
        if not is_wild(e.source):
            assert all(index < 48 for index in stand)
    assert beyond > 0.3 * len(examples)
    assert {e.family for e in examples if e.main.index >= 48} >= {"remove", "move", "resize"}
    assert batch.label.min() >= 0 and batch.label.max() < 48


def test_scenes_change_as_the_family_says(examples):
    for e in examples:
        before, after = len(e.source.things), len(e.target.things)
        if e.family != "two":
            assert after - before == {"add": 1, "remove": -1}.get(e.family, 0)
        assert (e.source.place != e.target.place) == (e.family == "place")
        assert (e.source.weather != e.target.weather) == (e.family == "weather")
        assert e.source.look == e.target.look and e.source.shadow == e.target.shadow
        if e.family == "two":
            gone = sum(t not in e.target.things for t in e.source.things)
            new = sum(t not in e.source.things for t in e.target.things)
            assert gone == 2 or (gone, new) in ((1, 1), (1, 2)), e.instruction
        if e.family == "recolour":
            assert e.edited.colour in COLOURS and e.edited.colour in e.instruction.lower()


def test_no_name_means_two_things(examples):
    for e in examples:
        for scene in (e.source, e.target):
            sprites = [t.sprite for t in scene.things]
            assert not [1 for i, a in enumerate(sprites) for b in sprites[:i] if confusable(a, b)]


def test_families_come_in_their_shares(examples, wild_examples):
    counts = Counter(e.family for e in examples)
    assert set(counts) == set(Counter(e.family for e in wild_examples)) == set(WILD_FAMILIES)
    assert 0.02 < counts["keep"] / len(examples) < 0.06
    assert 0.02 < counts["two"] / len(examples) < 0.08
    only = ToyScenes(size=64, families=["recolour"])
    assert {only.example(i).family for i in range(20)} == {"recolour"}


def test_every_family_has_many_phrasings_and_some_are_kept_apart():
    for kind in MORE_PHRASINGS:
        trained, kept = wild_phrasings(kind, False), wild_phrasings(kind, True)
        tested = PHRASINGS.get(kind, ())[-TEST_PHRASINGS:]
        assert len(kept) == HELD_OUT and not set(trained) & {*kept, *tested}
        assert len(set(trained)) == len(trained) >= (12 if kind == "two" else 25), kind


def test_held_out_phrasings_are_the_wild_splits_alone(examples, wild_examples):
    distinct = ("banish", "who put the", "pop a", "miniaturize", "scoot ", "beam it all", "foo bar")
    distinct += ("rainstorm", "moonlit", "squeeze", "nudge", "upsize", "take over from")
    trained = " | ".join(e.instruction.lower() for e in examples)
    assert not [words for words in distinct if words in trained]
    shown = " | ".join(e.instruction.lower() for e in wild_examples if e.held_out == "phrasing")
    assert len([words for words in distinct if words in shown]) > 8
    for words in ("without the", "relocate", "transport the scene", "bring on the"):
        assert words not in trained


def test_held_out_backdrops_are_the_wild_splits_alone(examples, wild_examples):
    for e in examples:
        assert BACKDROPS[e.source.place] not in HELD_OUT_KINDS
    shown = set()
    for e in wild_examples:
        assert is_wild(e.source)
        held_out = BACKDROPS[e.source.place] in HELD_OUT_KINDS
        assert held_out == (e.held_out == "background")
        shown |= {BACKDROPS[e.source.place].name} if held_out else set()
    assert len(shown) == len(HELD_OUT_KINDS) == 2


def test_held_out_pairs_are_the_wild_splits_alone(examples, wild_examples):
    def new(e):
        return is_held_out(e.main.name, e.family) or any(
            is_held_out(t.sprite.name, BACKDROPS[scene.place].name)
            for scene in (e.source, e.target)
            for t in scene.things
        )

    assert not [e for e in examples if new(e)]
    assert all(new(e) == (e.held_out == "pair") for e in wild_examples)
    assert min(Counter(e.held_out for e in wild_examples).values()) > 150


def test_a_look_does_the_same_to_equal_pixels():
    torch.manual_seed(0)
    rng = Random(0)
    looks = torch.tensor([random_look(rng) for _ in range(40)])
    before = torch.rand(40, 3, 64, 64)
    after = before.clone()
    after[:, :, 32:, 32:] = torch.rand(40, 3, 32, 32)
    first, second = photographed(before.clone(), looks), photographed(after, looks)
    assert torch.equal(first[:, :, :24, :24], second[:, :, :24, :24])
    assert not torch.equal(first, before) and first.min() >= 0 and first.max() <= 1
    alone = photographed(before[5:6].clone(), looks[5:6])
    assert torch.equal(alone[0], first[5])


@pytest.mark.parametrize("objects", [8, 60])
def test_other_vocabularies_work(objects):
    for split in ("train", "wild"):
        batch = ToyScenes(split=split, size=64, objects=objects).batch(range(40))
        assert batch.label.max() < objects
