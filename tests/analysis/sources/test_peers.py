"""The analysis beside openrlbenchmark, unmodified, on the same runs."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from analysis.sources.graphql import Server
from analysis.sources.wandb_api import WandbProject
from tests.analysis.wandb_server import ENTITY, KEY, PROJECT, ServedRun, WandbServer

PEERS = Path(sys.prefix) / "peers"  # made by `make test`, see peers.txt

# As its command line pulls runs; one metric, which is all it can ask for.
OPENRLBENCHMARK = f"""
import json, sys, time, resource
began = time.perf_counter()
from openrlbenchmark.rlops import Runset, create_hypothesis
names = dict(custom_exp_name_key="exp", exp_name="abl", custom_env_id_key="env", env_id="countdown")
runset = Runset("arm", {ENTITY!r}, {PROJECT!r}, sys.argv[2], custom_xaxis_key="group/step", **names)
runs = create_hypothesis(runset).runs
curves = sorted(run.df[["global_step", "charts/episodic_return"]].values.tolist() for run in runs)
open(sys.argv[1], "w").write(json.dumps(curves))
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_openrlbenchmark_draws_the_same_curves_from_the_same_server(tmp_path: Path) -> None:
    assert PEERS.is_dir(), "openrlbenchmark must be installed beside the project; do: make test"
    draw = random.Random(3)
    arm = {"env": "countdown", "exp": "abl"}
    runs = [
        ServedRun(
            f"run{seed}",
            [(step, {"_runtime": step, "group/step": step, "group/acc": draw.random()}) for step in range(length)],
            config={**arm, "seed": seed},
        )
        for seed, length in ((1, 40), (2, 40), (3, 25))
    ]
    other = ServedRun("other", [(0, {"group/step": 0, "group/acc": 9.0})], config={**arm, "env": "another"})
    with WandbServer([*runs, other]) as server:
        records, warnings = WandbProject(ENTITY, PROJECT, [], tmp_path, Server(server.url, KEY)).read()
        quiet = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}
        account = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        done = subprocess.run(
            [sys.executable, "-c", OPENRLBENCHMARK, tmp_path / "theirs.json", "group/acc"],
            capture_output=True,
            text=True,
            env={**os.environ, **quiet, **account, "PYTHONPATH": str(PEERS)},
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    theirs = json.loads((tmp_path / "theirs.json").read_text())
    ours = [record.history.curve("group/acc") for record in records if record.config["env"] == "countdown"]
    assert warnings == [] and sorted(map(len, theirs)) == [25, 40, 40]
    assert theirs == sorted([[step, value] for step, value in curve] for curve in ours)
