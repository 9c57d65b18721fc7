"""Where records come from. Every source returns the same `analysis.records.RunRecord`s."""
