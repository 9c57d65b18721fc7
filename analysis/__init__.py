"""From the records of runs to figures and tables. The package imports neither torch, ray, veRL nor wandb."""
