"""The folder that figures and tables go to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.errors import UserError
from experiments.store.files import write_atomically


@dataclass(frozen=True)
class OutputFolder:
    """A folder in which a file appears or is replaced as a whole, so that nobody ever opens half a figure."""

    path: Path

    def write(self, name: str, content: bytes | str) -> Path:
        """Write `content` as the file `name` and return its path; UserError if the folder can't be written to."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / name, content, durable=False)
        except OSError as error:
            raise UserError(
                f"{self.path} must be a folder that can be written to, but is not ({error.strerror}); "
                "make room or choose another with --out"
            ) from None
        return self.path / name
