"""The README tells the truth: its commands run, its links lead somewhere, its tables name what is there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection
from importlib import metadata
from pathlib import Path

import pytest

from experiments.project import PROJECT_DIR
from experiments.store.rundir import RunDir
from tests.e2e.training import clean_environment

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
# What is a command, by the kind of it; every kind has a test below.
KINDS = {
    "run": r"python -m experiments\.run( |$)",
    "runs": r"python -m experiments\.runs ",
    "figures": r"python -m analysis\.",
    "audit": r"python -m experiments\.tasks\.countdown\.audit ",
    "benchmark": r"python -m benchmarks\.",
    "make": r"make \S",
    "pip": r"pip install ",
    "source": r"source ",
    "wandb": r"wandb ",
}


def fenced(page: Path, languages: Collection[str]) -> list[str]:
    """Return the lines of the page's blocks in these languages, without comments."""
    blocks = [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]
    lines = [line.split("  #")[0].split(" # ")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def inline(page: Path) -> list[str]:
    """Return what the page has between backticks in its sentences, tables and blocks without a language."""
    texts = [FENCE.sub("", page.read_text(encoding="utf-8")), *fenced(page, ("",))]
    return [" ".join(span.split()) for text in texts for span in re.findall(r"`([^`]+)`", text)]


def kind_of(text: str) -> str | None:
    return next((kind for kind, pattern in KINDS.items() if re.match(pattern, text)), None)


TYPED = fenced(README, ("bash",)) + [line for page in PAGES[1:] for line in fenced(page, ("bash",))]
# A README's block without a language is a command, or what one printed; so is what stands in a sentence.
COMMANDS = {*TYPED, *filter(kind_of, [*fenced(README, ("",)), *inline(README)])}
SWEEP = "python -m experiments.run -m rollout.temperature=0.6,1.0,1.2"
FIGURES = "python -m analysis.plot_ablation"


def of_kind(kind: str) -> list[str]:
    """Return the commands of a kind, the sweep that is trained for all others excepted."""
    return sorted(command for command in COMMANDS - {SWEEP} if kind_of(command) == kind)


def execute(command: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a `python ...` command of a page in a folder, with this Python."""
    arguments = [sys.executable, *shlex.split(command)[1:], *more]
    return subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, timeout=500, env=clean_environment(), check=False
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of the two commands that the project is for, as the README types it, at the size of a smoke test."""
    folder = tmp_path_factory.mktemp("trained")
    done = execute(SWEEP, folder, "experiment=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("finished") >= 3
    return folder


def test_the_main_command_trains_and_the_second_draws(trained: Path) -> None:
    assert SWEEP in TYPED and FIGURES in TYPED
    drawn = execute(FIGURES, trained)
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    figure = trained / drawn.stdout.strip().splitlines()[-1].removeprefix("figure: ")
    assert figure.name == "temperature.png" and figure.read_bytes().startswith(b"\x89PNG")
    assert figure.with_suffix(".svg").is_file()


@pytest.mark.parametrize("command", [command for command in of_kind("figures") if command != FIGURES])
def test_every_figure_is_drawn(command: str, trained: Path) -> None:
    """Of the runs that the first command trained."""
    done = execute(command, trained)
    assert done.returncode == 0, done.stdout + done.stderr
    *table, last = done.stdout.strip().splitlines()
    kind, _, name = last.partition(": ")
    drawn = (trained / name).read_bytes()
    assert (kind, drawn[:4]) == ("figure", b"\x89PNG") or (kind == "report" and b"<svg" in drawn), last
    if "rollout.temperature!=1.2" in command:
        assert not any(line.startswith("1.2 ") for line in table) and any(line.startswith("0.6 ") for line in table)


@pytest.mark.parametrize("command", of_kind("run"))
def test_every_run_command_plans_or_shows(command: str, tmp_path: Path) -> None:
    """What trains for minutes, or on GPUs, or in SLURM's jobs, is asked for its plan; what shows something shows it.

    The data of a plan for GPUs are a thousand problems: all of them would take a minute to make.
    """
    small = ["task.train_size=1000"] if "model=qwen" in command and "task.train_size" not in command else []
    done = execute(command, tmp_path, *small, *([] if "show=" in command else ["show=plan"]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert not list(tmp_path.glob("runs/*-*")), "showing must not make a run"


@pytest.mark.parametrize("command", of_kind("runs"))
def test_every_command_over_runs_does_what_it_says(command: str, tmp_path: Path) -> None:
    for name, temperature in (("temperature=0.6,seed=1-0123abcd", 0.6), ("temperature=1.2,seed=1-89abcdef", 1.2)):
        run = RunDir(tmp_path / "runs" / name)
        run.create(f"rollout:\n  temperature: {temperature}\ntrainer:\n  total_training_steps: 2\n", {"commit": "abc"})
        run.record("launched", launcher="local", steps=2)
        if temperature == 0.6:
            run.new_attempt().log.write_text("a log\n")
            run.record("started", attempt=1, host="laptop", steps=2)
            run.record("finished", attempt=1, step=2)
    done = execute(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


@pytest.fixture(scope="module")
def would_do(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Ask make what a command would do where nothing is installed yet."""
    venv = tmp_path_factory.mktemp("bare") / "venv"

    def ask(command: str) -> str:
        arguments = [*shlex.split(command), "-n", f"VENV={venv}"]
        return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    return ask


@pytest.mark.parametrize("command", of_kind("make"))
def test_every_make_target_exists_and_would_do_what_the_page_says(command: str, would_do: Callable[[str], str]) -> None:
    """`make -n` only: they install gigabytes, train for minutes, or run this very test. CI runs `make test` itself."""
    expected = {
        "make demo": [SWEEP, FIGURES],
        "make test": ["ruff check", "mypy", "pytest"],
        "make test-vllm": [".ci/vllm"],
        'make demo TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"': [
            "install -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch --no-compile\n"
        ],
    }[command]
    assert all(part.removeprefix("python ") in would_do(command) for part in expected)


@pytest.mark.parametrize("command", of_kind("pip"))
def test_what_pip_is_to_install_is_what_make_installs_or_an_extra_that_there_is(
    command: str, would_do: Callable[[str], str]
) -> None:
    """pip's own dry run of this project, without its dependencies: those of .[gpu] are gigabytes for a GPU.

    What they resolve to is asked by .ci/gpu-stack.
    """
    asked = shlex.split(command)
    for extra in re.findall(r"\[([\w,]+)\]", asked[-1]):
        assert set(extra.split(",")) <= set(metadata.metadata("r1-zero-ablations").get_all("Provides-Extra") or [])
    if "constraints.txt" in asked:
        assert " ".join(asked[1:]) in " ".join(would_do("make install").replace("'", "").split())
    if asked[-2] == "-e":
        pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--no-build-isolation"]
        done = subprocess.run([*pip, *asked[2:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "Would install r1-zero-ablations-0.1.0" in done.stdout, done.stderr


@pytest.mark.parametrize("command", of_kind("source"))
def test_a_shell_finds_the_project_s_python_afterwards(command: str) -> None:
    """The venv that runs this test stands for the one that `make` makes in .venv."""
    assert command == "source .venv/bin/activate"
    typed = f"source {shlex.quote(sys.prefix)}/bin/activate && python -m experiments.run --version"
    done = subprocess.run(["bash", "-c", typed], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Hydra" in done.stdout, done.stderr


@pytest.mark.parametrize("command", of_kind("audit"))
def test_the_audit_counts_the_article_s_problems(command: str, tmp_path: Path) -> None:
    """Of a copy of four rows: the hub's half a million would have to be fetched."""
    problems = (([1, 2, 3], 6), ([1, 1, 1], 99), ([3, 2, 1], 6), ([10, 20, 30], 60))
    rows = [{"nums": numbers, "target": target} for numbers, target in problems]
    (tmp_path / "copy.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "task.source=hub" in command
    done = execute(command, tmp_path, "task.source=copy.jsonl", "task.train_size=2", "task.test_size=2")
    assert done.returncode == 0, done.stderr
    assert "dropped: 1 without a solution, 1 test problems that are train problems" in done.stdout


@pytest.mark.parametrize("command", of_kind("benchmark"))
def test_the_benchmark_is_there(command: str) -> None:
    """Its usage only: it measures for hours, on a GPU. tests/benchmarks/test_gpu.py runs what of it needs none."""
    done = execute(command, PROJECT_DIR, "--help")  # not installed: it is found where the project is
    assert done.returncode == 0 and "--items" in done.stdout, done.stderr


@pytest.mark.parametrize("command", of_kind("wandb"))
def test_wandb_has_the_command_that_sends_offline_files(command: str) -> None:
    """Its usage only: to send something takes an account."""
    program = Path(sys.prefix) / "bin" / "wandb"
    done = subprocess.run([program, *command.split()[1:], "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "offline" in done.stdout, done.stderr


def test_no_command_is_left_out() -> None:
    """Whatever is typed is of a kind that has a test; and whatever begins like a command is one."""
    assert [line for line in TYPED if kind_of(line) is None] == []
    spans = [*fenced(README, ("", "bash")), *inline(README)]
    begun = [span for span in spans if re.match(r"(python|make|pip|source|hf|sbatch|git|\./|\.ci/)\S* \S", span)]
    assert [span for span in begun if kind_of(span) is None] == []
    for kind in KINDS:
        assert of_kind(kind), f"no command of the kind {kind} is found in the README: is it still written so?"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_groups_table_lists_every_choice() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    groups = {path for path in (ROOT / "conf").iterdir() if path.is_dir()}
    for folder in sorted(group for group in groups if group.name not in ("hydra", "local")):
        row = re.search(rf"\| `{folder.name}` \|([^|]*)\|", text)
        assert row, folder.name
        assert set(re.findall(r"`([^`]+)`", row[1])) == {file.stem for file in folder.glob("*.yaml")}
