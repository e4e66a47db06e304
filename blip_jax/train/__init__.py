"""Training: optimiser, metrics, state, steps, and the one loop that tasks plug into."""
