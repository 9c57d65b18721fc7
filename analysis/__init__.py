"""From the records of runs to figures and tables. Imports no trainer: neither torch, ray, veRL nor wandb."""
