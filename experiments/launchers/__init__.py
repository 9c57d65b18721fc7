"""How planned runs are executed; hydra_plugins/ablations.py makes them known to Hydra."""
