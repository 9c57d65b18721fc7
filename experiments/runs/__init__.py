"""The command line over the runs' folders: `python -m experiments.runs`.

The disk is the truth: nothing here asks a launcher, a server or a terminal how a run ended. Imports no trainer.
"""
