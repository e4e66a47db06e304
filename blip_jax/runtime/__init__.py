"""Errors, signals, processes and files: what every other folder may use."""
