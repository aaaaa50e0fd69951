"""Benchmarks: variants run in one call and are printed with their ratios."""
