"""launchers/local.py with real processes: several launchers in one runs folder, and cancelled runs.

The attempts are stand-ins: they follow the same rules (lock, events, checkpoint pointer) and take half a second.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from experiments.runs.clean import clean
from experiments.store.events import Event
from experiments.store.rundir import RunDir, find_runs

WaitFor = Callable[..., None]

ATTEMPT = """
import os, signal, sys, time
from pathlib import Path
from experiments.store.files import write_atomically
from experiments.store.rundir import RunDir
module, folder, steps = sys.argv[2], sys.argv[3], int(sys.argv[5])
run = RunDir(Path(folder))
if os.environ["SECONDS_A_RUN"] == "broken":
    sys.exit("it can't start")
hangs = run.path.name == os.environ["HANGS"]
with run.lock():
    attempt = run.new_attempt()
    def interrupted(number, frame):
        run.record("interrupted", attempt=attempt.number)
        os._exit(130)
    signal.signal(signal.SIGTERM, interrupted)
    run.record("started", attempt=attempt.number, pid=os.getpid(), host=os.uname().nodename, steps=steps)
    deadline = time.monotonic() + float(os.environ["SECONDS_A_RUN"])
    while hangs or time.monotonic() < deadline:
        time.sleep(0.01)
    run.checkpoints.mkdir(exist_ok=True)
    write_atomically(run.checkpoints / "latest_checkpointed_iteration.txt", str(steps))
    run.record("finished", attempt=attempt.number, step=steps)
"""

LAUNCHER = """
import dataclasses, os, sys
from pathlib import Path
from omegaconf import OmegaConf
from experiments.launchers.local import Queue
from experiments.launchers.machine import Gpus
from experiments.launchers.places import Places
from experiments.processes.standby import Standby
from experiments.planning.plan import PlannedRun
from experiments.launchers.progress import Progress
from experiments.store.rundir import RunDir


class Given(Standby):
    def python(self, config, code, place=0):
        return [sys.executable, sys.argv[2]], {}


fields = {field.name for field in dataclasses.fields(PlannedRun)}
runs = []
for name in sys.argv[3:]:
    run = RunDir(Path(sys.argv[1]) / name)
    parameters = 10**15 if name == os.environ["TOO_LARGE"] else 1
    config = {
        "seed": 1,
        "model": {"path": "none", "parameters": parameters},
        "algorithm": {"adv_estimator": "grpo"},
        "actor_rollout_ref": {"actor": {"checkpoint": {"save_contents": ["model"]}}},
        "trainer": {
            "max_actor_ckpt_to_keep": 2, "save_freq": 1, "total_training_steps": 4,
            "device": "cuda" if os.environ["GPUS"] else "cpu", "n_gpus_per_node": int(os.environ["GPUS_A_RUN"]),
        },
        "hardware": {"fast": True},
    }
    run.create("seed: 1\\n", {})
    run.record("launched", steps=4)
    given = dict(name=name, folder=run, config=config, verl=OmegaConf.create(config), steps=4)
    runs.append(PlannedRun(**given, state="planned", reached=0))
print("planned", flush=True)
sys.stdin.readline()
names = tuple(filter(None, os.environ["GPUS"].split(",")))
places = Places(int(os.environ["AT_ONCE"]), Gpus(names, "the test") if names else None)
with Progress(runs) as progress:
    codes = Queue(Path("unused"), progress, Given(), places, 1).work(runs)
sys.exit(130 if 130 in codes else any(codes))
"""

NAMES = ("a-00000001", "b-00000002", "c-00000003")


class Launchers:
    """Starts launchers of the same runs. Each waits for `go` before it starts its first run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs_dir = folder, folder / "runs"
        (folder / "attempt.py").write_text(ATTEMPT)
        self.processes: list[subprocess.Popen[str]] = []

    def start(
        self, seconds_a_run: float | str = 0.5, too_large: str = "", hangs: str = "", **more: object
    ) -> subprocess.Popen[str]:
        """Start a launcher; return it once its runs are planned.

        `too_large`: the run for which no disk has room; `hangs`: the run that does not end by itself. `more`: further
        variables of its environment.
        """
        given = {"AT_ONCE": 1, "GPUS": "", "GPUS_A_RUN": 1, **more}
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(self.runs_dir), str(self.folder / "attempt.py"), *NAMES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                **{name: str(value) for name, value in given.items()},
                "SECONDS_A_RUN": str(seconds_a_run),
                "TOO_LARGE": too_large,
                "HANGS": hangs,
            },
        )
        self.processes.append(process)
        assert process.stdout is not None and process.stdout.readline() == "planned\n"
        return process

    def go(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def run(self, name: str) -> RunDir:
        return RunDir(self.runs_dir / name)


@pytest.fixture
def launchers(tmp_path: Path) -> Iterator[Launchers]:
    launchers = Launchers(tmp_path)
    yield launchers
    for process in launchers.processes:
        process.kill()
        process.communicate()


def attempts(launchers: Launchers) -> dict[str, list[str]]:
    """Return, for each run, its events from its first start on."""
    words = {run.path.name: [event["event"] for event in run.events()] for run in find_runs(launchers.runs_dir)}
    return {name: [word for word in all_ if word not in ("planned", "launched")] for name, all_ in words.items()}


def test_two_launchers_of_the_same_runs_start_each_once(launchers: Launchers) -> None:
    both = [launchers.start(), launchers.start()]
    launchers.go()
    printed = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert attempts(launchers) == {name: ["started", "finished"] for name in NAMES}
    assert sum(text.count("running already") + text.count("in the meantime") for text in printed) == 3
    assert [event["event"] for event in launchers.run(NAMES[0]).events()].count("planned") == 1


def test_a_killed_launcher_s_runs_are_taken_over(launchers: Launchers, wait_for: WaitFor) -> None:
    first = launchers.start(seconds_a_run=300)
    launchers.go()
    run = launchers.run(NAMES[0])
    wait_for(lambda: run.state() == "running", "the first run starts")
    first.kill()
    first.wait()
    os.kill(next(event["pid"] for event in run.events() if event["event"] == "started"), signal.SIGKILL)
    wait_for(lambda: run.state() == "killed", "the attempt dies")
    launchers.processes.remove(first)
    second = launchers.start()
    launchers.go()
    assert second.wait(60) == 0
    found = attempts(launchers)
    assert found[NAMES[0]] == ["started", "started", "finished"]
    assert found[NAMES[1]] == found[NAMES[2]] == ["started", "finished"]


def test_a_run_that_lives_on_without_its_launcher_is_left_alone(launchers: Launchers, wait_for: WaitFor) -> None:
    first = launchers.start(seconds_a_run=300)
    launchers.go()
    run = launchers.run(NAMES[0])
    wait_for(lambda: run.state() == "running", "the first run starts")
    first.kill()
    first.wait()
    launchers.processes.remove(first)
    pid = next(event["pid"] for event in run.events() if event["event"] == "started")
    try:
        second = launchers.start()
        launchers.go()
        printed = second.communicate(timeout=60)[0]
        assert second.returncode == 0, printed
        assert run.state() == "running", "the living attempt was ended"
        assert attempts(launchers)[NAMES[1]] == ["started", "finished"]
    finally:
        os.kill(pid, signal.SIGKILL)


def test_the_checkpoints_of_a_run_that_waits_for_its_turn_are_not_cleaned(
    launchers: Launchers, wait_for: WaitFor, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run is finished, and the launcher is about to extend it."""
    waits = launchers.run(NAMES[1])
    waits.create("seed: 1\n", {})
    waits.record(Event.STARTED, attempt=1)
    waits.record(Event.FINISHED, attempt=1, step=2)
    shard = waits.checkpoints / "global_step_2" / "actor" / "model.pt"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"weights")
    first = launchers.start(seconds_a_run=300)
    launchers.go()
    wait_for(lambda: launchers.run(NAMES[0]).state() == "running", "the first run starts")
    assert clean([waits], named=True, yes=True) == 0
    assert "left alone" in capsys.readouterr().out and shard.is_file()
    pid = next(event["pid"] for event in launchers.run(NAMES[0]).events() if event["event"] == "started")
    first.kill()
    first.wait()
    os.kill(pid, signal.SIGKILL)
    assert clean([waits], named=True, yes=True) == 0 and not shard.exists(), "no launcher is left"


def test_what_is_cancelled_while_it_waits_is_not_started(launchers: Launchers) -> None:
    only = launchers.start()
    launchers.run(NAMES[1]).record("cancelled")
    launchers.go()
    printed = only.communicate(timeout=60)[0]
    assert "cancelled in the meantime" in printed
    found = attempts(launchers)
    assert found[NAMES[1]] == ["cancelled"]
    assert found[NAMES[0]] == found[NAMES[2]] == ["started", "finished"]


def test_an_attempt_that_is_ended_from_outside_does_not_end_the_sweep(launchers: Launchers, wait_for: WaitFor) -> None:
    only = launchers.start(hangs=NAMES[0])
    launchers.go()
    run = launchers.run(NAMES[0])
    wait_for(lambda: run.state() == "running", "the first run starts")
    os.kill(next(event["pid"] for event in run.events() if event["event"] == "started"), signal.SIGTERM)
    printed = only.communicate(timeout=60)[0]
    assert only.returncode == 1, printed
    found = attempts(launchers)
    assert found[NAMES[0]][-1] == "interrupted"
    assert found[NAMES[1]] == found[NAMES[2]] == ["started", "finished"]


def test_deleted_folders_of_a_run_and_of_one_that_waits_do_not_end_the_sweep(
    launchers: Launchers, wait_for: WaitFor
) -> None:
    only = launchers.start(hangs=NAMES[0])
    launchers.go()
    run = launchers.run(NAMES[0])
    wait_for(lambda: run.state() == "running", "the first run starts")
    pid = next(event["pid"] for event in run.events() if event["event"] == "started")
    for name in NAMES[:2]:
        shutil.rmtree(launchers.run(name).path)
    printed = only.communicate(timeout=60)[0]
    assert only.returncode == 1 and "Traceback" not in printed, printed
    for name in NAMES[:2]:
        assert f"{name} failed: error:" in printed, printed
    assert "somebody deleted it" in printed and not psutil.pid_exists(pid)
    assert attempts(launchers) == {NAMES[2]: ["started", "finished"]}


def test_an_attempt_that_dies_before_it_starts_is_a_failure(launchers: Launchers) -> None:
    only = launchers.start(seconds_a_run="broken")
    launchers.go()
    printed = only.communicate(timeout=60)[0]
    assert only.returncode == 1 and printed.count("it can't start") == 3
    assert attempts(launchers) == {name: ["failed"] for name in NAMES}
    assert launchers.run(NAMES[0]).events()[-1]["cause"] == "the attempt ended with 1 before it started"


def test_a_run_that_the_disk_has_no_room_for_is_told_and_the_others_go_on(launchers: Launchers) -> None:
    """The free disk is checked before every run, because the runs before it may have filled the disk."""
    only = launchers.start(too_large=NAMES[1])
    launchers.go()
    printed = only.communicate(timeout=60)[0]
    assert only.returncode == 1 and "Traceback" not in printed
    found = attempts(launchers)
    assert found == {NAMES[0]: ["started", "finished"], NAMES[1]: ["failed"], NAMES[2]: ["started", "finished"]}
    failed = launchers.run(NAMES[1]).events()[-1]
    assert failed["kind"] == "disk full" and " free, but has " in failed["cause"]
    assert failed["remedy"].startswith("make room")


# Side by side


def overlapping(launchers: Launchers) -> int:
    """Return how many attempts were under way at the same time, at most."""
    moments = []
    for run in find_runs(launchers.runs_dir):
        for event in run.events():
            if event["event"] in ("started", "finished", "interrupted", "failed"):
                moments.append((event["time"], 1 if event["event"] == "started" else -1))
    under_way = most = 0
    for _, change in sorted(moments):
        under_way += change
        most = max(most, under_way)
    return most


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_as_many_runs_at_once_as_there_are_places(launchers: Launchers, at_once: int) -> None:
    only = launchers.start(seconds_a_run=2.5, AT_ONCE=at_once)
    launchers.go()
    printed = only.communicate(timeout=60)[0]
    assert only.returncode == 0, printed
    assert attempts(launchers) == {name: ["started", "finished"] for name in NAMES}
    assert overlapping(launchers) == at_once


def test_a_run_that_fails_or_is_cancelled_leaves_the_others_alone(launchers: Launchers, wait_for: WaitFor) -> None:
    only = launchers.start(seconds_a_run=2, hangs=NAMES[0], AT_ONCE=2)
    launchers.go()
    hanging, run = launchers.run(NAMES[0]), launchers.run(NAMES[1])
    wait_for(lambda: hanging.state() == run.state() == "running", "two runs start")
    os.kill(next(event["pid"] for event in hanging.events() if event["event"] == "started"), signal.SIGKILL)
    printed = only.communicate(timeout=60)[0]
    assert only.returncode == 1, printed
    found = attempts(launchers)
    assert found[NAMES[0]] == ["started", "failed"]
    assert found[NAMES[1]] == found[NAMES[2]] == ["started", "finished"]


def test_ctrl_c_ends_all_at_the_same_time_and_starts_no_other(launchers: Launchers, wait_for: WaitFor) -> None:
    only = launchers.start(seconds_a_run=300, AT_ONCE=2)
    launchers.go()
    under_way = [launchers.run(name) for name in NAMES[:2]]
    wait_for(lambda: all(run.state() == "running" for run in under_way), "two runs start")
    only.send_signal(signal.SIGINT)
    printed = only.communicate(timeout=20)[0]
    assert only.returncode == 130, printed
    found = attempts(launchers)
    assert found[NAMES[0]] == found[NAMES[1]] == ["started", "interrupted"] and found[NAMES[2]] == []
    assert printed.count("interrupted, going down (it can be resumed)") == 2


def test_each_attempt_sees_its_own_gpus_and_no_other(launchers: Launchers, tmp_path: Path) -> None:
    (tmp_path / "attempt.py").write_text(ATTEMPT.replace("deadline =", SEEN + "    deadline ="))
    gpus = ["GPU-r1z-a", "GPU-r1z-b", "GPU-r1z-c", "GPU-r1z-d"]
    only = launchers.start(seconds_a_run=2, AT_ONCE=2, GPUS=",".join(gpus), GPUS_A_RUN=2)
    launchers.go()
    printed = only.communicate(timeout=60)[0]
    assert only.returncode == 0, printed
    seen = [run.events()[-2]["gpus"] for run in find_runs(launchers.runs_dir)]
    assert sorted(seen)[:2] != sorted(seen)[1:], seen
    assert set(seen) == {"GPU-r1z-a,GPU-r1z-b", "GPU-r1z-c,GPU-r1z-d"}


SEEN = 'run.record("seen", gpus=os.environ.get("CUDA_VISIBLE_DEVICES"))\n'
