"""Datasets this project makes itself, one TFDS builder a file."""
