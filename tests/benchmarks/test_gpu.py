"""benchmarks/gpu.py without a GPU: its cases compose and pass preflight, its arithmetic, one real run on the CPU."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
from hydra import initialize_config_dir
from rich.console import Console

from benchmarks import gpu, gpu_machine, gpu_model, gpu_record
from benchmarks.gpu_cases import ITEMS, MODEL, Case, cases
from benchmarks.gpu_machine import Machine
from experiments.config.compose import register_resolvers
from experiments.config.sweep_compose import Composer
from experiments.errors import UserError
from experiments.models.flash_attention import chosen
from experiments.project import CONFIG_DIR, PROJECT_DIR
from experiments.tiny_model import WEIGHTS
from tests.experiments.right_config import problems_of

H200 = Machine("cuda", "NVIDIA H200", gpus=1, memory_gib=140, driver="580.82.07", vllm=True, flash_attn=True)
A100 = Machine("cuda", "NVIDIA A100-SXM4-80GB", gpus=2, memory_gib=80, driver="580.82.07", vllm=True, flash_attn=True)
CPU = Machine("cpu")
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 800,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random model, in place of those that the cases would build."""
    folder = tmp_path_factory.mktemp("gpu")
    gpu_model.build(folder / "model", SMALL, gpu_model.prompts())
    return folder


@cache
def composer() -> Composer:
    """Compose what the cases share once: seconds apiece otherwise."""
    register_resolvers()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return Composer.of_running_hydra()


def composed(case: Case, folder: Path) -> dict[str, Any]:
    """Return a case's config, which must have no problem, beside a config.json of the model that it would build."""
    built = str(gpu.model_folder(case, folder))
    words = [word.replace(built, str(folder / "model")) for word in gpu.command(case, folder / "case")[4:]]
    stated = composer().compose(words).resolved()["model"]["shape"] or {}  # the model that the case would build has it
    file = folder / "model" / "config.json"
    small = file.read_text()
    file.write_text(json.dumps({**json.loads(small), "max_position_embeddings": 32768, **stated}))
    found = composer().compose(words).resolved()
    problems = problems_of(found)
    file.write_text(small)
    assert problems == [], case.name
    return found


# The cases


ARTICLE = ("ours, n=5", "article's settings")
BARE = replace(H200, vllm=False, flash_attn=False)


@pytest.mark.parametrize(
    "machine, item",
    [
        *((H200, item) for item in ITEMS),
        *((A100, item) for item in ("article", "memory")),
        (BARE, "vllm"),
        (BARE, "arms"),
        *((CPU, item) for item in ("article", "arms")),
    ],
)
def test_every_case_composes_and_passes_preflight(machine: Machine, item: str, folder: Path) -> None:
    for case in cases([item], machine):
        config = composed(case, folder)
        assert config["trainer"]["n_gpus_per_node"] == (1 if item == "tiny" else machine.gpus or 1)
        assert config["trainer"]["save_freq"] == config["trainer"]["test_freq"] == -1
        assert config["model"]["path"] in (str(WEIGHTS), str(folder / "model")), "nothing is downloaded"
        if item != "tiny" and machine.gpus:
            model = config["actor_rollout_ref"]["model"]
            assert config["model"]["path"] == str(folder / "model")
            assert config["actor_rollout_ref"]["rollout"]["name"] == ("vllm" if machine.vllm else "hf")
            assert config["actor_rollout_ref"]["rollout"]["ignore_eos"] is True
            attention = chosen(use_remove_padding=True)  # the presets see whether flash-attn is installed here
            assert model["override_config"]["attn_implementation"] == attention
            assert config["critic"]["model"]["override_config"]["attn_implementation"] == attention


def test_the_items_ask_what_they_are_for(folder: Path) -> None:
    ours, article = (composed(case, folder) for case in cases(["article"], A100))
    for config in (article, ours):
        assert (config["data"]["train_batch_size"], config["rollout"]["n"]) == (128, 5)
        assert (config["data"]["max_prompt_length"], config["data"]["max_response_length"]) == (256, 512)
    rollouts = [config["actor_rollout_ref"]["rollout"] for config in (article, ours)]
    assert [rollout["gpu_memory_utilization"] for rollout in rollouts] == [0.4, 0.65]
    assert [rollout["tensor_model_parallel_size"] for rollout in rollouts] == [2, 1]
    assert [config["actor_rollout_ref"]["actor"]["use_dynamic_bsz"] for config in (article, ours)] == [False, True]

    arms = {case.name: composed(case, folder) for case in cases(["arms"], A100)}
    assert [arm["rollout"]["n"] for arm in arms.values()] == [5, 3, 8, 5]
    assert arms["PPO"]["algorithm"]["adv_estimator"] == "gae"
    assert [composed(case, folder)["model"]["name"] for case in cases(["memory"], H200)] == [
        f"qwen2.5-{size}" for size in ("0.5b", "1.5b", "3b", "7b")
    ]
    there, here = (composed(case, folder) for case in cases(["tiny"], H200)[:2])
    assert (here["trainer"]["device"], there["trainer"]["device"]) == ("cpu", "cuda")
    for key in ("seed", "data", "algorithm", "kl", "temperature"):
        assert here[key] == there[key]
    assert [case.name for case in cases(["tiny"], CPU)] == ["grpo on cpu", "ppo on cpu"]
    for machine in (H200, CPU):
        assert {case.item for case in cases(list(ITEMS), machine)} == set(ITEMS)


def test_twelve_minutes_have_room_for_the_most_telling_runs() -> None:
    """By the estimates, what ends a run left aside."""
    first = [(case.item, case.name) for case in cases(list(ITEMS), H200)][:4]
    assert first == [("tiny", "grpo on cuda"), ("tiny", "grpo on cpu"), *(("article", name) for name in ARTICLE)]
    assert sum(case.seconds for case in cases(list(ITEMS), H200)[:4]) < 12 * 60 - 4 * gpu.CLOSING_SECONDS


def test_the_prompts_are_about_as_long_as_with_the_real_tokenizer(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    texts = gpu_model.prompts()
    lengths = [len(tokenizer.encode(text)) for text in texts]
    assert 100 < min(lengths) <= max(lengths) < 256
    assert tokenizer.decode(tokenizer.encode(texts[0])) == texts[0]
    assert len(tokenizer.encode("\n")) == 1
    assert len(tokenizer) == SMALL["vocab_size"], "an id without a token would never be sampled"
    assert tokenizer.decode([SMALL["vocab_size"] - 1]) == f"{SMALL['vocab_size'] - 1:06x}"
    config = json.loads((folder / "model" / "config.json").read_text())
    assert {key: config[key] for key in SMALL} == SMALL


# What is made of a run

ROW = {
    "timing_s/step": 20.0,
    "timing_s/gen": 0.5,  # with some managers generating is outside this timer
    "timing_s/old_log_prob": 2.0,
    "timing_s/ref": 1.0,
    "timing_s/adv": 0.5,
    "timing_s/update_actor": 5.0,
    "timing_s/update_weights": 1.5,
    "perf/throughput": 4000.0,
    "perf/mfu/actor": 0.4,
    "actor/perf/max_memory_allocated_gb": 50.5,
    "critic/score/mean": 0.25,
    "response_length/mean": 1024.0,
    "rollout_corr/log_ppl_abs_diff": 1e-3,
}


def test_a_step_is_split_by_its_timers() -> None:
    assert gpu_record.phase_seconds(ROW) == {
        "rollout": 10.0,
        "log-prob": 3.0,
        "advantage": 0.5,
        "update": 5.0,
        "weights": 1.5,
    }


def test_peaks_belong_to_the_phase_they_were_seen_in() -> None:
    """The step ends at 120: generating from 100, log-probs from 110, the update from 113.5 to 118.5."""
    samples = [(99.0, 90), (101.0, 60), (109.9, 70), (110.1, 30), (112.9, 40), (115.0, 55), (118.4, 50), (119.0, 35)]
    found = gpu_record.peaks([(120.0, ROW)], [(when, gib * 1024.0) for when, gib in samples])
    assert found == {"rollout": 70, "log-prob": 40, "update": 55, "weights": 35}
    assert gpu_record.peaks([(120.0, ROW)], []) == {}


def test_the_figures_of_a_run_leave_out_its_first_step() -> None:
    rows = [(100.0 + 20 * i, {**ROW, "timing_s/step": seconds}) for i, seconds in enumerate((60.0, 20.0, 22.0, 21.0))]
    result = gpu_record.measured(rows, [])
    assert (result["steps"], result["step_seconds"], result["allocated_gib"]) == (4, 21.0, 50.5)
    assert result["phase_seconds"]["rollout"] == 11.0
    assert result["score"] == [0.25] * 4
    assert "failed" in gpu_record.measured([], [])


def run(seconds: float, **more: Any) -> dict[str, Any]:
    return {**gpu_record.measured([(0.0, {**ROW, "timing_s/step": seconds})], []), **more}


RESULTS: dict[str, dict[str, Any]] = {
    "tiny": {
        "grpo on cpu": run(20, score=[0.1, 0.2, 0.3]),
        "grpo on cuda": run(20, score=[0.1, 0.2, 0.25], log_ppl_abs_diff=[1e-7, 2e-7, None]),
        "ppo on cpu": {"failed": "ran past its limit of 9 s"},
    },
    "article": {"article's settings": run(90), "ours, n=5": run(60)},
    "arms": {"ours, n=5": run(60), "n=3": run(39), "n=8": run(93), "PPO": {"failed": "out of memory"}},
    "memory": {
        "3B": run(30, peak_gib={"rollout": 80.0, "update": 50.0}, predicted_gib={"rollout": 84.0, "update": 45.0})
    },
}


def test_each_item_comes_to_its_figures() -> None:
    assert gpu_record.figures(RESULTS) == {
        "tiny: grpo, largest difference of the reward curves": 0.05,
        "tiny: grpo, step at which they part": 3,
        "grpo on cpu: largest log_ppl_abs_diff": 1e-3,
        "grpo on cuda: largest log_ppl_abs_diff": 2e-7,
        "article: its step over ours": 1.5,
        "arms: ours, n=5 over n=5": 1.0,
        "arms: n=3 over n=5": 0.65,
        "arms: n=8 over n=5": 1.55,
        "memory: 3B, rollout, predicted over measured": 1.05,
        "memory: 3B, update, predicted over measured": 0.9,
    }
    assert gpu_record.figures({}) == {}


def test_the_table_has_a_line_for_every_case() -> None:
    console = Console(file=io.StringIO(), width=180)
    console.print(gpu_record.table(RESULTS))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "all responses at their limit" in text

    def cells(name: str) -> list[str]:
        line = next(line for line in text.splitlines() if name in line)
        return [cell.strip() for cell in line.strip("│").split("│")][1:]

    assert cells("memory: 3B") == ["30.00", "20.00", "3.00", "5.00", "4000", "0.400", "80.0", "84.0"]
    assert cells("article: ours, n=5") == ["60.00", "50.00", "3.00", "5.00", "4000", "0.400", "50.5", "-"]
    assert cells("arms: PPO")[:2] == ["failed", "out of memory"]


# The machine


def nvidia_smi(folder: Path, output: str) -> None:
    """Put a program of that name, which prints this, on the path."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '%b' '{output}'\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)


def test_no_gpu_is_told_in_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert gpu.main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: nvidia-smi must find a GPU, but finds none; run this on a GPU node, or add --device cpu"


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvidia_smi(tmp_path, "0, GPU-a, NVIDIA H200, 143771, 550.54.15\\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so it is where there is one, too
    monkeypatch.setattr(gpu_machine, "ASK_TORCH", "print('13.0', 0)")
    with pytest.raises(UserError, match=r"torch must see the NVIDIA H200, but .* the driver is 550\.54\.15"):
        gpu_machine.find_machine("cuda")


TWO = "0, GPU-aa, NVIDIA A100, 81920, 580.1\\n1, GPU-ab, NVIDIA H200, 143771, 580.1\\n"


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (None, ["A100", "H200"]),
        ("1", ["H200"]),
        ("1,0", ["H200", "A100"]),
        ("GPU-ab", ["H200"]),
        ("3", []),
        ("0,1", None),
    ],
)
def test_the_machine_is_the_gpus_that_are_visible(
    chosen: str | None, names: list[str] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvidia_smi(tmp_path, TWO)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpu_machine, "ASK_TORCH", "print('13.0', 81000)")
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    names = ["A100", "H200"] if names is None else names
    if not names:
        with pytest.raises(UserError, match="nvidia-smi must find a GPU"):
            gpu_machine.find_machine("cuda")
        return
    machine = gpu_machine.find_machine("cuda")
    assert (machine.name, machine.gpus) == (f"NVIDIA {names[0]}", len(names))
    assert machine.memory_gib == {"A100": 80, "H200": 140}[names[0]]
    assert machine.indices == tuple({"A100": "0", "H200": "1"}[name] for name in names)
    assert (machine.device, machine.driver) == ("cuda", "580.1")


def test_memory_that_nvidia_smi_does_not_know_is_torch_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvidia_smi(tmp_path, "0, GPU-a, NVIDIA GB10, [N/A], 580.1\\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpu_machine, "ASK_TORCH", "print('13.0', 122880)")
    assert gpu_machine.find_machine("cuda").memory_gib == 120
    monkeypatch.setattr(gpu_machine, "ASK_TORCH", "import time; time.sleep(60)")
    monkeypatch.setattr(gpu_machine, "TORCH_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"torch must be imported within 0\.5 s, but is not; put the environment on"):
        gpu_machine.find_machine("cuda")


def test_a_model_is_built_by_the_command_that_a_case_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [f"model.shape.{name}={str(size).lower()}" for name, size in SMALL.items()]
    monkeypatch.setattr(sys, "argv", ["gpu_model", "qwen2.5-0.5b", str(tmp_path / "model"), *sizes])
    gpu_model.main()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert {key: config[key] for key in SMALL} == SMALL
    assert (tmp_path / "model" / "model.safetensors").stat().st_size > 2 * 16 * 800


@pytest.mark.parametrize(
    ("item", "gaps", "fails"),
    [
        ("vllm", [0.01, 0.02, None], False),
        ("vllm", [0.01, 0.3, 0.2], True),
        ("article", [float("nan")], True),
        ("tiny", [1e-7, 1e-4], False),
        ("tiny", [1e-7, 0.01], True),
        ("memory", [None], False),
        ("memory", [], False),
    ],
)
def test_a_rollout_with_other_weights_fails(item: str, gaps: list[float | None], fails: bool) -> None:
    said = gpu_record.out_of_step(item, {"log_ppl_abs_diff": gaps})
    assert (said is not None) == fails
    if said:
        assert said.startswith("FAIL: the rollout has other weights than the trainer: log_ppl_abs_diff is ")


def test_memory_is_that_of_the_fullest_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvidia_smi(tmp_path, "0, 500\\n1, 900\\n0, 800\\n1, [N/A]\\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with gpu_record.GPUMemory() as memory:
        memory.thread.join(20)
    assert [used for _, used in memory.samples] == [900, 800]
    nvidia_smi(tmp_path, "2, 500\\n3, 900\\n2, 800\\n")
    with gpu_record.GPUMemory(("2", "3")) as memory:
        memory.thread.join(20)
    assert memory.process is not None and memory.process.args[-1] == "--id=2,3"  # type: ignore[index]
    assert [used for _, used in memory.samples] == [900, 800]


# Whole runs


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_rehearsal_trains_for_real_and_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case by which the benchmark tells whether rollout and trainer have the same weights, on a random model."""
    before, out = children(), tmp_path / "results" / "cpu.json"
    rehearsed = cases(["vllm"], replace(CPU, vllm=False))
    monkeypatch.setattr(gpu, "cases", lambda items, machine: rehearsed if items == ["vllm"] else [])
    assert gpu.main(["--device", "cpu", "--items", "vllm", "--out", str(out)]) == 0
    assert children() == before
    record = json.loads(out.read_text())
    assert record["machine"]["versions"]["verl"] == "0.9.1"
    (result,) = record["items"]["vllm"].values()
    assert result["steps"] == 3 and result["step_seconds"] > 0
    assert result["response_length"] == 16, "all at their limit"
    assert max(result["log_ppl_abs_diff"]) < 1e-5
    assert record["figures"] == {"0.5B: largest log_ppl_abs_diff": max(result["log_ppl_abs_diff"])}


# A command in the place of a case's: it writes its rows as a training does, leaves a daemon, and ends or does not.
STAND_IN = """
import json, subprocess, sys, time
from pathlib import Path
name, folder = sys.argv[1], Path(sys.argv[2])
rows = folder / "runs" / "run" / "attempts" / "1" / "metrics.jsonl"
rows.parent.mkdir(parents=True)
subprocess.Popen(["sleep", "300"])
steps = 1 if name == "grpo on cpu" else 3
for step in range(steps):
    with rows.open("a") as file:
        file.write(json.dumps({"step": step + 1, "data": {"timing_s/step": 2.0}}) + "\\n")
    time.sleep(0.2)
if name != "ppo on cpu" or "ends" in sys.argv:
    sys.exit()
time.sleep(300)
"""
DRIVER = f"""
import sys
from benchmarks import gpu
ends = ["ends"] if "ends" in sys.argv else []
stand_in = {STAND_IN!r}
gpu.command = lambda case, folder: [sys.executable, "-S", "-c", stand_in, case.name, str(folder), *ends]
sys.exit(gpu.main(["--device", "cpu", "--items", "tiny", "--out", sys.argv[1], *sys.argv[2 + len(ends):]]))
"""


def driver(out: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-c", DRIVER, str(out), *arguments]


def results(out: Path) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        tiny: dict[str, Any] = json.loads(out.read_text())["items"]["tiny"]
        return tiny
    return {}


def test_a_benchmark_that_is_killed_has_lost_nothing_and_goes_on_with_the_rest(tmp_path: Path) -> None:
    out, environment = tmp_path / "record.json", {**os.environ, "PYTHONPATH": str(PROJECT_DIR)}
    killed = subprocess.Popen(driver(out), env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while results(out).get("ppo on cpu", {}).get("steps") != 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    trained = [
        process for process in psutil.Process(killed.pid).children() if "time.sleep(300)" in process.cmdline()[-3]
    ]
    assert len(trained) == 1
    killed.kill()
    killed.wait()
    psutil.wait_procs(trained, timeout=20)
    assert not trained[0].is_running(), "a run ends with the benchmark that started it"
    first = results(out)
    assert first["grpo on cpu"]["steps"] == 1 and "failed" not in first["grpo on cpu"]
    assert first["ppo on cpu"]["failed"] == gpu.BROKEN_OFF and first["ppo on cpu"]["steps"] == 3

    short = subprocess.run(driver(out, "--minutes", "0.1"), env=environment, capture_output=True, text=True, timeout=60)
    assert "tiny: ppo on cpu is missing: it takes about 60 s, of which 0 s were left" in short.stdout
    assert results(out) == first

    again = subprocess.run(driver(out, "ends"), env=environment, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert "tiny: ppo on cpu ..." in again.stdout and "tiny: grpo on cpu ..." not in again.stdout
    assert "failed" not in results(out)["ppo on cpu"]

    record = json.loads(out.read_text())
    out.write_text(json.dumps({**record, "machine": {**record["machine"], "name": "another"}}))
    other = subprocess.run(driver(out), env=environment, capture_output=True, text=True, timeout=60)
    assert other.returncode == 2 and "must be a record of this machine and its packages" in other.stderr


HANGS = """
import subprocess, sys, time
subprocess.Popen(["sleep", "300"], start_new_session=True)
time.sleep(300)
"""


def test_a_case_at_its_limit_is_ended_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (case, *_) = cases(["tiny"], CPU)
    monkeypatch.setattr(gpu, "command", lambda case, folder: [sys.executable, "-S", "-c", HANGS])
    before, started = children(), time.monotonic()
    assert gpu.run_case(case, tmp_path / "silent", 1.0)["failed"] == "ran past its limit of 1 s"
    assert time.monotonic() - started < 60
    assert children() == before
    stand_in = [sys.executable, "-S", "-c", STAND_IN, "ppo on cpu"]
    monkeypatch.setattr(gpu, "command", lambda case, folder: [*stand_in, str(folder)])
    cut = gpu.run_case(case, tmp_path / "late", 2.0)
    assert (cut["cut"], cut["step_seconds"]) == ("ended at its limit of 2 s after 3 steps", 2.0)
    assert "failed" not in cut and children() == before


def test_what_the_command_refuses_is_the_cause(tmp_path: Path) -> None:
    case = replace(cases(["tiny"], CPU)[0], overrides=("rollout.n=0", MODEL.join(("task.template=", ""))))
    result = gpu.run_case(case, tmp_path / "case", 100)
    assert result["failed"].startswith("error: task.template must be a key of the config")
