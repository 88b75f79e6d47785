"""Large tensors of zeros whose memory the system gives when it is first written to."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_LARGE_BYTES = 64 * 2**20


class MappedZeros(TorchFunctionMode):
    """Within this context `torch.zeros` of 64 MB or more on the CPU writes nothing; of this thread alone.

    A KV cache is as large as the longest queue needs it. To write its zeros takes up to two seconds a gigabyte, and
    then all of it counts as used, however little is ever asked. Where the system has no such mappings, or refuses one,
    tensors are made as always.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make the tensor, or whatever else is called."""
        named = dict(kwargs or {})
        if func is torch.zeros and hasattr(mmap, "MAP_ANONYMOUS") and _is_plain_cpu(named):
            wanted = func(*args, **{**named, "device": "meta"})
            if wanted.nbytes >= _LARGE_BYTES:
                try:
                    return _mapped(wanted.shape, wanted.dtype)
                except OSError:  # no address space, or a limit on it: torch's own error tells more
                    pass
        return func(*args, **named)


def _is_plain_cpu(named: Mapping[str, Any]) -> bool:
    device = named.get("device")
    place = torch.get_default_device() if device is None else torch.device(device)
    return place.type == "cpu" and named.keys() <= {"size", "dtype", "device"}


def _mapped(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)  # which keeps them
