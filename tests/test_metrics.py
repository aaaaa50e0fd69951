"""The measures themselves: they must know right from wrong."""

from __future__ import annotations

import math

import pytest
import torch

from scar.toyscenes.dataset import ToyScenes
from scar.toyscenes.sprites import sheet
from train.data.batch import to_signed
from train.evaluate.edit_metrics import EditExamples, new_recall, recall, share, successes
from train.evaluate.metrics import Features, SpriteFinder, bounding_boxes, crop, psnr

OBJECTS = 16


@pytest.fixture(scope="module")
def scenes() -> EditExamples:
    toy = ToyScenes("test", 128, OBJECTS)
    raw = [toy.batch(range(32))]
    return EditExamples(raw, to_signed(raw[0].source), to_signed(raw[0].target), raw[0].mask)


@pytest.fixture(scope="module")
def features() -> Features:
    return Features()


def test_psnr_of_a_known_error():
    a = torch.zeros(2, 3, 8, 8)
    b = a.clone()
    b[0] += 0.2  # a tenth of the range
    assert psnr(a, b)[0].item() == pytest.approx(20.0, abs=1e-3)
    assert psnr(a, b)[1] > 90
    half = torch.zeros(2, 8, 8, dtype=torch.bool)
    half[0, :, :4] = True
    b[0, :, :, 4:] = 1.0
    measured = psnr(a, b, half)
    assert measured[0].item() == pytest.approx(20.0, abs=1e-3)
    assert math.isnan(measured[1])


def test_boxes_and_crops():
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 10:20, 30:50] = True
    assert bounding_boxes(masks) == [(30.0, 10.0, 50.0, 20.0), (0.0, 0.0, 64.0, 64.0)]
    image = torch.zeros(3, 64, 64)
    image[:, 10:20, 30:50] = 1
    part = crop(image, (30, 10, 50, 20))
    assert part.shape == (3, 128, 128)
    assert part[0, 64, 10] > 0.9 and part[0, 5, 64] < 0.1


def test_perfect_edits_succeed_and_untouched_sources_fail(scenes, features):
    # Few examples have few others of a family: a right answer may tie, a wrong one never wins.
    assert successes(features, scenes, scenes.target).float().mean() > 0.95
    assert successes(features, scenes, scenes.source).float().mean() == 0
    assert successes(features, scenes, scenes.target.roll(1, 0)).float().mean() < 0.3


def test_sprites_are_found_in_pictures_and_not_in_noise(scenes, features):
    finder = SpriteFinder(features, sheet()[:OBJECTS].float() / 255)
    noise = torch.rand_like(scenes.target) * 2 - 1
    assert recall(finder, scenes, scenes.target) > 0.6
    assert recall(finder, scenes, noise) < 0.3
    assert new_recall(finder, scenes, scenes.target) > new_recall(finder, scenes, scenes.source)


def test_a_share_of_nothing_is_not_a_number():
    assert math.isnan(share(0.3, 0.0))
