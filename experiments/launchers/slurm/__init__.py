"""Runs as SLURM jobs: what they ask for, how they are submitted, executed and looked at. Light."""
