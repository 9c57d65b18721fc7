"""What a run left, in memory: its settings, its metrics by step, its responses."""
