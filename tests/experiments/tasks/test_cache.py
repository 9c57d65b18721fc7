"""Test what the cache promises for any content; test_dataset.py damages, kills and races it with the real data."""

from pathlib import Path
from typing import Any

from experiments.tasks.cache import cached


def test_of_two_builders_the_first_one_s_folder_stays(tmp_path: Path) -> None:
    """Another process may already be reading that folder."""
    folders: list[tuple[Path, int]] = []

    def quick(scratch: Path) -> dict[str, Any]:
        (scratch / "data").write_text("content")
        return {"builder": "quick"}

    def slow(scratch: Path) -> dict[str, Any]:
        folder, _, _ = cached(tmp_path, "thing", {"size": 1}, quick)  # as if by another process, while this one builds
        folders.append((folder, folder.stat().st_ino))
        (scratch / "data").write_text("content")
        return {"builder": "slow"}

    folder, _, _ = cached(tmp_path, "thing", {"size": 1}, slow)
    assert folders == [(folder, folder.stat().st_ino)]
    assert list(tmp_path.iterdir()) == [folder]
    assert cached(tmp_path, "thing", {"size": 1}, slow)[2] == {"builder": "quick"}
