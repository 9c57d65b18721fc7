"""Pretend a CUDA device: tensors say that they are on it, but their numbers are on the CPU.

Code that mixes devices, or makes a tensor on the CPU where one on the GPU is needed, fails here as it does on a GPU.
Other code computes the same numbers as on the CPU. This can't test kernels, streams, memory and speed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda", 0)
MOVES = (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda)


class Far(torch.Tensor):
    """A tensor that says it is on the device."""

    device = CUDA  # type: ignore[assignment]


class PretendCUDA(TorchFunctionMode):
    """Within this context the device exists."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        far = any(isinstance(value, Far) for value in given)
        # A tensor without dimensions may come from the CPU, as may indices.
        strangers = [value for value in given if not isinstance(value, Far) and value.dim()]
        if far and strangers and function is not torch.Tensor.__getitem__:
            raise RuntimeError(f"{function} mixes tensors on the device with tensors on the CPU")
        asked = kwargs.pop("device", None)
        if function in MOVES:
            named = [value for value in args[1:] if isinstance(value, (str, torch.device))]
            asked = asked or {torch.Tensor.cpu: "cpu", torch.Tensor.cuda: "cuda"}.get(function) or (named or [None])[0]
            rest = [value for value in args[1:] if value not in named]
            function, args = (torch.Tensor.to if rest or kwargs else torch.Tensor.clone), (args[0], *rest)
        if asked is not None:
            far = torch.device(asked).type == "cuda"
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **kwargs)
        kind = Far if far else torch.Tensor
        return tree_map_only(torch.Tensor, lambda value: _as(value, kind), result)


def _as(value: torch.Tensor, kind: type[torch.Tensor]) -> torch.Tensor:
    return value if isinstance(value, Far) == (kind is Far) else value.as_subclass(kind)


def to_device(model: torch.nn.Module) -> torch.nn.Module:
    """Put a model's parameters and buffers on the device, in place; return it."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(parameter.detach().as_subclass(Far), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.as_subclass(Far)
    return model
