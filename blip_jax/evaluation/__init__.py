"""Measuring and reporting: arrays and strings in, numbers, tables and one HTML page out."""
