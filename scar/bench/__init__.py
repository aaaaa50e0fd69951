"""Benchmarks: what is compared runs in one call and is printed as a ratio."""
