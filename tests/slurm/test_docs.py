"""docs/slurm.md tells the truth: each of its commands is executed here, on a cluster like the one that it describes."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.store.rundir import RunDir, find_runs
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import use

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "slurm.md").read_text(encoding="utf-8")
RUN = "python -m experiments.run "
LATER = "+hydra.launcher.sbatch.begin=now+1hour"


def commands() -> list[str]:
    """Return the commands of the page: the lines of its blocks, and the commands inside its sentences."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    lines = [line.split("  #")[0].strip() for kind, block in blocks if not kind for line in block.splitlines()]
    typed = re.findall(r"`((?:sbatch|scontrol|pip|wandb|experiments\.runs) [^`]+)`", PAGE)
    return sorted({*filter(None, lines), *typed})


@pytest.fixture(scope="module")
def site() -> Iterator[Cluster]:
    """A cluster whose nodes have what the page's sweep asks for, in a partition named gpu and with a feature."""
    partition = "PartitionName=gpu Nodes=ALL MaxTime=2-0 State=UP\nPartitionName=cpu Nodes=ALL Default=YES State=UP"
    with Cluster(cpus=64, memory_mb=500_000, partitions=partition) as cluster:
        for node in cluster.nodes:
            cluster.run("scontrol", "update", f"NodeName={node}", "AvailableFeatures=a100", "ActiveFeatures=a100")
        yield cluster


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page's conf/local/default.yaml, written to where Hydra finds it."""
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    file = tmp_path_factory.mktemp("conf") / "local" / "default.yaml"
    file.parent.mkdir()
    file.write_text(block)
    return f"--config-dir={file.parents[1]}"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"data_dir={tmp_path_factory.mktemp('data')}"


def execute(command: str, folder: Path, *more: str) -> str:
    """Execute a `python ...` command of the page in a folder, with this Python; return what it prints."""
    arguments = [sys.executable, *shlex.split(command)[1:], *more]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sweep(settings: str) -> str:
    """Return the page's command that submits the sweep, for a user with the settings of the page."""
    (command,) = (command for command in commands() if command.startswith(f"{RUN}-m "))
    assert command.endswith(" hydra/launcher=slurm")
    return command.replace(f"{RUN}-m ", f"{RUN}-m {settings} ")


def test_a_first_job_asks_for_one_gpu(
    site: Cluster, settings: str, data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(site, monkeypatch)
    (command,) = (command for command in commands() if command.startswith(f"{RUN}experiment=smoke "))
    assert ": 1 run " in execute(command.replace(RUN, f"{RUN}{settings} "), tmp_path, LATER, data_dir)
    (asked,) = site.run("squeue", "-h", "-r", "-o", "%i %P %b").splitlines()
    job, *rest = asked.split()
    assert rest == ["gpu", "gres:gpu:1"]
    site.run("scancel", job)


@pytest.mark.parametrize("launcher", ["plan", "local"])
def test_the_settings_once_made_suit_every_launcher(
    launcher: str, settings: str, data_dir: str, tmp_path: Path
) -> None:
    command = sweep(settings).replace("launcher=slurm", f"launcher={launcher}")
    assert "3 to start" in execute(command, tmp_path, "show=plan", data_dir)


@dataclass
class Visitor:
    """A reader who follows the page on a cluster, in a folder with three runs submitted as the page says."""

    site: Cluster
    folder: Path
    runs: list[RunDir]

    def look(self, command: str) -> None:
        """Execute a command of experiments.runs: `cancel` on the first run, `logs` on the last, which has a log."""
        run = self.runs[2] if " logs " in command else self.runs[0]
        assert execute(f"python -m {command.removeprefix('python -m ')}".replace("RUN", run.id), self.folder).strip()
        assert " cancel " not in command or run.state() == "cancelled"

    def by_hand(self, command: str) -> None:
        script = self.folder / command.split()[1].replace("<name>", self.runs[0].path.name)
        self.site.run("scancel", self.site.run("sbatch", "--begin=now+1hour", script).split()[-1])

    def home(self, command: str) -> None:
        (self.runs[1].checkpoints / "global_step_1").mkdir(parents=True)
        there = self.folder / "laptop"
        there.mkdir()
        done = command.replace("cluster:project/runs/", f"{self.folder}/runs/")
        subprocess.run(shlex.split(done), cwd=there, check=True)
        assert len(find_runs(there / "runs")) == 3 and not list(there.rglob("global_step_*"))

    def release(self, command: str) -> None:
        job = self.site.run("squeue", "-h", "-r", "-o", "%A").split()[0]
        self.site.run("scontrol", "hold", job)
        self.site.run(*command.replace("JOB", job).split())

    def on_the_login_node(self, command: str) -> None:
        assert self.site.run(*shlex.split(command))

    def helps(self, command: str) -> None:
        """Only ask for the command's help, because the command itself needs a network or a key."""
        program, what = command.split()[:2]
        found = subprocess.run([Path(sys.executable).with_name(program), what, "--help"], capture_output=True)
        assert found.returncode == 0, found.stderr

    def installs(self, command: str) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extra in re.findall(r"\.\[(\w+)\]", command):
            assert extra in project["optional-dependencies"]
        for name, version in re.findall(r"([\w-]+)==([\d.]+)", command):
            assert importlib.metadata.version(name) == version

    def elsewhere(self, command: str) -> None:
        """Do nothing: another test executes the command, or it concerns the reader's own folder."""


# What the visitor does with a command, by the beginning of the command.
FOLLOWED = {
    "git clone <this project>": Visitor.elsewhere,
    "python3.11 -m venv": Visitor.installs,
    "pip install": Visitor.installs,
    "source .venv/bin/activate": Visitor.elsewhere,
    "sinfo": Visitor.on_the_login_node,
    RUN: Visitor.elsewhere,  # in the tests below
    "python -m experiments.runs list": Visitor.look,
    "python -m experiments.runs logs": Visitor.look,
    "experiments.runs show": Visitor.look,
    "scontrol hold": Visitor.elsewhere,  # `release` executes it first
    "scontrol release": Visitor.release,
    "sbatch": Visitor.by_hand,
    "rsync": Visitor.home,
    "wandb ": Visitor.helps,
    "python -m analysis.plot_ablation": Visitor.elsewhere,  # tests/test_readme.py
    "python -m experiments.runs cancel": Visitor.look,
    "experiments.runs cancel": Visitor.elsewhere,  # the same as the line before
    "experiments.runs retry": Visitor.elsewhere,  # test_holds.py
}


def test_submitted_looked_at_and_taken_home(
    site: Cluster, settings: str, data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(site, monkeypatch)
    (options,) = re.findall(r"`'(hydra\.launcher\.sbatch=[^`]+)'`", PAGE)
    values = re.findall(r"`(hydra\.launcher\.(?:time|mem)=[^`]+)`", PAGE)
    assert len(values) == 2
    here = sweep(settings).replace("model=qwen2.5-3b", "model=tiny")  # a model that needs no hub
    assert ": 3 runs" in execute(here, tmp_path, options, *values, LATER, data_dir)
    queued = site.run("squeue", "-h", "-r", "-o", "%P %a %l %m %f").splitlines()
    assert queued == ["gpu my-project 1-00:00:00 240G a100"] * 3
    runs = find_runs(tmp_path / "runs")
    assert "\nmodule load cuda\n" in (runs[0].path / "job.sh").read_text()
    runs[2].new_attempt().log.write_text("a log\n")
    runs[2].record("finished", attempt=1, step=550)
    visitor, left = Visitor(site, tmp_path, runs), commands()
    for start, follow in FOLLOWED.items():
        mine = [command for command in left if command.startswith(start)]
        assert mine, f"the page has no {start}"
        for command in mine:
            follow(visitor, command)
        left = [command for command in left if command not in mine]
    assert left == [], "a command that nobody has tried"
