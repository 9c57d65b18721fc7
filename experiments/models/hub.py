"""Find a model by its name on the Hugging Face hub: where its files lie, which revision they are; fetch them.

A run's identity covers the content of its base model. So a launch needs a revision, and its attempts load that
revision, even if the hub's main branch has changed since.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from experiments.errors import UserError

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_SNAPSHOT = re.compile(r"models--(?P<name>.+)/snapshots/(?P<revision>[0-9a-f]{40})")


def find(path: str) -> Path | None:
    """Return the folder of model.path: itself, or the hub cache's newest snapshot of that name; None if neither is."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if path.startswith(("/", ".", "~")) or path.count("/") != 1:
        return None
    cached = cache() / f"models--{path.replace('/', '--')}"
    try:
        revision = (cached / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    snapshot = cached / "snapshots" / revision
    return snapshot if snapshot.is_dir() else None


def cache() -> Path:
    """Return the folder in which huggingface_hub keeps what it has fetched."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def name_and_revision(folder: Path) -> str | None:
    """Return owner/name@commit, which fixes the content, of a snapshot in a hub cache; None for another folder."""
    found = _SNAPSHOT.fullmatch("/".join(folder.parts[-3:]))
    return f"{found['name'].replace('--', '/', 1)}@{found['revision']}" if found else None


def problems(path: str) -> list[str]:
    """Return a problem if a name on the hub is not in the cache and can't be fetched."""
    if path.count("/") != 1:
        return [f"model.path must be a folder or a name on the hub (owner/name), but is {path!r}; check the path"]
    offline = [name for name in OFFLINE if _on(os.environ.get(name))]
    if find(path) is None and offline:
        return [
            f"model.path must be in the hub cache while {offline[0]} is set, but {cache()} has no {path}; "
            f"run `hf download {path}` where there is a network (a gated model: after `hf auth login`), "
            f"or unset {offline[0]}"
        ]
    return []


def fetch(path: str) -> None:
    """Fetch a model on the hub into the cache; UserError, which says why, if that fails."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    print(f"{path}: fetching it from the hub into {cache()}", file=sys.stderr)
    remedy = f"run `hf download {path}` where there is a network, or set model.path to a folder"
    try:
        snapshot_download(path, cache_dir=cache())
        if find(path) is not None:
            return
        reason = "the download ended without its files in the cache"
    except GatedRepoError:
        reason, remedy = "it is gated", "ask for access on its page, then run `hf auth login`"
    except RepositoryNotFoundError:
        reason = "the hub has no such model, or it is private"
        remedy = "check the name; if it is private, run `hf auth login`"
    except Exception as error:  # the network and the client's libraries raise many kinds
        cause = error.__cause__ or error  # the client wraps the cause in advice to check the connection
        reason = str(cause).strip().split("\n")[0] or type(cause).__name__
    raise UserError(f"model.path must be fetched before a launch, but {path}: {reason}; {remedy}")


def _on(value: str | None) -> bool:
    return (value or "").upper() in ("1", "ON", "YES", "TRUE")
