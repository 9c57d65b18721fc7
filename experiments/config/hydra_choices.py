"""Hydra's own groups that files of conf/ choose: `override /hydra/launcher: slurm` in conf/local/ or conf/experiment/.

conf/config.yaml chooses a launcher and a sweeper, and in Hydra the first file's choice wins over those of the files
that it names: Hydra passes over the others without a word. So they are given to Hydra as if they had been typed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode

from experiments.config.choices import bad_choices, groups
from experiments.config.hydra_internals import hydra_in
from experiments.config.product import product
from experiments.errors import UserError
from experiments.project import CONFIG_DIR

MAIN = CONFIG_DIR / "config.yaml"


def hydra_choices(parsed: Sequence[Override]) -> list[str]:
    """Return, as overrides, the choices of Hydra's groups that the files of a command make and that it does not type.

    UserError if a sweep over groups would choose different ones: a command has one launcher and one sweeper.
    """
    choosing = [file for file in _own_files() if _chosen_by(file)]
    if not choosing:
        return []
    ours, typed = groups(), {item.key_or_group for item in parsed}
    with hydra_in(str(CONFIG_DIR)):
        wrong = bad_choices(parsed)
        chosen = [
            item
            for item in parsed
            if item.key_or_group in ours and not isinstance(item.value(), dict) and item.input_line not in wrong
        ]
        found = [_of_files(job, choosing) for job in product(chosen)]
    names = dict.fromkeys(name for choices in found for name in choices if name not in typed)
    several = {name: list(dict.fromkeys(choices.get(name) for choices in found)) for name in names}
    if problems := [
        f"{name} must be one for all runs of a command, but the files of its groups choose "
        f"{' and '.join(str(choice or 'none') for choice in choices)}; type {name}= with the one that you want"
        for name, choices in several.items()
        if len(choices) > 1
    ]:
        raise UserError(*problems)
    return [f"{name}={choices[0]}" for name, choices in several.items()]


def _own_files() -> list[Path]:
    """Return the files of conf/ that may choose one of Hydra's groups, apart from those that are one."""
    files = [file for file in CONFIG_DIR.rglob("*.yaml") if file != MAIN and CONFIG_DIR / "hydra" not in file.parents]
    return [file for file in files if "hydra/" in file.read_text(encoding="utf-8", errors="replace")]


def _chosen_by(file: Path) -> dict[str, str]:
    """Return a file's choices of Hydra's groups; none if the file can't be read, which Hydra reports if it uses it."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    entries: Any = content.get("defaults") if isinstance(content, dict) else None
    found = {}
    for entry in entries if isinstance(entries, list) else ():
        for key, choice in entry.items() if isinstance(entry, dict) else ():
            name = str(key).removeprefix("override ").strip().removeprefix("/")
            if name.startswith("hydra/") and choice is not None:
                found[name] = str(choice)
    return found


def _of_files(lines: Sequence[str], choosing: Sequence[Path]) -> dict[str, str]:
    """Return what the files choose that Hydra composes for these group choices; a later file wins."""
    try:
        used = GlobalHydra.instance().config_loader().compute_defaults_list("config", list(lines), RunMode.RUN).defaults
    except HydraException:  # reported when the config is composed
        return {}
    found: dict[str, str] = {}
    for default in used:
        file = CONFIG_DIR / f"{default.config_path}.yaml"
        if file in choosing:
            found |= _chosen_by(file)
    return found
