"""What is trained: modules that turn one raw batch into named losses."""
