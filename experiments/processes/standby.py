"""The processes that a local launch starts for all its runs: a fork server, and a Ray cluster for each place.

Both need seconds to start. The first two start at the same time, while the runs are planned. The runs at one place use
its cluster in turn.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.processes import fork_client, ray_token
from experiments.processes.helper import Helper
from experiments.processes.limits import check_machine
from experiments.processes.ray_cpus import cpus_offered
from experiments.processes.ray_head import ADDRESS
from experiments.project import CONFIG_DIR
from experiments.store import code_copy
from experiments.variables import CLUSTER, FORK_SOCKET, RAY_ADDRESS, RAY_QUIET

# Arguments of a command that may decide whether its runs use these processes: with one, nothing is started early.
DECIDING = (
    "-c", "--c", "show", "hydra/launcher", "hydra.launcher", "experiment", "trainer.device", "hardware=",
    "hardware.fast=",
)  # fmt: skip
LOCAL = CONFIG_DIR / "local" / "default.yaml"  # the user's own defaults, which may decide that too
# A training allocates and frees the same hundreds of megabytes in every micro-batch. glibc would give them back to the
# kernel and have them zeroed again each time, which takes a tenth of a step.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


class ForkServer(Helper):
    """A fork server that is starting (see fork_server.py)."""

    def __init__(self) -> None:
        arguments = ["-m", "experiments.processes.fork_server", "{folder}/socket", str(os.getpid())]
        super().__init__("fork", "socket", arguments, KEEP_MEMORY)
        # A copy: a run may execute an older copy of the code, in which the client lies elsewhere.
        self.client = str(shutil.copy(fork_client.__file__, self.folder))


class RayCluster(Helper):
    """A Ray cluster that is starting with these options of ray.init."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        arguments = ["-m", "experiments.processes.ray_head", "{folder}", str(os.getpid()), json.dumps(options)]
        own = {} if ray_token.is_chosen(os.environ) else {ray_token.PATH: f"{{folder}}/{ray_token.NAME}"}
        super().__init__("ray", ADDRESS, arguments, {**RAY_QUIET, **own})

    @property
    def token(self) -> dict[str, str]:
        """The variable by which a run finds the cluster's token, unless the user has chosen one."""
        file = self.folder / ray_token.NAME
        return {ray_token.PATH: str(file)} if file.exists() else {}


class Standby:
    """The fork server of one command, and a Ray cluster for each place where it executes runs.

    `close` ends them, `prepare` may start them again.
    """

    def __init__(self) -> None:
        self.server: ForkServer | None = None
        self.clusters: dict[int, RayCluster] = {}

    def guess(self, arguments: Sequence[str]) -> None:
        """Start the fork server if no argument of the command decides whether one is needed.

        The first composed config decides it for certain, seconds later: `foresee` then corrects a wrong guess.
        """
        decided = any(argument.lstrip("+~").startswith(DECIDING) for argument in arguments)
        if sys.platform == "linux" and not decided and not LOCAL.exists():
            self._start_server()

    def foresee(self, config: Mapping[str, Any]) -> None:
        """Start what a run with this config will need; the plan may still refuse the run.

        UserError if the machine can't hold the processes of a run.
        """
        check_machine()
        if is_wanted(config):
            self._start_server()
            if 0 not in self.clusters:
                self.clusters[0] = RayCluster(ray_options(config))
        else:
            self.close()

    def prepare(self, configs: Sequence[Mapping[str, Any]]) -> None:
        """Start what the runs with these resolved configs need and what has not been started yet.

        UserError if the machine can't hold the processes of a run.
        """
        check_machine()
        fast = [config for config in configs if is_wanted(config)]
        if fast:
            self._start_server()
            self._provide(0, ray_options(fast[0]))
        else:
            self.close()

    def is_ready(self, config: Mapping[str, Any], place: int = 0) -> bool:
        """Return whether what a run at a place needs is ready; start what is not there. HelperEnded if it failed."""
        if self.server is None or not is_wanted(config):
            return True
        self._start_server()
        cluster = self._provide(place, ray_options(config))
        return self.server.is_ready() and cluster.is_ready()

    def python(self, config: Mapping[str, Any], code: Path, place: int = 0) -> tuple[list[str], dict[str, str]]:
        """Return the command that stands for `python` in a run, and the variables that the run needs beside it.

        `code`: the copy of the code that the run executes (store/code_copy.py).
        """
        copy = code_copy.variables(code)
        if self.server is None or not is_wanted(config):
            return [sys.executable, "-P"], copy  # a folder of the working directory must not shadow a package
        self._start_server()
        cluster = self._provide(place, ray_options(config))
        socket = str(self.server.wait())
        address = cluster.wait().read_text()
        variables = {**copy, FORK_SOCKET: socket, RAY_ADDRESS: address, CLUSTER: str(cluster.folder), **cluster.token}
        return [sys.executable, "-S", "-E", self.server.client, socket], variables

    def ending(self, place: int = 0) -> str | None:
        """Return in words which process of a place ended by itself; None if both live, or were not started."""
        # The fork server first: if it ends, so do all processes of the run.
        said = (helper.ending() for helper in (self.server, self.clusters.get(place)) if helper is not None)
        return next((words for words in said if words is not None), None)

    def drop_cluster(self, place: int = 0) -> None:
        """End a place's Ray cluster, in which a failed run may have left anything; the next run gets a new one."""
        if place in self.clusters:
            self.clusters.pop(place).close()

    def close(self) -> None:
        """End all processes."""
        for place in list(self.clusters):
            self.drop_cluster(place)
        if self.server is not None:
            self.server.close()
            self.server = None

    def _start_server(self) -> None:
        if self.server is not None and self.server.ending() is not None:  # a run before this one lost it
            self.server.close()
            self.server = None
        self.server = self.server or ForkServer()

    def _provide(self, place: int, options: dict[str, Any]) -> RayCluster:
        """Return a place's cluster with these options: the present one if it has them and lives, else a new one."""
        present = self.clusters.get(place)
        if present is not None and (options != present.options or present.ending() is not None):
            self.drop_cluster(place)
        if place not in self.clusters:
            self.clusters[place] = RayCluster(options)
        return self.clusters[place]


def is_wanted(config: Mapping[str, Any]) -> bool:
    """Return whether a run is started from the fork server, on the shared Ray cluster.

    A run on a GPU is not, nor one with hardware.fast=false (plain processes), nor any on macOS, where a process that
    has loaded its frameworks cannot be forked safely.
    """
    return sys.platform == "linux" and bool(config["hardware"]["fast"]) and config["trainer"]["device"] == "cpu"


def ray_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the cluster of a run: its ray.init options, without the environment of its processes."""
    given = config["ray_kwargs"]["ray_init"]
    if isinstance(given, DictConfig):  # a config that was composed and not resolved yet
        given = OmegaConf.to_container(given, resolve=True)
    options = {key: value for key, value in given.items() if key != "runtime_env"}
    if options.get("num_cpus", 0) is None:  # Ray would count the machine's
        options["num_cpus"] = cpus_offered(config, None)
    return options
