"""Test experiments/verl_plugin/training/worker.py: the process group of a training worker on a CPU."""

from __future__ import annotations

import socket

import pytest
import torch
from verl.single_controller.base import Worker
from verl.workers.engine_workers import TrainingWorker

from experiments.verl_plugin.training import worker


def test_one_rank_alone_does_without_the_port_that_was_chosen_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "get_device_name", lambda: "cpu")
    monkeypatch.setattr(Worker, "__init__", lambda self: None)
    monkeypatch.setattr(TrainingWorker, "__init__", lambda self, config: None)
    threads = torch.get_num_threads()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": taken.getsockname()[1]}
        for name, value in place.items():
            monkeypatch.setenv(name, str(value))
        try:
            worker.PluginTrainingWorker(None)
            number = torch.tensor([3.0])
            torch.distributed.all_reduce(number, group=torch.distributed.new_group([0]))
            assert number == 3 and torch.distributed.get_world_size() == 1
        finally:
            torch.distributed.destroy_process_group()
            torch.set_num_threads(threads)
