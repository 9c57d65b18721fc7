"""From veRL's checkpoint, whose weights are in shards, to an ordinary Hugging Face folder, by veRL's own merger.

Read in veRL 0.9.1: verl/model_merger/{base,fsdp}_model_merger.py. Imports torch and veRL.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers.utils import logging as transformers_logging
from verl.model_merger.base_model_merger import ModelMergerConfig
from verl.model_merger.fsdp_model_merger import FSDPModelMerger, merge_non_dtensor_shards

from experiments.errors import UserError

CONFIG = "config.json"
# veRL saves how the trainer computed attention. transformers knows no packed_sdpa, and a laptop has no flash-attn.
ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


class ExactMerger(FSDPModelMerger):
    """veRL's merger, which keeps the weights as they were saved. veRL's own rounds them to bfloat16."""

    def _load_and_merge_state_dicts(
        self, world_size: int, total_shards: int, mesh_shape: tuple[int, ...], mesh_dim_names: tuple[str, ...]
    ) -> dict[str, Any]:
        if len(mesh_shape) != 1:
            raise UserError(f"a checkpoint must be sharded in one dimension to be merged, but is in {len(mesh_shape)}")
        shards = [_load(Path(str(self.config.local_dir)), world_size, rank) for rank in range(total_shards)]
        merged = {}
        for key in sorted(shards[0]):
            parts = [shard.pop(key) for shard in shards]
            if isinstance(parts[0], DTensor):
                placement = parts[0].placements[-1]  # the first of two is the replicas', which hold the same
                merged[key] = self._merge_by_placement([part.to_local() for part in parts], placement)
            else:
                merged[key] = merge_non_dtensor_shards(key, parts)
        return merged

    def _load_rank_zero_state_dict(self, world_size: int) -> dict[str, Any]:
        return _load(Path(str(self.config.local_dir)), world_size, 0)

    def merge_and_save(self) -> None:
        """Write the folder, whose config says in what precision its weights are."""
        super().merge_and_save()
        target = Path(str(self.config.target_dir))
        _rewrite(target / CONFIG, dtype=str(saved_dtype(target)).removeprefix("torch."))


def merge(actor: Path, target: Path) -> None:
    """Write the model that the shards in `actor` make up to the empty folder `target`, with its tokenizer.

    UserError if the checkpoint lacks a file.
    """
    saved = actor / "huggingface"
    for needed in (saved / CONFIG, actor / "fsdp_config.json"):
        if not needed.is_file():
            raise UserError(f"a checkpoint must hold {needed.relative_to(actor)}, but {actor} does not; choose another")
    with tempfile.TemporaryDirectory(prefix="r1z-merge-") as scratch:
        sizes_and_tokenizer = Path(scratch) / "huggingface"
        shutil.copytree(saved, sizes_and_tokenizer)
        _rewrite(sizes_and_tokenizer / CONFIG, **dict.fromkeys(ATTENTION))
        config = ModelMergerConfig(
            operation="merge",
            backend="fsdp",
            local_dir=str(actor),
            target_dir=str(target),
            hf_model_config_path=str(sizes_and_tokenizer),
        )
        # torch and transformers warn of what veRL does here (an old name of an argument, a mesh without processes).
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):  # veRL prints what it does
            ExactMerger(config).merge_and_save()


def _load(actor: Path, ranks: int, rank: int) -> dict[str, Any]:
    """Return a rank's shard, which stays on the disk until it is read; UserError if it is missing or torn."""
    file = actor / f"model_world_size_{ranks}_rank_{rank}.pt"
    if not zipfile.is_zipfile(file):  # torch writes zip files, and only a whole one has a zip file's end
        is_so = "torn" if file.exists() else "missing"
        raise UserError(f"a checkpoint must be whole to be merged, but {file} is {is_so}; choose another step")
    return torch.load(file, map_location="cpu", weights_only=False, mmap=True)


def saved_dtype(folder: Path) -> torch.dtype:
    """Return the precision of the weights in a Hugging Face folder."""
    from safetensors import safe_open

    file = min(folder.glob("*.safetensors"))
    with safe_open(file, framework="pt") as tensors:
        return tensors.get_tensor(next(iter(tensors.keys()))).dtype


def _rewrite(file: Path, **values: Any) -> None:
    """Set these keys of a JSON file; a key whose value is None is removed."""
    content = {**json.loads(file.read_text(encoding="utf-8")), **values}
    kept = {key: value for key, value in content.items() if value is not None or key not in values}
    file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
