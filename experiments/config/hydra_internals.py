"""Every private name of Hydra that this project uses, with the reason why Hydra's public interface is not enough.

The names were read in hydra-core 1.3.8. Another version may have moved or changed them, so it is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from importlib import metadata

from experiments.errors import UserError

HYDRA_VERSION = "1.3.8"

if metadata.version("hydra-core") != HYDRA_VERSION:
    raise UserError(
        f"hydra-core must be {HYDRA_VERSION}, since experiments/config/hydra_internals.py uses its private names, but "
        f"is {metadata.version('hydra-core')}; do: pip install hydra-core=={HYDRA_VERSION}"
    )

# ruff: noqa: E402  (below the guard: another version may not have these names)
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource as FileConfigSource
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"  # as hydra/sweeper=basic names it


@contextlib.contextmanager
def hydra_in(source: str) -> Iterator[None]:
    """Let `hydra.compose` read a folder, or verl://FOLDER, and put back the Hydra that was running before.

    hydra.initialize_config_dir can't be used while Hydra runs a command: it forgets the Hydra of the command.
    """
    instance = GlobalHydra.instance()
    running = instance.hydra
    instance.clear()
    try:
        version.setbase("1.3")
        Hydra.create_main_hydra2("app", create_config_search_path(source))
        yield
    finally:
        instance.hydra = running


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (the overrides of a command line, its flags without -m). SystemExit 2 for a flag that Hydra lacks.

    Only Hydra's own parser knows which words are values of flags.
    """
    overrides: list[str] = get_args_parser().parse_intermixed_args(list(arguments)).overrides
    return overrides, [argument for argument in arguments if argument not in (*overrides, "-m", "--multirun")]


def group_exists(loader: ConfigLoader, name: str) -> bool:
    """Return whether a config group of that name is on Hydra's search path."""
    if not isinstance(loader, ConfigLoaderImpl):  # Hydra has no other kind of loader
        raise TypeError(f"Hydra's config loader must be a ConfigLoaderImpl, but is a {type(loader).__name__}")
    return bool(loader.repository.group_exists(name))


def apply_values(values: list[Override], config: DictConfig) -> None:
    """Set the values of parsed overrides in a composed config, as Hydra does after it has composed the groups.

    hydra.compose would compose the groups again, which takes half a second.
    """
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
