"""Read the headers of a model's safetensors files: which tensors they hold, whether they are whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def tensors(file: Path) -> dict[str, Any]:
    """Return what a safetensors file's header says of each tensor; ValueError if it is cut off or none."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= size - 8:
            raise ValueError("it is no safetensors file")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    if size != 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0):
        raise ValueError("it is cut off")
    return header


def model_parameters(folder: Path) -> int:
    """Return how many parameters a local model's safetensors files hold, 0 if there are none (or it is on the hub)."""
    return sum(math.prod(tensor["shape"]) for file in folder.glob("*.safetensors") for tensor in tensors(file).values())


def _missing_shards(folder: Path) -> list[str]:
    """Return the weight files that a model's index names but that are missing: its download was interrupted."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        shards = sorted({str(name) for name in index["weight_map"].values()})
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ["a readable model.safetensors.index.json"]
    return [name for name in shards if not (folder / name).is_file()]
