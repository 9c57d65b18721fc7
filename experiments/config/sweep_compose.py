"""Compose the configs of a sweep quickly: the groups are composed once, and each job sets its values in a copy.

Hydra takes half a second to compose veRL's tree, and OmegaConf a tenth of a second to resolve it, but the arms of a
sweep differ in a few values only. Hydra itself composes the chosen groups first and sets values last. So a copy of the
composed groups with the values set is what Hydra makes; test_sweep_compose.py compares the two.

The order was read in hydra-core 1.3.8: ConfigLoaderImpl._load_configuration_impl. Its private method
_apply_overrides_to_config is used here, through hydra_internals.apply_values.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments.config.compose import plain
from experiments.config.hydra_internals import apply_values, group_exists
from experiments.config.identity import canonical
from experiments.project import CONFIG_DIR
from experiments.values import flatten, meets

# Resolvers whose value depends only on their arguments. A leaf that calls any other resolver is resolved for every arm.
PURE = ("oc.select", "project_dir", "verl_config_dir", "nonzero", "share", "cpu_attention", "gpu_attention")
CALLED = re.compile(r"\$\{\s*([\w.]+)\s*:")
REPEATS = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")
PATH = re.compile(r"\.*[A-Za-z_]\w*(?:\.\w+)*")


class Composer:
    """Composes the jobs of one command."""

    def __init__(self, loader: ConfigLoader, master: DictConfig | None = None) -> None:
        """Take Hydra's config loader and, in a sweep, the config of the sweeping command (`master`)."""
        self.loader, self.master = loader, master
        self.parser = OverridesParser.create()
        self.parsed: dict[str, Override] = {}
        self.groups: dict[tuple[str, ...], Groups] = {}

    @classmethod
    def of_running_hydra(cls) -> Composer:
        """Return a composer for the config folder that Hydra was initialised with."""
        return cls(GlobalHydra.instance().config_loader())

    def compose(self, overrides: Sequence[str]) -> Composed:
        """Return the config of one job, as Hydra composes it from the same overrides."""
        parsed = [self._parse(line) for line in overrides]
        of_groups = [item for item in parsed if self._is_choice(item)]
        of_hydra = [item for item in parsed if item.is_hydra_override() and item not in of_groups]
        values = [item for item in parsed if item not in of_groups and item not in of_hydra]
        groups = self._groups([item.input_line or "" for item in (*of_groups, *of_hydra)])
        config = groups.copy()
        apply_values(values, config)
        defaults = default_choices()
        choices = {item.key_or_group: str(item.value()) for item in of_groups}
        return Composed(
            config=config,
            groups=groups,
            choices={group: choice for group, choice in choices.items() if defaults.get(group) != choice},
            touched=dict(_leaves(values)),
            simple=all(groups.is_simple(item) for item in values),
            overrides=tuple(overrides),
        )

    def _parse(self, line: str) -> Override:
        """Return an override parsed. Kept for later jobs: the jobs of a command share most of their overrides."""
        if line not in self.parsed:
            (self.parsed[line],) = self.parser.parse_overrides([line])
        return self.parsed[line]

    def _is_choice(self, item: Override) -> bool:
        """Return whether an override chooses a file of a group. kl={coef: 0} does not, though kl is a group."""
        return not isinstance(item.value(), dict) and group_exists(self.loader, item.key_or_group)

    def _groups(self, lines: Sequence[str]) -> Groups:
        key = tuple(lines)
        if key not in self.groups:
            if self.master is None:
                config = self.loader.load_configuration("config", list(lines), RunMode.RUN)
            else:
                config = self.loader.load_sweep_config(self.master, list(lines))
            with open_dict(config):
                del config["hydra"]
            self.groups[key] = Groups(config)
        return self.groups[key]


@dataclass
class Groups:
    """The config of a set of group choices, before any value is set."""

    config: DictConfig
    _readers: dict[frozenset[str], frozenset[str]] = field(default_factory=dict)

    @cached_property
    def frozen(self) -> bytes:
        return pickle.dumps(self.config)

    def copy(self) -> DictConfig:
        """Return a copy that is free to change; six times faster than copy.deepcopy."""
        return pickle.loads(self.frozen)

    @cached_property
    def leaves(self) -> dict[str, Any]:
        """The value of every leaf, interpolations as they are written."""
        return dict(flatten(plain(self.config)))

    @cached_property
    def resolved(self) -> bytes:
        return pickle.dumps(plain(self.config, resolve=True))

    @cached_property
    def references(self) -> dict[str, tuple[str, ...] | None]:
        """For each leaf that is an interpolation: the keys that it may read, or None if they are unknown."""
        return {key: _references(key, value) for key, value in self.leaves.items() if "${" in str(value)}

    def source(self, key: str) -> str:
        """Return other.key for a leaf "${other.key}", which saves OmegaConf a parse, else the leaf's own key."""
        repeats = REPEATS.fullmatch(str(self.leaves[key]))
        return repeats[1] if repeats else key

    def is_simple(self, item: Override) -> bool:
        """Return whether an override replaces one leaf by a value without an interpolation."""
        value = item.value()
        plain_override = not (item.is_add() or item.is_force_add() or item.is_delete() or isinstance(value, dict))
        return plain_override and item.key_or_group in self.leaves and "${" not in str(value)

    def readers(self, changed: frozenset[str]) -> frozenset[str]:
        """Return the leaves whose interpolations may read the changed leaves, directly or through other leaves."""
        if changed not in self._readers:
            self._readers[changed] = self._find_readers(changed)
        return self._readers[changed]

    def _find_readers(self, changed: frozenset[str]) -> frozenset[str]:
        found = {key for key, reads in self.references.items() if reads is None} - changed
        new: set[str] = {*changed, *found}
        while new:
            new = {
                key
                for key, reads in self.references.items()
                if key not in found | changed and any(meets(read, name) for read in reads or () for name in new)
            }
            found |= new
        return frozenset(found)


@dataclass
class Composed:
    """One job's config."""

    config: DictConfig
    groups: Groups
    choices: dict[str, str]
    """The choice by group, for each group whose choice is not the one of conf/config.yaml."""
    touched: dict[str, Any]
    """The values that the command sets, by key."""
    simple: bool
    """Whether the command only replaces leaves, and only by values without an interpolation."""
    overrides: tuple[str, ...] = ()
    """The job's, as they were given."""
    _tree: dict[str, Any] | None = None
    _stale: dict[str, Any] = field(default_factory=dict)

    @property
    def changes(self) -> dict[str, Any]:
        """Return the values, by key, that the command sets and that differ from what the groups give."""
        leaves = self.groups.leaves
        return {
            key: value
            for key, value in self.touched.items()
            if key not in leaves or canonical(value) != canonical(leaves[key])
        }

    def fill_in(self, values: Mapping[str, Any]) -> None:
        """Set the values, by key, that planning finds out. They do not count as changes of the arm."""
        with open_dict(self.config):
            for key, value in values.items():
                OmegaConf.update(self.config, key, value, merge=False)
        self._stale |= values

    def resolved(self) -> dict[str, Any]:
        """Return the config as plain dicts and lists, with every interpolation resolved.

        A simple config returns one mapping each time, brought up to date: don't change it. Values that no change can
        reach come from the groups' own resolved config.
        """
        if not self.simple:
            return plain(self.config, resolve=True)
        if self._tree is None:
            try:
                self._tree = pickle.loads(self.groups.resolved)
            except OmegaConfBaseException:  # e.g. a value is missing that only the command line gives
                self.simple = False
                return self.resolved()
            self._stale |= self.touched
        for key in self.groups.readers(frozenset(self._stale)) - self.touched.keys():
            value = OmegaConf.select(
                self.config, self.groups.source(key), throw_on_missing=True, throw_on_resolution_failure=True
            )
            self._stale[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in self._stale.items():
            *parents, last = key.split(".")
            node = self._tree
            for part in parents:
                node = node.setdefault(part, {})
            node[last] = value
        self._stale = {}
        return self._tree


@cache
def default_choices() -> dict[str, str]:
    """Return the choice that conf/config.yaml makes for each group."""
    entries = yaml.safe_load((CONFIG_DIR / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    return {group.removeprefix("override ").removeprefix("optional "): str(choice) for group, choice in pairs}


def _leaves(values: Sequence[Override]) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every leaf that the overrides set; a deleted key has the value "deleted"."""
    for item in values:
        value = "deleted" if item.is_delete() else item.value()
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{item.key_or_group}.")
        else:
            yield item.key_or_group, value


def _references(key: str, value: Any) -> tuple[str, ...] | None:
    """Return the absolute keys that the interpolations in the leaf `key` may read; None if the text does not tell."""
    if not isinstance(value, str) or set(CALLED.findall(value)) - set(PURE) or re.search(r"\w\[", value):
        return None
    found = []
    for path in PATH.findall(value):
        name = path.lstrip(".")
        ups = len(path) - len(name)
        parents = key.split(".")[: -ups or None] if ups else []
        found.append(".".join([*parents, name]))
    return tuple(found)
