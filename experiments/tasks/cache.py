"""A cache of folders named after what determines their content."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.errors import UserError

STALE_AFTER = 24 * 3600.0  # seconds after which the scratch folder of a killed builder is removed


def cached(
    cache_dir: Path, name: str, identity: dict[str, Any], build: Callable[[Path], dict[str, Any]]
) -> tuple[Path, str, dict[str, Any]]:
    """Return the folder whose content `identity` determines; build it if the cache has none, or a damaged one.

    `build` writes into a scratch folder, which is then renamed. So the folder is there whole or not at all. If several
    processes build it at once, the first one wins. meta.json in it holds the identity, the notes and the sha256 of
    every file.

    Args:
        cache_dir: made if missing; the folder is `cache_dir/<name>-<12 characters of the digest>`.
        identity: all that determines the content, as JSON.
        build: writes files into the folder it is given and returns notes about them, as JSON.

    Returns:
        the folder, the sha256 of `identity`, and the notes that `build` returned when the folder was built.

    Raises:
        UserError: `cache_dir` cannot be written; or whatever `build` raises.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = cache_dir / f"{name}-{digest[:12]}"
    notes = _notes(folder, digest)
    if notes is not None:
        return folder, digest, notes
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _remove_stale(cache_dir, name)
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache_dir))
        try:
            notes = build(scratch)
            files = {path.name: _sha256(path) for path in sorted(scratch.iterdir())}
            meta = {"digest": digest, "identity": identity, "notes": notes, "files": files}
            (scratch / "meta.json").write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            scratch.chmod(0o755)  # mkdtemp's folders are for one user only
            _put(scratch, folder, digest)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"the data cache {cache_dir} must be a writable folder with free space, but writing to it gives "
            f"'{error.strerror or error}'; make room or set another folder"
        ) from error
    return folder, digest, notes


def _put(scratch: Path, folder: Path, digest: str) -> None:
    """Rename `scratch` to `folder`, unless another process has put a whole folder there; remove a damaged one."""
    while True:
        try:
            os.rename(scratch, folder)
            return
        except OSError:
            if not folder.is_dir():
                raise
        if _notes(folder, digest) is not None:
            return
        aside = Path(tempfile.mkdtemp(prefix=scratch.name, dir=folder.parent))
        with contextlib.suppress(FileNotFoundError):  # a concurrent builder has just moved it
            os.rename(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)


def _notes(folder: Path, digest: str) -> dict[str, Any] | None:
    """Return the notes in the folder's meta.json; None if it, or a file that it names, is missing or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        whole = meta["digest"] == digest and all(
            _sha256(folder / name) == expected for name, expected in meta["files"].items()
        )
        notes = meta["notes"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return notes if whole and isinstance(notes, dict) else None


def _remove_stale(cache_dir: Path, name: str) -> None:
    for scratch in cache_dir.glob(f".{name}-*"):
        with contextlib.suppress(OSError):
            if time.time() - scratch.stat().st_mtime > STALE_AFTER:
                shutil.rmtree(scratch, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
