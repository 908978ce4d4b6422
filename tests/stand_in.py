"""A device that is none: tensors there hold their values on the CPU, and operations that mix them with others fail.

PyTorch's own ``meta`` device knows shapes alone. Here every operation on it is done on the CPU, so that a whole call can be
followed: what it gives, what it moves, and whether anything was made on the wrong device.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
MOVES = {"_to_copy", "copy_", "set_data"}


class There(torch.Tensor):
    """A tensor on the stand-in, with its values."""

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        made.values_here = values
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{function} ran outside of the stand-in.")


def _new_tensor(self: torch.Tensor, numbers: Any) -> torch.Tensor:
    """Numbers in lists, whose values PyTorch drops on their way to ``meta``, are brought there as a tensor."""
    return torch.tensor(numbers, dtype=self.dtype).to(self.device)


class StandIn(TorchDispatchMode):
    """While this is entered, there is a device beside the CPU. Counts its operations, and notes types of what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.dtypes: set[torch.dtype] = set()
        self._depth = 0

    def __enter__(self) -> StandIn:
        # Tensors of arrays are made on the CPU and then moved, which is seen here.
        torch._C._set_only_lift_cpu_tensors(True)
        torch.Tensor.new_tensor = _new_tensor
        self._depth += 1
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._depth -= 1
        if not self._depth:
            del torch.Tensor.new_tensor
            torch._C._set_only_lift_cpu_tensors(False)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.is_inference_mode_enabled():  # where operations come as a whole
            with self:
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        tensors = [part for part in tree_flatten((args, kwargs))[0] if isinstance(part, torch.Tensor)]
        inside = [part for part in tensors if isinstance(part, There)]
        # A number that came from Python goes with any device.
        outside = [part for part in tensors if not isinstance(part, There) and part.dim()]
        name = function.overloadpacket.__name__
        asked = kwargs.get("device")
        there = bool(inside) if asked is None else torch.device(asked) == DEVICE
        if inside and outside and name not in MOVES:
            raise RuntimeError(
                f"{name} has tensors on the device and on the CPU: {[tuple(part.shape) for part in outside]}"
            )
        if name == "_local_scalar_dense" and inside:
            self.operations["item"] += 1  # a GPU would be waited for
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        bare = tree_map(lambda part: part.values_here if isinstance(part, There) else part, (args, kwargs))
        result = function(*bare[0], **bare[1])
        if not there:
            return result
        self.operations[name] += 1
        known = {id(part.values_here): part for part in inside}  # what was changed in place stays the same tensor

        def wrap(part: Any) -> Any:
            if not isinstance(part, torch.Tensor):
                return part
            self.dtypes.add(part.dtype)
            if id(part) in known:
                return known[id(part)]
            with torch.inference_mode(False):  # wrappers have no history, and views of them must not ask for one
                return There(part)

        return tree_map(wrap, result)
