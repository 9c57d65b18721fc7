"""Where records come from. Every source returns the same `analysis.records.record.RunRecord`s."""
