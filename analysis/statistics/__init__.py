"""Intervals, comparisons of arms, verdicts on claims, and the summary table."""
