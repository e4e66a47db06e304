"""Checkpoints of the original PyTorch code to and from our parameters, as one table."""
