"""The folder that figures and tables go to."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from experiments.errors import UserError


@dataclass(frozen=True)
class OutputFolder:
    """A folder whose files are replaced whole: a reader never sees half a figure."""

    path: Path

    def write(self, name: str, content: bytes | str) -> Path:
        """Write `content` as the file `name` and return its path; UserError if the folder can't be written to."""
        data = content.encode() if isinstance(content, str) else content
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                os.chmod(temporary, 0o644)
                os.replace(temporary, self.path / name)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            raise UserError(
                f"{self.path} must be a folder that can be written to, but is not ({error.strerror}); "
                "make room or choose another with --out"
            ) from None
        return self.path / name
