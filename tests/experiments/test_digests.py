"""experiments/digests.py: contents and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.digests import code_digest, files_digest, folder_digest, statements
from experiments.project import PROJECT_DIR


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights" / "sub").mkdir(parents=True)
    (tmp_path / "weights" / "config.json").write_text("{}")
    (tmp_path / "weights" / "sub" / "model.bin").write_bytes(bytes(range(256)))
    return tmp_path / "weights"


def digest(folder: Path) -> str:
    folder_digest.cache_clear()  # it remembers a folder for the life of a command
    return folder_digest(folder)


def test_the_digest_of_a_folder_never_changes(folder: Path) -> None:
    assert digest(folder) == "ceb0efdf42a7"


def test_a_digest_sees_neither_times_nor_places_nor_caches_nor_a_card(folder: Path, tmp_path: Path) -> None:
    before = digest(folder)
    os.utime(folder / "config.json", (1, 1))
    os.chmod(folder / "config.json", 0o600)
    (folder / "sub" / "__pycache__").mkdir()
    (folder / "sub" / "__pycache__" / "reward.cpython-311.pyc").write_bytes(b"compiled")
    (folder / "empty").mkdir()
    for unread in ("README.md", "metrics.json"):
        (folder / unread).write_text("the model's card")
    assert digest(folder) == before
    assert digest(Path(shutil.copytree(folder, tmp_path / "elsewhere"))) == before


def change_a_byte(folder: Path) -> None:
    (folder / "sub" / "model.bin").write_bytes(bytes(range(255)) + b"\0")


def rename(folder: Path) -> None:
    (folder / "config.json").rename(folder / "config.yaml")


def move(folder: Path) -> None:
    (folder / "sub" / "model.bin").rename(folder / "model.bin")


def add_an_empty_file(folder: Path) -> None:
    (folder / "z").touch()


def remove(folder: Path) -> None:
    (folder / "config.json").unlink()


def swap(folder: Path) -> None:
    (folder / "config.json").write_bytes(bytes(range(256)))
    (folder / "sub" / "model.bin").write_text("{}")


@pytest.mark.parametrize("change", [change_a_byte, rename, move, add_an_empty_file, remove, swap])
def test_a_digest_sees_contents_and_names(folder: Path, change: Callable[[Path], None]) -> None:
    before = digest(folder)
    change(folder)
    assert digest(folder) != before


def test_files_are_named_by_content_wherever_they_lie(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).write_text(text)
    a, b, c = (tmp_path / name for name in "abc")
    assert files_digest((a, c)) == files_digest((b, c))
    assert len({files_digest((a, c)), files_digest((c, a)), files_digest((a,))}) == 3


# Code

REWARD = '''"""What it does."""
# why
from helper import LIMIT  # more

def compute_score(text):
    """Score it."""
    return "# no comment" in text  # a comment
'''


@pytest.fixture
def reward(tmp_path: Path) -> Path:
    (tmp_path / "reward.py").write_text(REWARD)
    (tmp_path / "helper.py").write_text("def f():\n    import deep\nLIMIT = 1\n")
    (tmp_path / "deep.py").write_text("X = 1\n")
    (tmp_path / "unused.py").write_text("Y = 1\n")
    return tmp_path / "reward.py"


def code(file: Path) -> str:
    code_digest.cache_clear()
    return code_digest((file,), PROJECT_DIR)


def test_statements_are_what_is_left_without_words(reward: Path) -> None:
    assert statements(reward) == (
        'from helper import LIMIT\ndef compute_score(text):\n    return "# no comment" in text'
    )


def test_rewording_code_does_not_change_its_digest(reward: Path) -> None:
    before = code(reward)
    reward.write_text(REWARD.replace("why", "because").replace("Score it.", "Score it\n\n    well.") + "\n\n# end\n")
    assert code(reward) == before
    reward.write_text(REWARD.replace("# no comment", "# a comment"))
    assert code(reward) != before


@pytest.mark.parametrize("name, counts", [("helper.py", True), ("deep.py", True), ("unused.py", False)])
def test_what_the_code_imports_counts(reward: Path, name: str, counts: bool) -> None:
    before = code(reward)
    with open(reward.with_name(name), "a") as file:
        file.write("Z = 2\n")
    assert (code(reward) != before) == counts


def test_our_reward_s_digest_covers_its_parser_and_not_the_data_s_code(tmp_path: Path) -> None:
    package = Path("experiments/tasks/countdown")
    shutil.copytree(PROJECT_DIR / package, tmp_path / package)

    def ours() -> str:
        code_digest.cache_clear()
        return code_digest((tmp_path / package / "reward.py",), tmp_path)

    before = ours()
    with open(tmp_path / package / "hub.py", "a") as file:
        file.write("Z = 2\n")
    assert ours() == before
    with open(tmp_path / package / "equation.py", "a") as file:
        file.write("Z = 2\n")
    assert ours() != before
