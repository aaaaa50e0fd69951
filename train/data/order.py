"""The order in which samples are read: a permutation of each epoch, keyed to the seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train.data.formats import BLOCKS_TOGETHER
from train.recipe import bounded_seed


def epoch_order(
    blocks: Sequence[range],
    seed: int,
    epoch: int,
    together: int = BLOCKS_TOGETHER,
    batch: int = 1,
) -> np.ndarray:
    """A permutation of all samples keyed to (seed, epoch), by which large files are read block by
    block.

    Blocks come in random order, and the samples of `together` consecutive ones among each other.
    Where there are several, a batch takes its share of each and keeps it together: as the parts of
    a batch go to processes in turn, each of them reads few of the blocks, and yet nothing depends
    on how many processes there are.

    Args:
        batch: indices [k * batch, (k + 1) * batch) are one batch, counted over all epochs.
    """
    rng = np.random.default_rng((bounded_seed(seed), epoch))
    shuffled = [blocks[b] for b in rng.permutation(len(blocks))]
    order, block = [], []
    for first in range(0, len(shuffled), together):
        window = [rng.permutation(b) for b in map(_numbers, shuffled[first : first + together])]
        # Spread each block evenly over the window.
        moment = np.concatenate([(np.arange(len(b)) + rng.random()) / len(b) for b in window])
        which = np.repeat(np.arange(len(window)), [len(b) for b in window])
        mixed = np.argsort(moment, kind="stable")
        order.append(np.concatenate(window)[mixed])
        block.append(first + which[mixed])
    order, block = np.concatenate(order), np.concatenate(block)
    batches = (np.arange(len(order)) + epoch * len(order)) // batch
    return order[np.lexsort((block % together, batches))]


def _numbers(block: range) -> np.ndarray:
    return np.arange(block.start, block.stop)
