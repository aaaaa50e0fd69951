"""The report on photographs: what it counts, and what it refuses before anything is loaded."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest
from faults.fake_pipeline import FakePipeline
from helpers.tiny import picture
from PIL import Image

from train.evaluate import photographs


class Painted(FakePipeline):
    """Edits the left half only."""

    def edit(self, image, instruction, **options):
        region = Image.new("L", image.size)
        region.paste(255, (0, 0, image.width // 2, image.height))
        return super().edit(image, instruction, region=region, **options)


def arguments(tmp_path, **fields):
    given = {"out": tmp_path / "sheet.png", "object": "cat", "instruction": "add a {object}"}
    return Namespace(**given | {"seed": 0} | fields)


def test_the_table_counts_what_the_picture_shows(tmp_path):
    pictures = {"a.png": picture(64, 48), "b.png": picture(48, 64, seed=1)}
    table = photographs.evaluate(Painted(), pictures, arguments(tmp_path))
    assert "a.png" in table and "50% of the tokens drawn" in table
    assert "'add a cat'" in table and "exactly the photograph in 2 of 2" in table
    assert np.asarray(Image.open(tmp_path / "sheet.png")).shape == (3 * 256, 2 * 256, 3)


def test_an_object_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'giraffe' is none of the objects: cat, "):
        photographs.evaluate(Painted(), {}, arguments(tmp_path, object="giraffe"))


def test_what_is_wrong_is_said_before_a_model_is_loaded(tmp_path, capsys):
    assert photographs.main([str(tmp_path / "no" / "sheet.png"), "--model", "nowhere"]) == 1
    assert "no" in capsys.readouterr().err


def test_the_ten_photographs_open():
    opened = photographs.open_photographs()
    assert len(opened) == 10 and all(image.mode == "RGB" for image in opened.values())
