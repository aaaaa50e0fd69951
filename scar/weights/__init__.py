"""Weights: checkpoints on disk, pinned downloads, conversion of published files."""
