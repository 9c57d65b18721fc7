"""processes/ray_cpus.py and attempt/ray_waits.py with a real Ray: what a run of each preset asks for at its start."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any

import ray
import transfer_queue
from omegaconf import OmegaConf
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group
from verl.single_controller.ray.base import ResourcePoolManager

from experiments.attempt.ray_waits import ray_waits
from experiments.processes.ray_cpus import CPUS_OF_A_GPU, cpus_needed, storage_units
from experiments.project import CONFIG_DIR

Resolve = Callable[..., dict[str, Any]]
LARGE = 64


def start_workers(config: dict[str, Any]) -> Any:
    """Make veRL's placement groups, as its trainer does before anything else; return them."""
    trainer = config["trainer"]
    spec = {"global_pool": [trainer["n_gpus_per_node"]] * trainer["nnodes"]}
    manager = ResourcePoolManager(resource_pool_spec=spec, mapping={})
    manager.create_resource_pool()
    return manager.resource_pool_dict["global_pool"].get_placement_groups(device_name="cpu")


def all_but(left: int) -> bool:
    """Return whether so many CPUs become free; Ray learns some time later what a node has given away."""
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0.0) != left and time.monotonic() < deadline:
        time.sleep(0.1)
    return ray.available_resources().get("CPU", 0.0) == left


def test_each_preset_starts_with_the_cpus_that_are_counted(resolved: Resolve) -> None:
    """The counted CPUs are as many as are taken: none is left, and with one less Ray waits, and says for what.

    Presets that ask for the same are one. The transfer queue is started once, for the units that all GPU presets have.
    """
    names = sorted(file.stem for file in (CONFIG_DIR / "hardware").glob("*.yaml"))
    configs = {name: resolved(f"hardware={name}", "model=qwen2.5-3b") for name in names if name[0] in "ah"}
    distinct = {(c["trainer"]["nnodes"], c["trainer"]["n_gpus_per_node"]): c for c in configs.values()}
    assert sorted(distinct) == [(1, 1), (1, 2), (1, 4), (1, 8), (2, 8)]
    assert {storage_units(config) for config in configs.values()} == {2}
    folder = tempfile.mkdtemp(dir="/tmp")
    node = {"num_cpus": LARGE, "num_gpus": 8, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "temp_dir": folder})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        transfer_queue.init(OmegaConf.create(distinct[1, 1]["transfer_queue"]))
        assert all_but(LARGE - 1 - 2)
        for (nodes, gpus), config in sorted(distinct.items()):
            needed = cpus_needed(config)
            if nodes == 2:  # the head has both storage units already, so this node keeps one CPU for its own, and one
                cluster.add_node(**{**node, "num_cpus": needed})
            rest = placement_group([{"CPU": LARGE - (needed + nodes - 1)}])
            ray.get(rest.ready())
            if gpus == 1:
                tight = placement_group([{"CPU": 1}])
                ray.get(tight.ready())
                blocked = placement_group([{"CPU": CPUS_OF_A_GPU, "GPU": 1}], strategy="STRICT_PACK")
                assert not blocked.wait(2)
                said = str(ray_waits())
                assert "a placement group of 1 x {CPU: 3, GPU: 1}" in said and "2 of 64 CPUs, 8 of 8 GPUs" in said
                remove_placement_group(blocked)
                remove_placement_group(tight)
            groups = start_workers(config)
            assert all_but(0 if nodes == 1 else 2)
            for group in (*groups, rest):
                remove_placement_group(group)
        assert ray_waits() is None
    finally:
        transfer_queue.close()
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
