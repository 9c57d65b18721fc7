"""launchers/places.py, machine.py and device_locks.py: how many runs at once, on which GPUs, and who waits for whom."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.errors import UserError
from experiments.launchers import device_locks, machine, places
from experiments.launchers.device_locks import DeviceLock, lock_device
from experiments.launchers.machine import Gpus
from experiments.launchers.places import GIB, Machine, Place, Places, at_once, outlook, threads_for
from experiments.planning.cost import kind_of

WIDE = 1000 * GIB


def config(device: str = "cpu", ranks: int = 1, parameters: int | None = None, fast: bool = True) -> dict[str, Any]:
    return {
        "trainer": {"device": device, "n_gpus_per_node": ranks},
        "hardware": {"fast": fast},
        "model": {"parameters": parameters},
    }


def eight(count: int = 8) -> Machine:
    return Machine(cores=16, memory=WIDE, gpus=Gpus(tuple(map(str, range(count))), "the test"))


# How many at once


@pytest.mark.parametrize(
    ("here", "runs", "expected"),
    [
        (Machine(2, WIDE, None), [config()] * 4, 2),
        (Machine(10, WIDE, None), [config()] * 4, 4),
        (Machine(10, 6 * GIB, None), [config()] * 4, 2),
        (Machine(10, GIB, None), [config()] * 4, 1),
        (Machine(4, WIDE, None), [config(ranks=2)] * 4, 2),
        (Machine(8, 40 * GIB, None), [config(parameters=500_000_000)] * 4, 2),
        (Machine(8, 40 * GIB, None), [config(fast=False)] * 8, 8),
        (eight(), [config("cuda")] * 12, 8),
        (eight(), [config("cuda", 2)] * 12, 4),
        (eight(), [config("cuda", 3)] * 12, 2),
        (eight(), [config("cuda", 2)] * 3, 3),
        (Machine(8, WIDE, None), [config("cuda")] * 3, 1),
        (Machine(8, WIDE, None), [], 1),
    ],
)
def test_as_many_runs_as_there_is_room_for(here: Machine, runs: list[Any], expected: int) -> None:
    assert at_once(runs, None, here) == expected


@given(st.integers(1, 64), st.integers(0, 200), st.integers(1, 8), st.integers(1, 40))
def test_what_runs_at_once_never_asks_for_more_than_there_is(cores: int, gib: int, ranks: int, runs: int) -> None:
    here = Machine(cores, gib * GIB, None)
    number = at_once([config(ranks=ranks)] * runs, None, here)
    assert 1 <= number <= runs
    assert number == 1 or (number * ranks <= cores and number * places.memory_of(config(ranks=ranks), {}) <= gib * GIB)
    assert threads_for(number, here) * number <= max(cores, number)


@pytest.mark.parametrize("jobs", [0, -1, 1.5, True, "two"])
def test_jobs_must_be_a_number_of_runs(jobs: Any) -> None:
    with pytest.raises(UserError, match=r"hydra\.launcher\.jobs must be null or a whole number of at least 1, but is"):
        at_once([config()], jobs, Machine(2, WIDE, None))


def test_more_jobs_than_fit_are_told_with_the_number_that_fits() -> None:
    with pytest.raises(UserError) as refused:
        at_once([config("cuda", 2)] * 9, 5, eight())
    assert str(refused.value) == (
        "hydra.launcher.jobs must be at most 4, since 8 GPUs can be used and a run takes 2, but is 5; "
        "set hydra.launcher.jobs=4"
    )
    with pytest.raises(UserError, match=r"at most 2, since 6\.0 GiB of memory are free and a run takes 2\.5 GiB"):
        at_once([config()] * 9, 3, Machine(16, 6 * GIB, None))
    assert at_once([config()] * 9, 2, Machine(1, 6 * GIB, None)) == 2, "more than there are cores, if it is asked for"


def test_memory_that_like_runs_took_counts_instead_of_the_estimate() -> None:
    plain, fast = config(fast=False), config()
    here = Machine(16, 9 * GIB, None, peaks={kind_of(plain): 2 * GIB})
    assert at_once([plain] * 9, None, here) == 4, "9 / (1.1 x 2)"
    assert at_once([fast] * 9, None, here) == 3, "another kind, 2.5 each"
    with pytest.raises(UserError, match=r"at most 4, since 9\.0 GiB of memory are free and a run takes 2\.2 GiB"):
        at_once([plain] * 9, 5, here)
    waits = Places(3, None, lambda: 2 * GIB, here.peaks)
    assert isinstance(waits.take(plain, "first"), Place)
    assert waits.take(plain, "second") == "memory: 2.0 GiB are free, and it takes 2.2 GiB"


@pytest.mark.parametrize(("names", "source"), [((), "CUDA_VISIBLE_DEVICES="), (("0",), "nvidia-smi")])
def test_a_run_that_needs_more_gpus_than_there_are_is_refused(names: tuple[str, ...], source: str) -> None:
    with pytest.raises(UserError) as refused:
        at_once([config("cuda", 2)], None, Machine(8, WIDE, Gpus(names, source)))
    assert str(refused.value).startswith(
        f"hardware.gpus_per_node must be at most {len(names)}, the GPUs that this process may use ({source}), but is 2"
    )


def planned(device: str, memory: Any = None) -> Any:
    run = config(device)
    run["hardware"]["memory_gib"] = memory
    return SimpleNamespace(config=run, action="start")


def test_a_torch_without_gpus_is_told_before_a_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tests' own torch is built for CPUs; the other is one that version.py of a build for CUDA tells."""
    assert not machine.torch_knows_gpus()
    here = Machine(8, WIDE, Gpus(("0",), "the test"))
    with pytest.raises(
        UserError, match=r"^torch must be built for CUDA to train on GPUs, but the installed one is built"
    ):
        outlook([planned("cuda")], None, here, starting=True)
    outlook([planned("cuda")], None, here, starting=False)  # a plan may be for another machine
    outlook([planned("cpu")], None, here, starting=True)
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n")
    spec = SimpleNamespace(origin=str(tmp_path / "torch" / "__init__.py"))
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: spec)
    assert machine.torch_knows_gpus()
    outlook([planned("cuda")], None, Machine(8, WIDE, Gpus(("0",), "the test")), starting=True)
    (tmp_path / "torch" / "version.py").unlink()
    assert machine.torch_knows_gpus(), "nobody can tell"


def test_gpus_with_less_memory_than_the_preset_says_are_told_before_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, GPU-a, 81559'\necho '1, GPU-b, 40960'\necho '2, GPU-c, [N/A]'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    here = Machine(8, WIDE, Gpus(("0",), "the test"), torch_knows_gpus=True)
    for visible in ("0", "2", "GPU-a"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        outlook([planned("cuda", 79)], None, here, starting=True)
    for visible in ("1", "GPU-b", "0,1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with pytest.raises(UserError) as refused:
            outlook([planned("cuda", 79)], None, here, starting=True)
        assert str(refused.value) == (
            "hardware.memory_gib must be at most 40, the GiB of a GPU of this node (nvidia-smi), but is 79; "
            "set hardware.memory_gib=40, or choose hardware= for what is here"
        )
        outlook([planned("cuda", 40)], None, here, starting=True)
        outlook([planned("cuda", 79)], None, here, starting=False)
    monkeypatch.setenv("PATH", "/nowhere")
    outlook([planned("cuda", 79)], None, here, starting=True)


# What the machine has


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("0,1", ("0", "1")),
        (" 3 , 5 ", ("3", "5")),
        ("GPU-8932f937,MIG-GPU-1/2/0", ("GPU-8932f937", "MIG-GPU-1/2/0")),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),
    ],
)
def test_the_visible_gpus_are_named_as_the_variable_names_them(
    value: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(machine.VISIBLE, value)
    assert machine.gpus() == Gpus(names, f"CUDA_VISIBLE_DEVICES={value}")


def stand_in(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv(machine.VISIBLE, raising=False)


def test_without_the_variable_nvidia_smi_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "echo '0, GPU-aaa'; echo '1, GPU-bbb'", monkeypatch)
    assert machine.gpus() == Gpus(("0", "1"), "nvidia-smi")
    stand_in(tmp_path, "echo 'driver mismatch' >&2; exit 9", monkeypatch)
    assert machine.gpus() is None


# Locks


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Locks in a folder of the test's own."""
    monkeypatch.setattr(device_locks, "FOLDER", tmp_path / "locks")
    monkeypatch.setattr(device_locks.lock_device, "__defaults__", (tmp_path / "locks",))
    return tmp_path / "locks"


def test_two_runs_at_once_get_other_gpus_and_give_them_back() -> None:
    here = Places(2, Gpus(("4", "5", "6", "7"), "the test"))
    first, second = (here.take(config("cuda", 2), "a run") for _ in range(2))
    assert isinstance(first, Place) and isinstance(second, Place)
    assert (first.gpus, second.gpus) == (("4", "5"), ("6", "7")) and first.number != second.number
    assert here.take(config("cuda", 2), "a run") == "its turn"
    here.give_back(first)
    third = here.take(config("cuda", 1), "a run")
    assert isinstance(third, Place) and third.gpus == ("4",) and third.number == first.number


OTHER = """
import sys, time
from pathlib import Path
from experiments.launchers.device_locks import lock_device
lock = lock_device(sys.argv[2], "another run", Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(600)
"""


def test_another_launcher_s_gpus_are_left_alone_until_it_ends_in_whatever_way(folder: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", OTHER, str(folder), "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        here = Places(2, Gpus(("0", "1"), "the test"))
        told = here.take(config("cuda", 2), "my run")
        assert isinstance(told, str) and f"process {other.pid} has it for another run" in told and "GPU 0" in told
        place = here.take(config("cuda", 1), "my run")
        assert isinstance(place, Place) and place.gpus == ("1",)
    finally:
        other.kill()
        other.wait()
    place = here.take(config("cuda", 1), "my run")
    assert isinstance(place, Place) and place.gpus == ("0",)


def test_an_index_and_the_uuid_of_one_gpu_have_one_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "echo '0, GPU-aaa'; echo '1, GPU-bbb'", monkeypatch)
    held = lock_device("1", "a run")
    assert isinstance(held, DeviceLock)
    assert isinstance(lock_device("GPU-bbb", "another"), str) and isinstance(
        lock_device("GPU-aaa", "another"), DeviceLock
    )
    held.release()
    assert isinstance(lock_device("GPU-bbb", "another"), DeviceLock)


def test_under_memory_pressure_no_further_run_is_started() -> None:
    free = [100 * GIB]
    here = Places(3, None, lambda: free[0])
    assert isinstance(here.take(config(), "a"), Place)
    free[0] = GIB
    told = here.take(config(), "b")
    assert told == "memory: 1.0 GiB are free, and it takes 2.5 GiB"
    free[0] = 3 * GIB
    assert isinstance(here.take(config(), "b"), Place)
    empty = Places(3, None, lambda: 0)
    assert isinstance(empty.take(config(), "a"), Place), "one run is always tried"


def test_a_run_that_must_be_alone_waits_for_the_others_and_they_for_it() -> None:
    here = Places(3, None, lambda: WIDE)
    first = here.take(config(), "a")
    assert isinstance(first, Place) and here.take(config(), "b", alone=True) == "its turn"
    here.give_back(first)
    alone = here.take(config(), "b", alone=True)
    assert isinstance(alone, Place) and here.take(config(), "c") == "its turn"
    here.give_back(alone)
    assert isinstance(here.take(config(), "c"), Place) and isinstance(here.take(config(), "d"), Place)
