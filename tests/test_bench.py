"""The benchmarks: what they compare computes the same, and is printed with its ratios."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from helpers.tiny import TINY

from scar.__main__ import main
from scar.bench import check as bench_check
from scar.bench import decode as bench_decode
from scar.bench import train as bench_train

SMALL = {
    "backbone": TINY["backbone"],
    "encoder": {"name": "sam-b", "image_size": 64},
    "tokenizer": {"image_size": 64, "codebook_size": 64},
}


def test_prefixes_and_pairs_are_printed_with_their_ratios(capsys, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)  # it takes a minute
    bench_train.train("cpu", 1, SMALL)
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "2 examples, 2 layers of width 32, on cpu"
    lengths = [int(re.search(r", (\d+) positions", row)[1]) for row in rows[:4]]
    assert lengths == [16 + 120 + 15, 16 + 120 + 15, 4 + 120 + 15, 1 + 120 + 15]
    assert len(rows) == 4 + 6
    firsts = [rows[0], *rows[4::2]]
    for row in rows:
        ratios = "" if row in firsts else r" +[\d.]+x +[+-][\d.]+%"
        assert re.fullmatch(r".{28} +[\d.]+ +-?[\d.]+" + ratios, row)


def test_the_stored_mask_changes_no_loss():
    config = bench_train.configure(bench_train.PRESET, SMALL)
    model = bench_train.build_model(config, for_training=True).eval()  # without dropout
    step = partial(bench_train._whole, model, bench_train._batch(config, "cpu", 2))
    stored = bench_train._patched("scar.next_token.attention_over", bench_train._stored, step)
    torch.testing.assert_close(stored, step())


def test_the_peak_is_what_a_step_holds():
    def hold(megabytes: int) -> int:
        x = torch.ones(1, requires_grad=True)
        return bench_train._peak(lambda: (x * torch.ones(megabytes * 2**18)).sum(), "cpu")

    assert hold(400) - hold(100) == pytest.approx(2 * 300 * 2**20, rel=0.4)


@pytest.fixture
def uncompiled(monkeypatch):
    """Steps as they are compiled, without the minutes; see test_compiled.py."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def test_ways_to_decode_are_printed_beside_the_limit(capsys, uncompiled):
    changes = bench_check.SMALL["toy-next-set"]
    bench_decode.decode(("toy-next-set",), "cpu", 1, changes)
    copy, *rows = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"a copy moves [\d.]+ GB/s on cpu", copy)
    for batch, shown in zip((1, 8), (rows[:6], rows[6:]), strict=True):
        assert shown[0] == f"toy-next-set, batch {batch} with guidance, 21 tokens in 3 steps"
        assert re.fullmatch(r" +compiled in \d+ s", shown[1])
        assert [row.split()[0] for row in shown[2:]] == ["uncached", "eager", "compiled", "limit"]
        for row in shown[2:]:
            assert re.search(r"ms a token +[\d.]+ ms an image +[\d.]+x eager +[\d.]+% of the", row)
        assert "100.0% of the limit" in shown[-1]


def test_what_does_not_fit_is_skipped_with_a_sentence(capsys, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(bench_decode, "Workload", full)
    bench_decode.decode((), "cpu", 1)
    skipped = [line for line in capsys.readouterr().out.splitlines() if "skipped" in line]
    assert len(skipped) == 4 and all("does not fit in the memory" in line for line in skipped)


def test_bytes_read_are_those_of_matrices_and_of_what_is_seen():
    config = bench_train.configure("toy-next-token", bench_check.SMALL["toy-next-token"])
    one, two = (bench_decode.Workload(config, "cpu", torch.float32, batch) for batch in (1, 2))
    cache = two.bytes_read() - one.bytes_read()  # matrices are read once, whatever the batch
    prefix, tokens, backbone = one.prefix().slots.shape[1], one.tokens.shape[1], config.backbone
    seen = sum(prefix + step for step in range(1, tokens))
    rows, buffers = 2, 2  # under guidance; keys and values
    assert cache == 4 * rows * buffers * backbone.layers * backbone.width * seen
    matrices = sum(p.nbytes for p in one.model.backbone.parameters() if p.dim() > 1)
    matrices -= one.model.backbone.tok_embeddings.weight.nbytes
    assert one.bytes_read() == tokens * matrices + cache


def test_a_check_that_fails_says_so_and_fails_the_command(capsys, uncompiled, monkeypatch):
    assert main(["bench", "check"]) == 0
    assert "TOO MUCH" not in capsys.readouterr().out
    name = next(iter(bench_check.TOLERANCES))
    monkeypatch.setitem(bench_check.TOLERANCES, name, 0.0)
    assert main(["bench", "check"]) == 1
    assert capsys.readouterr().out.count("TOO MUCH") == 2
