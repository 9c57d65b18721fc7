"""veRL on a CPU, and our hooks into its trainer; loaded by veRL itself through VERL_USE_EXTERNAL_MODULES.

Everything attaches through veRL's registries and config keys (platform, engine, rollout, trainer, agent loop,
checkpoint callback). No function of veRL is replaced. Code that touches a private name of veRL says so, and names the
version in which it was read. The whole plugin was tested against the version below, and refuses any other.
"""

from importlib.metadata import version

VERL_VERSION = "0.9.1"

if version("verl") != VERL_VERSION:
    raise ImportError(
        f"verl must be {VERL_VERSION} for experiments.verl_plugin, but is {version('verl')}; "
        f"do: pip install verl=={VERL_VERSION}"
    )

import verl  # noqa: E402, F401  veRL imports the modules of VERL_USE_EXTERNAL_MODULES, before the line below does

# Importing these registers the platform "cpu" and the distribution "vllm" before veRL looks them up.
from experiments.verl_plugin.lifecycle import platform, stacks, vllm_distribution  # noqa: E402, F401
