"""Training: the loop, its checkpoints, the stages and what each of them trains."""
