"""The secret of a Ray cluster that this project starts: Ray would keep one in ~/.ray, which may be read-only."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

NAME = "token"  # of the file in the cluster's temporary folder
PATH = "RAY_AUTH_TOKEN_PATH"  # where Ray reads the token
CHOSEN = ("RAY_AUTH_TOKEN", PATH)  # by which a user, or the launcher of a whole job, has chosen one


def is_chosen(environment: Mapping[str, str]) -> bool:
    """Return whether an environment says which token to use."""
    return any(environment.get(name) for name in CHOSEN)


def write_token(file: Path) -> None:
    """Write a new token that only this user can read, unless the file is there."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as out:
        out.write(secrets.token_hex(32))
