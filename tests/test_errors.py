"""Errors: one tree, free of torch; the command line turns those of the tree into one sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

import preprocessors
from scar import errors, images
from scar.__main__ import main

CONVERT = ["convert", "--from", "var", "x.pth", "--to", "out", "--preset", "var-d16"]


def test_one_tree_under_its_old_names():
    for error in (errors.InputError, errors.ConfigError, errors.WeightsError, errors.SamplingError):
        assert issubclass(error, errors.ScarError) and issubclass(error, ValueError)
    assert images.InputError is errors.InputError
    assert preprocessors.WeightsError is errors.WeightsError


def test_errors_pins_and_protocols_import_no_torch():
    code = (
        "import sys, scar.errors, scar.protocols, scar.weights.pins; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr


def test_faults_of_the_program_keep_their_traceback(monkeypatch, capsys):
    def fail(error):
        def run(arguments):
            raise error

        monkeypatch.setattr("scar.__main__._convert", run)

    fail(errors.WeightsError("the file is damaged"))
    assert main(CONVERT) == 1
    assert capsys.readouterr().err == "error: the file is damaged\n"
    fail(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        main(CONVERT)
