"""The benchmark of training: its pairs compute the same, and are printed with their ratios."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch

from scar import bench_train

TINY = {
    "backbone": {"layers": 1, "heads": 2, "width": 32},
    "encoder": {"name": "sam-b", "image_size": 64},
    "tokenizer": {"image_size": 64, "codebook_size": 64},
}


def test_prefixes_and_pairs_are_printed_with_their_ratios(capsys, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)  # it takes a minute
    bench_train.train("cpu", 1, TINY)
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "2 examples, 1 layers of width 32, on cpu"
    lengths = [int(re.search(r", (\d+) positions", row)[1]) for row in rows[:4]]
    assert lengths == [16 + 120 + 15, 16 + 120 + 15, 4 + 120 + 15, 1 + 120 + 15]
    assert len(rows) == 4 + 6
    firsts = [rows[0], *rows[4::2]]
    for row in rows:
        ratios = "" if row in firsts else r" +[\d.]+x +[+-][\d.]+%"
        assert re.fullmatch(r".{28} +[\d.]+ +-?[\d.]+" + ratios, row)


def test_the_stored_mask_changes_no_loss():
    config = bench_train.configure(bench_train.PRESET, TINY)
    model = bench_train.build_model(config, for_training=True).eval()  # without dropout
    step = partial(bench_train._whole, model, bench_train._batch(config, "cpu", 2))
    stored = bench_train._patched("scar.next_token.attention_over", bench_train._stored, step)
    torch.testing.assert_close(stored, step())


def test_the_peak_is_what_a_step_holds():
    def hold(megabytes: int) -> int:
        x = torch.ones(1, requires_grad=True)
        return bench_train._peak(lambda: (x * torch.ones(megabytes * 2**18)).sum(), "cpu")

    assert hold(400) - hold(100) == pytest.approx(2 * 300 * 2**20, rel=0.4)
