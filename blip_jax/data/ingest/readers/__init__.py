"""Readers, one a format: each lists the work units of a source and reads their records."""
