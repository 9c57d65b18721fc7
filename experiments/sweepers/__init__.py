"""How a command becomes a list of jobs; hydra_plugins/ablations.py makes it known to Hydra."""
