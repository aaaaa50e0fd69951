"""The training loop: steps, optimisers, averages, checkpoints, processes."""
