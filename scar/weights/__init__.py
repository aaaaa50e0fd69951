"""Weights: where they lie, how they are saved and loaded, how published ones are read."""
