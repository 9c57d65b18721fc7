"""Where an attempt's libraries keep their caches: beside the runs, since a home may be read-only, as on many clusters.

What the user has chosen stays: a variable of the cache itself, or of the folder that it lies in. The hub's cache stays
where it is: base models are only read from there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

FOLDER = ".cache"  # in the runs folder
XDG = "XDG_CACHE_HOME"
# Variable: (its place in the folder, the variables by which the user may have chosen another place).
CACHES: dict[str, tuple[str, tuple[str, ...]]] = {
    "HF_DATASETS_CACHE": ("huggingface/datasets", ("HF_HOME", XDG)),
    "HF_MODULES_CACHE": ("huggingface/modules", ("HF_HOME", XDG)),
    "HF_ASSETS_CACHE": ("huggingface/assets", ("HF_HOME", XDG)),
    "TORCH_HOME": ("torch", (XDG,)),
    "TORCH_EXTENSIONS_DIR": ("torch_extensions", (XDG,)),
    "TORCHINDUCTOR_CACHE_DIR": ("torchinductor", ()),
    "TRITON_CACHE_DIR": ("triton", ("TRITON_HOME",)),
    "CUDA_CACHE_PATH": ("cuda", ()),
    "NUMBA_CACHE_DIR": ("numba", ()),
    "VLLM_CACHE_ROOT": ("vllm", (XDG,)),
    "VLLM_CONFIG_ROOT": ("vllm/config", ("XDG_CONFIG_HOME",)),
    "FLASHINFER_WORKSPACE_BASE": ("flashinfer", ()),
    "MPLCONFIGDIR": ("matplotlib", ("XDG_CONFIG_HOME", XDG)),
    "WANDB_DATA_DIR": ("wandb/data", ()),
    "WANDB_CONFIG_DIR": ("wandb/config", ()),
}


def cache_variables(runs_dir: Path, chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that put the caches beside the runs, except where `chosen` (an environment) decides."""
    return {
        name: str(runs_dir / FOLDER / place)
        for name, (place, others) in CACHES.items()
        if not any(chosen.get(variable) for variable in (name, *others))
    }


def tell_imported() -> None:
    """Have `datasets` use this process's variables even if it was imported before they were set.

    A process from the fork server has it imported already. The library reads its variables at that moment only.
    """
    config = sys.modules.get("datasets.config")
    folder = os.environ.get("HF_DATASETS_CACHE")
    if config is None or folder is None:
        return
    downloads = Path(folder, "downloads")
    for name, value in (
        ("HF_DATASETS_CACHE", Path(folder)),
        ("DOWNLOADED_DATASETS_PATH", downloads),
        ("EXTRACTED_DATASETS_PATH", downloads / "extracted"),
    ):
        setattr(config, name, value)
