"""Errors, signals, processes, files and progress: what every other folder may use."""
