"""Measures of what a checkpoint does."""
