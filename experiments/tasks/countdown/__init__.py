"""Countdown: reach a target from a few numbers with + - * /, using every number exactly once."""
