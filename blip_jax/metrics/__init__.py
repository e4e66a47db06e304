"""Metrics: functions of arrays and strings that return numbers."""
