"""The README and docs/ tell the truth: commands run and print what the pages say, and links and names exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from experiments.project import PROJECT_DIR
from experiments.store.rundir import RunDir
from tests.e2e.training import clean_environment

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CONFIG, RUNS = ROOT / "docs" / "config.md", ROOT / "docs" / "runs.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
# The commands of docs/slurm.md need a cluster: tests/slurm/test_docs.py executes them on one.
HERE = [page for page in PAGES if page.name != "slurm.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
# How a command of each kind begins; every kind has a test below.
KINDS = {
    "run": r"python -m experiments\.run( |$)",
    "trained": r"python -m experiments\.runs (evaluate|export|sample) ",
    "runs": r"python -m experiments\.runs ",
    "figures": r"python -m analysis\.",
    "audit": r"python -m experiments\.planning\.data_audit( |$)",
    "parity": r"python -m experiments\.config\.parity$",
    "benchmark": r"python -m benchmarks\.",
    "make": r"make \S",
    "pip": r"pip install ",
    "source": r"source ",
    "wandb": r"wandb ",
    "node": r"(git clone|python3\.11 -m venv|hf download|python -c) ",
}


def fenced(page: Path, languages: Collection[str]) -> list[str]:
    """Return the lines of the page's blocks in these languages, without comments."""
    blocks = [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]
    lines = [line.split("  #")[0].split(" # ")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def inline(page: Path) -> list[str]:
    """Return the texts between backticks in the page's sentences, tables and blocks without a language."""
    texts = [FENCE.sub("", page.read_text(encoding="utf-8")), *fenced(page, ("",))]
    return [" ".join(span.split()) for text in texts for span in re.findall(r"`([^`]+)`", text)]


def printed(page: Path) -> Iterator[tuple[str, str]]:
    """Yield (a command, what the page says that it prints) of the page's console blocks."""
    for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "console":
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield command, output


def hints() -> list[str]:
    """Return the commands that `make demo` prints at its end."""
    lines = re.findall(r"printf '[^']*\$\(BIN\)/(python -m [^'\\]+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    return [line.strip() for line in lines]


def kind_of(text: str) -> str | None:
    return next((kind for kind, pattern in KINDS.items() if re.match(pattern, text)), None)


PRINTED = {command: (page, output) for page in HERE for command, output in printed(page)}
TYPED = [line for page in PAGES for line in fenced(page, ("bash",))]
# A block without a language, or a text between backticks, may be a command or what a command printed.
SPANS = [span for page in HERE for span in [*fenced(page, ("",)), *inline(page)]]
COMMANDS = {*TYPED, *hints(), *filter(kind_of, SPANS)} - set(PRINTED)
SWEEP = "python -m experiments.run -m rollout.temperature=0.6,1.0,1.2"
FIGURES = "python -m analysis.plot_ablation"
# The files that a page tells its reader to write: a sentence with `name` that ends in a colon, then the file.
WRITTEN = {
    name: text
    for page in HERE
    for name, text in re.findall(
        r"`([\w/]+\.(?:py|yaml))`[^\n`]*:\n\n```\w+\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    )
}


def of_kind(kind: str) -> list[str]:
    """Return the commands of a kind, without SWEEP, which is trained once for all tests."""
    return sorted(command for command in COMMANDS - {SWEEP} if kind_of(command) == kind)


def execute(command: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a `python ...` command of a page in a folder, with this Python and, if the folder has one, its project."""
    own = {"PYTHONPATH": str(folder)} if (folder / "experiments").is_dir() else {}
    arguments = [sys.executable, *shlex.split(command)[1:], *more]
    return subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, timeout=500, env={**clean_environment(), **own}
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project with the files that the pages tell their reader to write."""
    project = tmp_path_factory.mktemp("written") / "project"
    for part in ("conf", "sweeps", "experiments", "hydra_plugins"):
        shutil.copytree(ROOT / part, project / part, ignore=shutil.ignore_patterns("__pycache__", "local"))
    for name, text in WRITTEN.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text, encoding="utf-8")
    return project


def where(command: str, folder: Path, project: Path) -> Path:
    """Return where a command is typed: in `project` if it names a file that the reader wrote, else in `folder`."""
    stems = {Path(name).stem for name in WRITTEN}
    return project if stems & set(re.split(r"[\s=,]", command)) else folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's first command, SWEEP, was run at the size of a smoke test."""
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
    """The figures are of the runs that SWEEP trained."""
    done = execute(command, trained)
    assert done.returncode == 0, done.stdout + done.stderr
    *table, last = done.stdout.strip().splitlines()
    kind, _, name = last.partition(": ")
    drawn = (trained / name).read_bytes()
    assert (kind, drawn[:4]) == ("figure", b"\x89PNG") or (kind == "report" and b"<svg" in drawn), last
    if "rollout.temperature!=1.2" in command:
        assert not any(line.startswith("1.2 ") for line in table) and any(line.startswith("0.6 ") for line in table)


@pytest.mark.parametrize("command", of_kind("run"))
def test_every_run_command_plans_or_shows(command: str, tmp_path: Path, project: Path) -> None:
    """A command that trains is only asked for its plan (show=plan), since it takes minutes, GPUs or SLURM.

    Plans for GPUs get a thousand problems here, because making the article's number would take a minute.
    """
    small = ["task.train_size=1000"] if "model=qwen" in command and "task.train_size" not in command else []
    folder = where(command, tmp_path, project)
    done = execute(command, folder, *small, *([] if "show=" in command else ["show=plan"]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert not list(folder.glob("runs/*-*")), "showing must not make a run"


def plain(text: str, recorded: bool) -> str:
    """Return a text without what differs between machines: ids, host names, blanks; `recorded`: all numbers, too."""
    text = re.sub(r"\b([0-9a-f]{12}|[0-9a-f]{8})\b", "ID", text)
    text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "laptop", text)
    if recorded:
        text = re.sub(r"\d+(\.\d+)?(e[+-]\d+)?", "N", text)
    return " ".join(text.split())


@pytest.mark.parametrize("command", sorted(PRINTED))
def test_a_command_prints_what_the_page_says(command: str, trained: Path, project: Path, tmp_path: Path) -> None:
    """The commands of docs/runs.md run on the runs that SWEEP trained; the others start in a folder without runs.

    A line "..." stands for lines that the page leaves out.
    """
    page, output = PRINTED[command]
    recorded = page == RUNS
    if recorded:
        shutil.copytree(trained / "runs", tmp_path / "runs")
    done = execute(command, where(command, tmp_path, project))
    assert done.returncode == (2 if output.startswith("error: ") else 0), done.stdout + done.stderr
    rest = plain(done.stdout + done.stderr, recorded)
    for piece in filter(str.strip, re.split(r"^\.\.\.$", output, flags=re.MULTILINE)):
        _, found, rest = rest.partition(plain(piece, recorded))
        assert found, f"{piece}\nis not in what comes after the piece before it, of\n{done.stdout}{done.stderr}"
    assert recorded or not list(tmp_path.glob("runs/*-*"))


@pytest.mark.parametrize("command", of_kind("runs"))
def test_every_command_over_runs_does_what_it_says(command: str, trained: Path, tmp_path: Path) -> None:
    """The command runs on two made-up runs, of which one waits; if it names experiment=smoke, on the trained runs."""
    if "experiment=smoke" in command:
        shutil.copytree(trained / "runs", tmp_path / "runs")
    else:
        for name, temperature in (("temperature=0.6,seed=1-0123abcd", 0.6), ("temperature=1.2,seed=1-89abcdef", 1.2)):
            run = RunDir(tmp_path / "runs" / name)
            run.create(
                f"rollout:\n  temperature: {temperature}\ntrainer:\n  total_training_steps: 2\n", {"commit": "a"}
            )
            run.record("launched", launcher="local", steps=2)
            if temperature == 0.6:
                run.new_attempt().log.write_text("a log\n")
                run.record("started", attempt=1, host="laptop", steps=2)
                run.record("finished", attempt=1, step=2)
    done = execute(command.replace("RUN", "temperature=0.6"), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert " cancel " not in command or done.stdout == "temperature=1.2,seed=1-89abcdef: cancelled\n"


def test_every_command_over_a_checkpoint_does_what_it_says(trained: Path, tmp_path: Path) -> None:
    """The commands run on the trained runs, all in one process, since importing veRL takes most of their time."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    commands = [shlex.split(command)[3:] for command in of_kind("trained")]
    code = f"from experiments.runs.__main__ import main\nprint([main(command) for command in {commands!r}])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**clean_environment(), "OMP_NUM_THREADS": "1"},  # two threads wait for each other where tests share cores
    )
    assert done.stdout.splitlines()[-1:] == [str([0] * len(commands))], done.stdout + done.stderr
    assert "pass@8" in done.stdout and (tmp_path / "my-model/model.safetensors").is_file()


@pytest.fixture(scope="module")
def would_do(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return a function that asks make what a command would do on a machine without an installation."""
    venv = tmp_path_factory.mktemp("bare") / "venv"

    def ask(command: str) -> str:
        arguments = [*shlex.split(command), "-n", f"VENV={venv}"]
        return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    return ask


@pytest.mark.parametrize("command", of_kind("make"))
def test_every_make_target_exists_and_would_do_what_the_page_says(command: str, would_do: Callable[[str], str]) -> None:
    """With `make -n` only: the targets install gigabytes, train for minutes, or run this test. CI runs `make test`."""
    expected = {
        "make demo": [SWEEP, FIGURES],
        "make test": ["ruff check", "mypy", "pytest"],
        "make study": ["sweeps=all,annealing seed=1,2,3,4,5,6,7,8", "analysis.plot_ablation", "analysis.report"],
        "make study SEEDS=1,2": ["sweeps=all,annealing seed=1,2 trainer.total_training_steps=80"],
        "make study STUDY=study/algorithms SWEEPS=algorithms SEEDS=1,2,3,4,5": [
            "sweeps=algorithms seed=1,2,3,4,5 trainer.total_training_steps=80",
            "runs_dir=study/algorithms/runs",
        ],
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
    """pip makes a dry run of this project without its dependencies, because those of .[gpu] are gigabytes.

    .ci/gpu-stack checks to which versions the dependencies resolve.
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
    """The venv that runs this test takes the place of the one that `make` makes in .venv."""
    assert command == "source .venv/bin/activate"
    typed = f"source {shlex.quote(sys.prefix)}/bin/activate && python -m experiments.run --version"
    done = subprocess.run(["bash", "-c", typed], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Hydra" in done.stdout, done.stderr


@pytest.mark.parametrize("command", of_kind("audit"))
def test_the_audit_counts_the_article_s_problems(command: str, tmp_path: Path) -> None:
    """It audits a file with four rows: the half a million rows on the hub would have to be fetched."""
    problems = (([1, 2, 3], 6), ([1, 1, 1], 99), ([3, 2, 1], 6), ([10, 20, 30], 60))
    rows = [{"nums": numbers, "target": target} for numbers, target in problems]
    (tmp_path / "copy.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "task.source=hub" in command
    done = execute(command, tmp_path, "task.source=copy.jsonl", "task.train_size=2", "task.test_size=2")
    assert done.returncode == 0, done.stderr
    assert "dropped: 1 without a solution, 1 test problems that are train problems" in done.stdout


@pytest.mark.parametrize("command", of_kind("parity"))
def test_the_parity_page_is_what_its_command_prints(command: str, tmp_path: Path) -> None:
    done = execute(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (ROOT / "docs" / "parity.md").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("command", of_kind("benchmark"))
def test_the_benchmark_is_there(command: str) -> None:
    """Only its --help is run, since it measures for minutes or hours. tests/benchmarks/ runs what can be tried here."""
    done = execute(command, PROJECT_DIR, "--help")  # benchmarks/ is not installed: it is found only in this folder
    options = {
        "gpu": "--items",
        "step": "--only",
        "shortcuts": "--rounds",
        "side_by_side": "--arms",
        "analysis": "How long the analysis takes",
    }
    assert done.returncode == 0 and options[command.split()[2].removeprefix("benchmarks.")] in done.stdout, done.stderr


@pytest.mark.parametrize("command", of_kind("wandb"))
def test_wandb_has_the_command_that_the_page_names(command: str) -> None:
    """Only its --help is run, since sending needs an account."""
    program = Path(sys.prefix) / "bin" / "wandb"
    done = subprocess.run([program, *command.split()[1:], "--help"], capture_output=True, text=True)
    says = {"sync": "offline", "login": "API key"}[command.split()[1]]
    assert done.returncode == 0 and says in done.stdout, done.stderr


@pytest.mark.parametrize("command", of_kind("node"))
def test_what_is_typed_on_a_bare_node_can_be_typed(command: str) -> None:
    """Of what fetches gigabytes or makes a venv, only the help or the version is run; `python -c` is run as it is."""
    program, *arguments = shlex.split(command.split(" && ")[0])
    name = program.split("3.")[0]
    asked = {
        "git": [name, "--version"],
        "hf": [str(Path(sys.prefix) / "bin" / name), *arguments[:1], "--help"],
        "python": [sys.executable, *(arguments if arguments[0] == "-c" else [*arguments[:2], "--help"])],
    }[name]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_no_command_is_left_out() -> None:
    """Every typed line is of a kind that has a test, and so is every text that begins like a command."""
    assert [line for line in [*TYPED, *PRINTED, *hints()] if kind_of(line) is None] == []
    spans = [*SPANS, *(line for page in HERE for line in fenced(page, ("bash",)))]
    begun = [span for span in spans if re.match(r"(python|make|pip|source|hf|sbatch|git|\./|\.ci/)\S* \S", span)]
    assert [span for span in begun if kind_of(span) is None] == []
    for kind in KINDS:
        assert of_kind(kind), f"no command of the kind {kind} is found on the pages: is it still written so?"
    assert (
        hints()
        and len(PRINTED) > 10
        and set(WRITTEN)
        == {
            "sweeps/clip.yaml",
            "sweeps/sizes.yaml",
            "sweeps/pairs.yaml",
            "conf/task/above.yaml",
            "conf/local/default.yaml",
            "above.py",
        }
    )


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [link.partition("#") for link in links if "://" not in link]
    assert [path for path, _, _ in local if not (page.parent / path).exists()] == []
    for path, _, anchor in local:
        assert not anchor or anchor in anchors(page.parent / path if path else page), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_module_that_a_page_names_is_there(page: Path) -> None:
    """Checks files and modules of this project, without the files that a reader is told to write."""
    own = "conf|sweeps|experiments|analysis|hydra_plugins|benchmarks|docs|tests"
    files = [span for span in inline(page) if re.fullmatch(rf"({own})/[\w./-]*", span)]
    assert [name for name in files if name not in WRITTEN and not (ROOT / name).exists()] == []
    modules = [
        span.replace(".", "/")
        for span in inline(page)
        if re.fullmatch(r"(experiments|analysis|benchmarks)(\.\w+)+", span)
    ]
    assert [name for name in modules if not ((ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file())] == []


def test_the_map_names_every_package_once_and_nothing_else() -> None:
    """The README's last block has one line for each folder of the project and for each package inside it."""
    blocks = [text for language, text in FENCE.findall(README.read_text(encoding="utf-8")) if not language]
    named, top = [], ""
    for line in blocks[-1].splitlines():
        indent, name, about = re.fullmatch(r"( *)([\w.]+)/ +(\S.*)", line).groups()
        top = top if indent else name
        named.append(f"{top}/{name}" if indent else name)
        assert [
            file
            for file in re.findall(r"[\w/]+\.\w+", about)
            if not ((ROOT / top / file).exists() or (ROOT / file).exists())
        ] == []
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {name.split("/")[0] for name in tracked if "/" in name and not name.startswith(".")}
    packages = {
        f"{part}/{init.parent.name}"
        for part in ("experiments", "analysis")
        for init in (ROOT / part).glob("*/__init__.py")
    }
    assert sorted(named) == sorted(folders | packages)


def test_the_groups_table_lists_every_choice() -> None:
    text = CONFIG.read_text(encoding="utf-8")
    groups = {path for path in (ROOT / "conf").iterdir() if path.is_dir()}
    for folder in sorted(group for group in groups if group.name not in ("hydra", "local")):
        row = re.search(rf"\| `{folder.name}` \|([^|]*)\|", text)
        assert row, folder.name
        assert set(re.findall(r"`([^`]+)`", row[1])) == {file.stem for file in folder.glob("*.yaml")}
