"""A run on the disk: its folder, its events, its metrics, its frozen config and code."""
