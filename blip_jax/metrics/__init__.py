"""Metrics: arrays and strings in, numbers out."""
