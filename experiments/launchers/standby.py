"""What a launch on this machine keeps ready for its runs: a fork server, and a Ray cluster that they share in turn.

Both need seconds to come up. They come up beside each other and beside the planning.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments import fork_client, snapshot
from experiments.attempt import FORK_SOCKET, RAY_ADDRESS, RAY_QUIET
from experiments.launchers.helper import Helper
from experiments.ray_head import ADDRESS

# What the command line may say that decides whether a launch has helpers, or whether there is one; and the user's file.
DECIDING = (
    "-c", "--c", "show", "hydra/launcher", "hydra.launcher", "experiment", "trainer.device", "hardware=",
    "hardware.fast=",
)  # fmt: skip
LOCAL = snapshot.PROJECT_DIR / "conf" / "local" / "default.yaml"
# A training allocates and frees the same hundreds of megabytes in every micro-batch. glibc would give them back to the
# kernel and have them zeroed again each time, a tenth of a step.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


def fork_server() -> Helper:
    """Return a fork server that is starting."""
    arguments = ["-m", "experiments.fork_server", "{folder}/socket", str(os.getpid())]
    return Helper("fork", "socket", arguments, KEEP_MEMORY)


class RayCluster(Helper):
    """A Ray cluster that is starting with these options of ray.init."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        arguments = ["-m", "experiments.ray_head", "{folder}", str(os.getpid()), json.dumps(options)]
        super().__init__("ray", ADDRESS, arguments, RAY_QUIET)


class Standby:
    """The helpers of one launch; a context manager that ends them."""

    # What was started before it was known to be needed.
    foreseen: Helper | None = None
    foreseen_cluster: RayCluster | None = None

    def __init__(self, configs: Sequence[Mapping[str, Any]], code: Path) -> None:
        """Start what the runs with these resolved configs need; they execute the copy in `code` (see snapshot)."""
        self.code = code
        self.server: Helper | None = None
        self.cluster: RayCluster | None = None
        fast = [config for config in configs if is_wanted(config)]
        if fast:
            self.server, self.cluster = Standby.foreseen or fork_server(), Standby.foreseen_cluster
            Standby.foreseen = Standby.foreseen_cluster = None
            self._provide(ray_options(fast[0]))

    @classmethod
    def guess(cls, arguments: Sequence[str]) -> None:
        """Start the fork server if the command line leaves the defaults alone that say whether one is needed.

        They are known seconds later, when a config was composed: `foresee` then corrects a wrong guess.
        """
        decided = any(argument.lstrip("+~").startswith(DECIDING) for argument in arguments)
        if sys.platform == "linux" and not decided and not LOCAL.exists():
            cls.foreseen = fork_server()

    @classmethod
    def foresee(cls, config: Mapping[str, Any]) -> None:
        """Have the helpers started that a run with this config will need, unless the plan refuses it."""
        if not is_wanted(config):
            cls.forget()
            return
        cls.foreseen = cls.foreseen or fork_server()
        cls.foreseen_cluster = cls.foreseen_cluster or RayCluster(ray_options(config))

    @classmethod
    def forget(cls) -> None:
        """End the helpers that were foreseen, if no launch took them."""
        for helper in (cls.foreseen, cls.foreseen_cluster):
            if helper is not None:
                helper.close()
        cls.foreseen = cls.foreseen_cluster = None

    def __enter__(self) -> Standby:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.drop_cluster()
        if self.server is not None:
            self.server.close()

    def _provide(self, options: dict[str, Any]) -> RayCluster:
        """Return a cluster with these options: the one that there is, or a new one."""
        if self.cluster is not None and options != self.cluster.options:
            self.drop_cluster()
        if self.cluster is None:
            self.cluster = RayCluster(options)
        return self.cluster

    def drop_cluster(self) -> None:
        """End the Ray cluster; the next run gets a new one. For a run that did not end well: who knows what it left."""
        if self.cluster is not None:
            self.cluster.close()
            self.cluster = None

    def python(self, config: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
        """Return the command that stands for `python` in a run, and the variables that the run needs beside it."""
        copy = snapshot.variables(self.code)
        if self.server is None or not is_wanted(config):
            return [sys.executable, "-P"], copy  # a folder of the working directory must not shadow a package
        cluster = self._provide(ray_options(config))
        socket = str(self.server.wait())
        variables = {**copy, FORK_SOCKET: socket, RAY_ADDRESS: cluster.wait().read_text()}
        client = self.code / Path(fork_client.__file__).relative_to(snapshot.PROJECT_DIR)
        return [sys.executable, "-S", "-E", str(client), socket], variables


def is_wanted(config: Mapping[str, Any]) -> bool:
    """Return whether a run is started from the helpers.

    Not on a GPU, not where it asks for plain processes (hardware.fast=false), and not on macOS, where a fork of a
    process that has loaded its frameworks is not safe.
    """
    return sys.platform == "linux" and bool(config["hardware"]["fast"]) and config["trainer"]["device"] == "cpu"


def ray_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the cluster of a run: its ray.init options but for the environment of its processes."""
    given = config["ray_kwargs"]["ray_init"]
    if isinstance(given, DictConfig):  # what is foreseen is not resolved yet
        given = OmegaConf.to_container(given, resolve=True)
    return {key: value for key, value in given.items() if key != "runtime_env"}
