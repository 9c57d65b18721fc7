"""Beginning, saving, stopping and recording a run. Nothing here decides a number of the training."""
