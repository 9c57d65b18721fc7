"""One execution of a run: `python -m experiments.attempt RUN_FOLDER`."""
