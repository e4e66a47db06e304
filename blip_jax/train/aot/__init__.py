"""Compiles a run for TPUs without one: memory, FLOPs, bytes moved, least step time."""
